"""Both sides' word for a sealed disk: makes this agent's statements, checks the peer's. Thin over security.attest."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

import msgspec

from coriolis.clock import Clock, SystemClock, wire_time
from coriolis.errors import Corrupt, Denied
from coriolis.rpc.tls import read_pem
from coriolis.rpc.tls_files import TlsFiles
from coriolis.transfer.attestation import DEPLOYED, SINK, SOURCE, Proof, Signed, Statement, check_same_pass
from coriolis.transfer.digest_tree import Subject, leaf_digests, tree_root
from coriolis.transfer.table import CellState, CellTable

if TYPE_CHECKING:
    from coriolis.security.attest import Anchors, Signer

_SYSTEM_CLOCK = SystemClock()


class DiskPass(msgspec.Struct, frozen=True):
    """One disk in one attempt of one pass, as both sides name it."""

    transfer_id: str
    disk_id: str
    pass_number: int
    generation: int
    size_bytes: int
    snapshot_identity: str


class Notary:
    """``peer``: the identity of the agent on the other side; empty where there is none.

    Keys are read for each signature, so a renewed certificate needs no restart. cryptography takes 70 ms to import:
    ``warm_up`` does so while disks move.
    """

    def __init__(self, tls: TlsFiles, peer: str = "", clock: Clock = _SYSTEM_CLOCK) -> None:
        self._tls, self._peer, self._clock = tls, peer, clock
        self._warming: asyncio.Task[None] | None = None

    def warm_up(self) -> None:
        if self._warming is None:
            self._warming = asyncio.create_task(asyncio.to_thread(_import))

    async def attest_pass(self, disk: DiskPass, table: CellTable) -> Signed:
        """The source's statement of what it sent in a pass."""
        return await asyncio.to_thread(self._attest_pass, disk, table)

    def _attest_pass(self, disk: DiskPass, table: CellTable) -> Signed:
        signer = self._signer()
        counts = table.count(CellState.DATA), table.count(CellState.ZERO)
        root = _root(disk, "pass", table)
        return signer.sign(
            Statement(SOURCE, str(signer.identity), self._now(), *_members(disk), root, counts[0], counts[1])
        )

    async def countersign(
        self, disk: DiskPass, source: Signed, peer_certificate: bytes, sent: CellTable, whole: CellTable
    ) -> tuple[Proof, list[bytes]]:
        """The sink's word added to the source's, and the leaves of the whole disk.

        Raises Denied unless ``source`` comes from the peer that showed ``peer_certificate`` in TLS and is the one
        assigned, Corrupt unless it says of the pass what this side wrote.
        """
        return await asyncio.to_thread(self._countersign, disk, source, peer_certificate, sent, whole)

    def _countersign(
        self, disk: DiskPass, source: Signed, peer_certificate: bytes, sent: CellTable, whole: CellTable
    ) -> tuple[Proof, list[bytes]]:
        from coriolis.security.attest import same_key

        theirs = self._check_peer(source)
        if not same_key(source, peer_certificate):
            raise Denied("the source signed with another key than it shows in TLS")
        leaves = leaf_digests(whole)
        signer = self._signer()
        ours = Statement(
            SINK,
            str(signer.identity),
            self._now(),
            *_members(disk),
            _root(disk, "pass", sent),
            whole.count(CellState.DATA),
            whole.count(CellState.ZERO),
            tree_root(_subject(disk, "disk"), leaves).hex(),
        )
        check_same_pass(theirs, ours)
        return Proof(source, signer.sign(ours)), leaves

    async def check_countersigned(self, proof: Proof, table: CellTable) -> None:
        """The source's look at the sink's word. ``table``: what was sent in this pass. Raises Corrupt, Denied."""
        await asyncio.to_thread(self._check_countersigned, proof, table)

    def _check_countersigned(self, proof: Proof, table: CellTable) -> None:
        from coriolis.transfer.attestation import agreed

        self._check_peer(proof.sink)
        sink = agreed(proof).sink
        # a first pass is the whole disk; what a later one was laid over only the sink knows
        if sink.pass_number == 1 and tree_root(sink.subject("disk"), leaf_digests(table)).hex() != sink.root:
            raise Corrupt("the sink attests another disk than the one that was sent")

    async def attest_deployed(self, sealed: Proof, table: CellTable) -> tuple[Proof, list[bytes]]:
        """This agent's word for a disk that conversion changed after it was sealed, and the leaves."""
        return await asyncio.to_thread(self._attest_deployed, sealed, table)

    def _attest_deployed(self, sealed: Proof, table: CellTable) -> tuple[Proof, list[bytes]]:
        before = self._anchors().check_proof(Proof(sealed.source, sealed.sink)).sink
        signer = self._signer()
        changed = msgspec.structs.replace(
            before,
            role=DEPLOYED,
            signer=str(signer.identity),
            at=self._now(),
            data_cells=table.count(CellState.DATA),
            zero_cells=table.count(CellState.ZERO),
            sealed_root=before.root,
        )
        leaves = leaf_digests(table)
        root = tree_root(changed.subject(DEPLOYED), leaves).hex()
        return Proof(sealed.source, sealed.sink, signer.sign(msgspec.structs.replace(changed, root=root))), leaves

    async def check_proof(self, proof: Proof) -> None:
        """Raises Corrupt or Denied unless all its signatures lead to this mesh's CA and agree."""
        await asyncio.to_thread(lambda: self._anchors().check_proof(proof))

    def _check_peer(self, signed: Signed) -> Statement:
        theirs = self._anchors().check(signed, self._clock.now())
        if theirs.signer != self._peer:
            raise Denied(f"{theirs.signer} signed, this disk was assigned to {self._peer}")
        return theirs

    def _signer(self) -> Signer:
        from coriolis.security.attest import Signer

        return Signer(self._tls)

    def _anchors(self) -> Anchors:
        from coriolis.security.attest import Anchors

        return Anchors(read_pem(self._tls.ca))

    def _now(self) -> str:
        return wire_time(self._clock.now())


def _import() -> None:
    importlib.import_module("coriolis.security.attest")


def _members(disk: DiskPass) -> tuple[str, str, int, int, int, str]:
    return (
        disk.transfer_id,
        disk.disk_id,
        disk.pass_number,
        disk.generation,
        disk.size_bytes,
        disk.snapshot_identity,
    )


def _subject(disk: DiskPass, covers: str) -> Subject:
    return Subject(covers, disk.transfer_id, disk.disk_id, disk.size_bytes, disk.pass_number, disk.snapshot_identity)


def _root(disk: DiskPass, covers: str, table: CellTable) -> str:
    return tree_root(_subject(disk, covers), leaf_digests(table)).hex()
