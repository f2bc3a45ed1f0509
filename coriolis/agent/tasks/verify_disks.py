"""VERIFY_DISKS: re-read finished volumes, whole or sampled, and compare cells with the manifest kept by this agent.

Of a converted disk with its deployed manifest, else with the sealed one. What is compared with is checked first: the
table against its root, the root against the signatures, and these against what the job itself has kept.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from coriolis.agent.assignment import TaskContext
from coriolis.agent.manifest_update import deployed_path, differing_cells
from coriolis.agent.notary import Notary
from coriolis.agent.replicate_sink import manifest_paths
from coriolis.agent.tasks.endpoint import open_endpoint, volumes_of
from coriolis.errors import Corrupt, NotFound
from coriolis.transfer.attestation import Proof, unpack_proofs
from coriolis.transfer.cells import CELL_BYTES, cell_length
from coriolis.transfer.manifest import ManifestHead, decode_manifest
from coriolis.transfer.sample import parse_sample, sample_cells
from coriolis.transfer.table import CellTable

MAX_LISTED_CELLS = 100


class HowMuch(msgspec.Struct, frozen=True):
    """``sample`` empty: every cell."""

    sample: str = ""
    seed: int = 0

    def cells(self, table: CellTable) -> list[int] | range:
        if not self.sample:
            return range(table.cells)
        return sample_cells(table.cells, parse_sample(self.sample), self.seed)


async def run(context: TaskContext) -> dict[str, Any]:
    """``verified``: per disk, bytes checked and differing. A machine that has run since differs, and should."""
    work = context.assignment
    paths = manifest_paths(context, work.migration_id)
    how_much = msgspec.convert(work.results.get("verification", {}), HowMuch)
    notary = Notary(context.workplace.tls)
    sealed, deployed = (unpack_proofs(work.results.get(name)) for name in ("proofs", "deployed"))
    kept = {disk_id: found.proof for disk_id, found in (sealed | deployed).items()}
    verified = []
    async with open_endpoint(context) as connection:
        target = volumes_of(connection, work.provider)
        for disk in work.spec().devices.disks:
            head, table = await asyncio.to_thread(_read, paths[disk.id], disk.id)
            await check_head(head, notary, kept.get(disk.id))
            chosen = how_much.cells(table)
            async with target.open_writer(work.volumes()[disk.id].id) as volume:
                cells = await differing_cells(table, volume, chosen)
            verified.append(report(disk.id, head, table, chosen, cells))
    return {"verified": verified}


def _read(sealed: Path, disk_id: str) -> tuple[ManifestHead, CellTable]:
    for path in (deployed_path(sealed), sealed):
        try:
            return decode_manifest(path.read_bytes())
        except FileNotFoundError:
            continue
    raise NotFound(f"the manifest of disk {disk_id} is not on this agent")


async def check_head(head: ManifestHead, notary: Notary, kept: Proof | None) -> None:
    """Raises Corrupt or Denied for a manifest that was changed after it was signed, or exchanged."""
    if head.proof is not None:
        await notary.check_proof(head.proof)
    if kept is not None and head.proof != kept:
        raise Corrupt(f"the manifest of disk {head.disk_id} on this agent is not the one that the job has recorded")


def report(
    disk_id: str, head: ManifestHead, table: CellTable, chosen: list[int] | range, differing: list[int]
) -> dict[str, Any]:
    """A ``VerifiedDisk`` of job.proto without its instance; at most 100 differing cells are listed."""
    statement = None if head.proof is None else (head.proof.deployed or head.proof.sink).statement
    return {
        "disk_id": disk_id,
        "size_bytes": table.size_bytes,
        "cells": table.cells,
        "checked_cells": len(chosen),
        "checked_bytes": sum(cell_length(cell, table.size_bytes) for cell in chosen),
        "differing_bytes": sum(cell_length(cell, table.size_bytes) for cell in differing),
        "differing_cell_count": len(differing),
        "differing_cells": differing[:MAX_LISTED_CELLS],
        "first_difference": differing[0] * CELL_BYTES if differing else 0,
        "root": "" if statement is None else msgspec.json.decode(statement)["root"],
        "message": "" if not differing else "if the machine has been started, changes are to be expected",
    }
