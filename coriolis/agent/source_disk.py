"""One disk at the source: plans the pass, skips what is proved to be there, pushes the rest, seals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import TypeVar

import grpc
import msgspec
import structlog

from coriolis.agent.cell_digests import read_digests
from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.lanes.grpc_lane import ACKS_METHOD
from coriolis.agent.lanes.hosts import SourceHosts
from coriolis.agent.lanes.messages import AttachDisk
from coriolis.agent.notary import DiskPass, Notary
from coriolis.agent.push_disk import Limits, Offer, PushDisk, Route
from coriolis.agent.signed_message import read_signed, signed_message
from coriolis.errors import Corrupt
from coriolis.providers.base import BlockReader, span_of
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2_grpc
from coriolis.rpc.status import to_error
from coriolis.transfer.attestation import Proof
from coriolis.transfer.cells import (
    CELL_BYTES,
    Run,
    cell_length,
    holds_cell,
    intersect_runs,
    merge_runs,
    subtract_runs,
)
from coriolis.transfer.journal import Opening
from coriolis.transfer.pace import Pace
from coriolis.transfer.run_map import unpack_runs
from coriolis.transfer.sender import Plan, Sender
from coriolis.transfer.table import CellState, CellTable

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

COMPARE_BATCH_CELLS = 64
ROUND_TRIPS = 3
CERTAIN_S = 0.01
"""A path on which two calls took longer need not be measured again. One does not tell: the connection's first call has
been seen to take 18 ms on loopback, where the processes were still starting."""
CALL_TIMEOUT_S = 600.0
"""One comparison or seal may read and flush a lot; a stalled sink is found by the lanes."""


class DiskPlan(msgspec.Struct, frozen=True):
    """What a pass covers. ``compare``: let the sink say which cells differ before anything is sent."""

    plan: Plan
    compare: bool = False


class PassDisk(msgspec.Struct, frozen=True):
    """Identifies one disk in one attempt of one pass."""

    transfer_id: str
    disk_id: str
    generation: int
    pass_number: int
    size_bytes: int
    snapshot_identity: str


class Wiring(msgspec.Struct, frozen=True):
    """What a disk needs of its task. ``choose_route`` gets what the sink offers and what measures the round trip in
    seconds."""

    open_control: Callable[[], grpc.aio.Channel]
    hosts: SourceHosts
    choose_route: Callable[[Offer, Awaitable[float]], Awaitable[Route]]
    limits: Limits
    pace: Pace
    notary: Notary


class SourceDisk:
    """Sends one disk; ``sender`` tells how far it is, ``push`` how."""

    def __init__(self, what: PassDisk, reader: BlockReader, journal: DiskJournal, wiring: Wiring) -> None:
        self.what = what
        self.sealed = False
        self.manifest_digest = b""
        self.proof: Proof | None = None
        self.sender: Sender | None = None
        self.push: PushDisk | None = None
        self.route: Route | None = None
        self._reader = reader
        self._journal = journal
        self._wiring = wiring
        self._durable: list[Run] = []

    async def send(self, disk_plan: DiskPlan) -> None:
        """Return when the pass is sealed. Raises TimedOut after 60 s without an ack, Corrupt, StaleGeneration."""
        async with self._wiring.open_control() as control:
            stub = transfer_pb2_grpc.TransferServiceStub(control)
            opened = await self._open(stub)
            if opened.window_bytes < CELL_BYTES:
                raise Corrupt(f"the sink offers a window of {opened.window_bytes} bytes, which fits no cell")
            table = self._open_journal()
            sender = Sender(
                self.what.size_bytes,
                disk_plan.plan,
                self.what.generation,
                window_bytes=opened.window_bytes,
                span_bytes=span_of(self._reader),
            )
            self.sender = sender
            await self._skip_known(stub, sender, table, opened, disk_plan)
            if not sender.exhausted:
                offer = Offer(opened.direct_port, tuple(opened.lane_ports))
                self.route = await self._wiring.choose_route(offer, self._round_trip_s(stub))
                await self._push_all(control, sender, self.route)
            await self._seal(stub, sender)

    async def _open(self, stub: transfer_pb2_grpc.TransferServiceAsyncStub) -> pb.OpenDiskResponse:
        request = pb.OpenDiskRequest(
            transfer_id=self.what.transfer_id,
            disk_id=self.what.disk_id,
            generation=self.what.generation,
            pass_number=self.what.pass_number,
            size_bytes=self.what.size_bytes,
            snapshot_identity=self.what.snapshot_identity,
            cell_bytes=CELL_BYTES,
        )
        return await _call(stub.OpenDisk(request, timeout=CALL_TIMEOUT_S))

    def _open_journal(self) -> CellTable:
        what = self.what
        return self._journal.open_attempt(
            Opening(
                what.transfer_id,
                what.disk_id,
                what.size_bytes,
                what.generation,
                what.pass_number,
                what.snapshot_identity,
            )
        )

    # -- what need not be sent ----------------------------------------------------------------------------------

    async def _skip_known(
        self,
        stub: transfer_pb2_grpc.TransferServiceAsyncStub,
        sender: Sender,
        ours: CellTable,
        opened: pb.OpenDiskResponse,
        disk_plan: DiskPlan,
    ) -> None:
        """Durable there and recorded here: skip. Known on one side only, or nothing known for sure: compare."""
        cells = ours.cells
        # what a sink says is only ever used to narrow the plan
        theirs = unpack_runs(opened.durable_map, cells)
        written = unpack_runs(opened.written_map, cells)
        mine = ours.known_runs()
        both = intersect_runs(mine, theirs)
        sender.skip(ours, both)
        planned = merge_runs([*disk_plan.plan.data, *disk_plan.plan.zero])
        if disk_plan.compare or opened.compare_first:
            doubtful = planned
        else:
            doubtful = intersect_runs(planned, merge_runs([*mine, *theirs, *written]))
        doubtful = subtract_runs(doubtful, both)
        zero = merge_runs(disk_plan.plan.zero)
        # scattered cells share a call, or 200,000 extents would cost as many round trips
        each = (cell for run in doubtful for cell in range(run.first, run.end))
        asked: asyncio.Task[None] | None = None
        try:
            while batch := list(islice(each, COMPARE_BATCH_CELLS)):
                digests = await self._digests(sender, batch, zero)
                if asked is not None:
                    await asked
                asked = asyncio.create_task(self._compare(stub, sender, digests))  # the sink reads while we do
            if asked is not None:
                await asked
        finally:
            if asked is not None:
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)

    async def _digests(self, sender: Sender, cells: Sequence[int], zero: Sequence[Run]) -> dict[int, bytes]:
        """What the snapshot holds; cells that are zero by the plan are not read."""
        size = self.what.size_bytes
        digests = dict.fromkeys(cells, b"")
        doubtful = [cell for cell in cells if not holds_cell(zero, cell)]
        async for cell, digest in read_digests(self._reader, doubtful, size):
            sender.stats.read_bytes += cell_length(cell, size)
            digests[cell] = digest
        return digests

    async def _compare(
        self, stub: transfer_pb2_grpc.TransferServiceAsyncStub, sender: Sender, digests: dict[int, bytes]
    ) -> None:
        request = pb.CompareCellsRequest(
            disk_id=self.what.disk_id,
            generation=self.what.generation,
            cells=[pb.CellDigest(cell=cell, digest=digest) for cell, digest in digests.items()],
        )
        answer = await _call(stub.CompareCells(request, timeout=CALL_TIMEOUT_S))
        equal = CellTable(self.what.size_bytes)
        same = digests.keys() - set(answer.differing)
        for cell in same:
            if digests[cell]:
                equal.set_data(cell, digests[cell])
            else:
                equal.set_zero(Run(cell, 1))
        sender.skip(equal, merge_runs(Run(cell, 1) for cell in same))

    async def _round_trip_s(self, stub: transfer_pb2_grpc.TransferServiceAsyncStub) -> float:
        """The quickest of some calls that ask for nothing: a path's round trip and a millisecond or two."""
        request = pb.CompareCellsRequest(disk_id=self.what.disk_id, generation=self.what.generation)
        best = float("inf")
        for call in range(ROUND_TRIPS):
            began = time.monotonic()
            await _call(stub.CompareCells(request, timeout=CALL_TIMEOUT_S))
            best = min(best, time.monotonic() - began)
            if call and best > CERTAIN_S:
                break
        return best

    # -- sending ------------------------------------------------------------------------------------------------

    async def _push_all(self, control: grpc.aio.Channel, sender: Sender, route: Route) -> None:
        what, wiring = self.what, self._wiring
        links = await wiring.hosts.links_for(AttachDisk(what.disk_id, what.size_bytes, what.generation), self._reader)
        acks = control.unary_stream(ACKS_METHOD, pb.AcksRequest.SerializeToString, None)
        request = pb.AcksRequest(disk_id=what.disk_id, generation=what.generation)
        self.push = PushDisk(
            what.disk_id,
            sender,
            links,
            route,
            wiring.limits,
            lambda: acks(request),
            wiring.pace,
            self._durable.extend,
            None if span_of(self._reader) is None else self._come_near,
        )
        async with asyncio.TaskGroup() as group:
            record = group.create_task(self._record_durable(sender))
            await self.push.run()
            record.cancel()

    async def _come_near(self, offset: int) -> None:
        await self._reader.read_at(offset, 1)

    async def _record_durable(self, sender: Sender) -> None:
        """Journal durable runs once a second: losing the last second only means comparing those cells."""
        while True:
            await asyncio.sleep(1)
            runs = merge_runs(self._durable)
            self._durable.clear()
            known = [run for run in runs if CellState.UNKNOWN not in sender.sent.get_run(run)[0]]
            await asyncio.to_thread(self._journal.append_ranges, sender.sent, known)

    async def _seal(self, stub: transfer_pb2_grpc.TransferServiceAsyncStub, sender: Sender) -> None:
        data_cells, zero_cells, aggregate = sender.seal_counts()
        what, notary = self.what, self._wiring.notary
        named = DiskPass(
            what.transfer_id,
            what.disk_id,
            what.pass_number,
            what.generation,
            what.size_bytes,
            what.snapshot_identity,
        )
        ours = await notary.attest_pass(named, sender.sent)
        request = pb.SealDiskRequest(
            disk_id=what.disk_id,
            generation=what.generation,
            data_cells=data_cells,
            zero_cells=zero_cells,
            aggregate_digest=aggregate,
            source=signed_message(ours),
        )
        answer = await _call(stub.SealDisk(request, timeout=CALL_TIMEOUT_S))
        self.proof = Proof(ours, read_signed(answer.sink))
        await notary.check_countersigned(self.proof, sender.sent)
        await asyncio.to_thread(self._journal.append_ranges, sender.sent, sender.sent.known_runs())
        self.manifest_digest = answer.manifest_digest
        self.sealed = True


async def _call(call: Awaitable[Answer]) -> Answer:
    """The answer of a unary call, or our error."""
    try:
        return await call
    except grpc.aio.AioRpcError as failed:
        raise to_error(failed) from failed
