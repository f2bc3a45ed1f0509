"""Manifests of sealed disks as callers see them, from what the tasks of a run left as results. Checks no signature."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import structlog

from coriolis.errors import Conflict, Corrupt, NotFound
from coriolis.model.job import InstanceRun
from coriolis.rpc.gen.coriolis.v1 import job_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import types_pb2
from coriolis.transfer.attestation import DiskProof, Statement, agreed, unpack_proofs

log = structlog.get_logger(__name__)


def list_manifests(runs: Iterable[InstanceRun]) -> list[pb.Manifest]:
    """One for each disk whose last pass is sealed, without statements and leaves."""
    found = []
    for manifest in _all(runs):
        manifest.ClearField("statements")
        manifest.ClearField("leaves")
        if manifest.HasField("deployed"):
            manifest.deployed.ClearField("leaves")
        found.append(manifest)
    return found


def find_manifest(runs: Iterable[InstanceRun], disk_id: str, instance: str) -> pb.Manifest:
    """With statements and leaves. NotFound; Conflict when ``instance`` is needed to tell two disks apart."""
    found = [one for one in _all(runs) if one.disk_id == disk_id and instance in ("", one.instance)]
    if not found:
        raise NotFound(f'Manifest of disk "{disk_id[:64]}" not found.')
    if len(found) > 1:
        raise Conflict(f"{len(found)} machines have a disk {disk_id[:64]}; name the instance too")
    return found[0]


def _all(runs: Iterable[InstanceRun]) -> Iterator[pb.Manifest]:
    for run in runs:
        try:
            yield from _of_run(run.instance, run.results)
        except Corrupt as broken:
            log.error("a manifest is unreadable", migration=run.migration_id, instance=run.instance, why=str(broken))


def _of_run(instance: str, results: Mapping[str, Any]) -> list[pb.Manifest]:
    sealed, deployed = unpack_proofs(results.get("proofs")), unpack_proofs(results.get("deployed"))
    return [_manifest(instance, disk_id, found, deployed.get(disk_id)) for disk_id, found in sealed.items()]


def _manifest(instance: str, disk_id: str, found: DiskProof, after: DiskProof | None) -> pb.Manifest:
    proof = found.proof if after is None else after.proof
    said = agreed(proof)
    manifest = pb.Manifest(
        instance=instance,
        disk_id=disk_id,
        size_bytes=said.sink.size_bytes,
        pass_number=said.sink.pass_number,
        generation=said.sink.generation,
        snapshot_identity=said.sink.snapshot_identity,
        data_cells=said.sink.data_cells,
        zero_cells=said.sink.zero_cells,
        pass_root=said.sink.pass_root,
        root=said.sink.root,
        sealed_at=said.sink.at,
        signers=[said.source.signer, said.sink.signer],
        statements=[
            types_pb2.SignedStatement(
                statement=one.statement, signature=base64.b64decode(one.signature), certificate=one.certificate
            )
            for one in proof.parts()
        ],
        leaves=found.leaves,
    )
    if said.deployed is not None:
        manifest.deployed.CopyFrom(_deployed(said.deployed, after))
    return manifest


def _deployed(said: Statement, after: DiskProof | None) -> pb.DeployedManifest:
    return pb.DeployedManifest(
        root=said.root,
        deployed_at=said.at,
        signer=said.signer,
        data_cells=said.data_cells,
        zero_cells=said.zero_cells,
        leaves=None if after is None else after.leaves,
    )
