"""One disk at the source: plans the pass, skips what is proved to be there, pushes the rest over several lanes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
import msgspec
import structlog

from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.listener import DISK_KEY, GENERATION_KEY, PUSH_METHOD
from coriolis.agent.pacing import pass_pace
from coriolis.errors import CoriolisError, Corrupt, TimedOut, Unavailable
from coriolis.providers.base import BlockReader
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2_grpc
from coriolis.rpc.status import to_error
from coriolis.transfer.cells import CELL_BYTES, Run, cell_length, intersect_runs, merge_runs, split_runs, subtract_runs
from coriolis.transfer.codec import cell_digest, decode_acks, encode, nonzero_blocks
from coriolis.transfer.journal import Opening
from coriolis.transfer.pace import Pace
from coriolis.transfer.sender import Plan, ReadCell, Sender
from coriolis.transfer.table import CellState, CellTable

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

LANES = 2
MAX_LANE_RESTARTS = 5
STALL_S = 60.0
COMPARE_BATCH_CELLS = 64
CALL_TIMEOUT_S = 600.0
"""One comparison or seal may read and flush a lot; a stalled sink is found by STALL_S on the lanes."""


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


class SourceDisk:
    """Sends one disk; ``sender.stats`` and ``covered`` tell how far it is."""

    def __init__(
        self,
        what: PassDisk,
        reader: BlockReader,
        journal: DiskJournal,
        open_lane: Callable[[], grpc.aio.Channel],
        pace: Pace | None = None,
    ) -> None:
        self.what = what
        self.sealed = False
        self.manifest_digest = b""
        self.sender: Sender | None = None
        self._reader = reader
        self._journal = journal
        self._open_lane = open_lane
        self._pace = pace or Pace()
        self._changed = asyncio.Event()
        self._last_ack = 0.0
        self._journal_tasks: list[Run] = []

    async def send(self, disk_plan: DiskPlan) -> None:
        """Return when the pass is sealed. Raises TimedOut after 60 s without an ack, Corrupt, StaleGeneration."""
        async with self._open_lane() as control:
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
            )
            self.sender = sender
            await self._skip_known(stub, sender, table, opened, disk_plan)
            await self._push_all(sender)
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
        # what a sink says is only ever used to narrow the plan; runs that cannot be say nothing
        said = [Run(run.first, run.count) for run in opened.durable if 0 < run.count <= cells - run.first]
        theirs = merge_runs(said)
        mine = ours.known_runs()
        both = intersect_runs(mine, theirs)
        sender.skip(ours, both)
        planned = merge_runs([*disk_plan.plan.data, *disk_plan.plan.zero])
        if disk_plan.compare or opened.compare_first:
            doubtful = planned
        else:
            doubtful = intersect_runs(planned, merge_runs([*mine, *theirs]))
        doubtful = subtract_runs(doubtful, both)
        zero = merge_runs(disk_plan.plan.zero)
        for run in split_runs(doubtful, COMPARE_BATCH_CELLS):
            await self._compare(stub, sender, run, zero)

    async def _compare(
        self, stub: transfer_pb2_grpc.TransferServiceAsyncStub, sender: Sender, run: Run, zero: Sequence[Run]
    ) -> None:
        digests: dict[int, bytes] = {}
        for cell in range(run.first, run.end):
            if any(z.first <= cell < z.end for z in zero):
                digests[cell] = b""
            else:
                data = await self._reader.read_at(cell * CELL_BYTES, cell_length(cell, self.what.size_bytes))
                sender.stats.read_bytes += len(data)
                digests[cell] = cell_digest(data) if nonzero_blocks(data) else b""
        request = pb.CompareCellsRequest(
            disk_id=self.what.disk_id,
            generation=self.what.generation,
            cells=[pb.CellDigest(cell=cell, digest=digest) for cell, digest in digests.items()],
        )
        answer = await _call(stub.CompareCells(request, timeout=CALL_TIMEOUT_S))
        equal = CellTable(self.what.size_bytes)
        for cell in digests.keys() - set(answer.differing):
            if digests[cell]:
                equal.set_data(cell, digests[cell])
            else:
                equal.set_zero(Run(cell, 1))
        sender.skip(equal, equal.known_runs())

    # -- lanes --------------------------------------------------------------------------------------------------

    async def _push_all(self, sender: Sender) -> None:
        self._last_ack = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch_stall(sender))
            record = group.create_task(self._record_durable(sender))
            lanes = [group.create_task(self._lane(sender, number)) for number in range(LANES)]
            await asyncio.wait(lanes)
            watch.cancel()
            record.cancel()

    async def _watch_stall(self, sender: Sender) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1)
            waiting = sender.in_flight_bytes or sender.undurable_sent_bytes
            if waiting and loop.time() - self._last_ack > STALL_S:
                raise TimedOut(f"disk {self.what.disk_id}: no acknowledgement for {STALL_S:.0f} s")

    async def _record_durable(self, sender: Sender) -> None:
        """Journal durable runs once a second: losing the last second only means comparing those cells."""
        while True:
            await asyncio.sleep(1)
            await self._journal_durable(sender)

    async def _journal_durable(self, sender: Sender) -> None:
        runs, self._journal_tasks = merge_runs(self._journal_tasks), []
        known = [run for run in runs if CellState.UNKNOWN not in sender.sent.get_run(run)[0]]
        await asyncio.to_thread(self._journal.append_ranges, sender.sent, known)

    async def _lane(self, sender: Sender, number: int) -> None:
        restarts = 0
        while not sender.exhausted:
            try:
                await self._run_lane(sender, number)
            except* (grpc.aio.AioRpcError, Unavailable) as failed:
                sender.lane_lost(number)
                self._wake()
                restarts += 1
                first = failed.exceptions[0]
                error = to_error(first) if isinstance(first, grpc.aio.AioRpcError) else first
                fatal = isinstance(error, CoriolisError) and not error.retryable
                if restarts > MAX_LANE_RESTARTS or fatal:
                    raise error from failed
                log.warning("lane lost, its cells are sent again", disk=self.what.disk_id, lane=number)
                await asyncio.sleep(0.2 * restarts)

    async def _run_lane(self, sender: Sender, number: int) -> None:
        metadata = ((DISK_KEY, self.what.disk_id), (GENERATION_KEY, str(self.what.generation)))
        async with self._open_lane() as channel:
            push = channel.stream_stream(PUSH_METHOD, None, None)
            call = push(None, metadata=metadata)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._take_acks(sender, call.__aiter__()))
                await self._feed_lane(sender, call, number)

    async def _feed_lane(self, sender: Sender, call: grpc.aio.StreamStreamCall[bytes, bytes], number: int) -> None:
        while not sender.exhausted:
            work = sender.next_work()
            if work is None:
                self._changed.clear()
                if not sender.exhausted:
                    await self._changed.wait()
                continue
            if isinstance(work, ReadCell):
                try:
                    data = await self._reader.read_at(
                        work.cell * CELL_BYTES, cell_length(work.cell, self.what.size_bytes)
                    )
                except BaseException:
                    sender.read_failed(work.cell)
                    raise
                frame = sender.read_done(work.cell, data, number)
            else:
                frame = sender.zero_frame(work.run, number)
            message = encode(frame)
            await pass_pace(self._pace, len(message), self._not_stalled)
            try:
                await call.write(message)
            except asyncio.InvalidStateError:
                return  # the stream has ended: who reads the acks learns why
        self._wake()
        await call.done_writing()

    def _not_stalled(self) -> None:
        """Who waits for its turn cannot be acknowledged: a low limit, or a pause, is no stall."""
        self._last_ack = asyncio.get_running_loop().time()

    async def _take_acks(self, sender: Sender, call: AsyncIterator[bytes]) -> None:
        async for message in call:
            self._last_ack = asyncio.get_running_loop().time()
            for ack in decode_acks(message):
                sender.on_ack(ack)
                if ack.kind.name == "DURABLE" and ack.generation == self.what.generation:
                    self._journal_tasks.append(Run(ack.cell, ack.count))
            self._wake()
        if not sender.exhausted:
            raise Unavailable("the sink ended a lane before everything was received")

    def _wake(self) -> None:
        self._changed.set()

    async def _seal(self, stub: transfer_pb2_grpc.TransferServiceAsyncStub, sender: Sender) -> None:
        data_cells, zero_cells, aggregate = sender.seal_counts()
        request = pb.SealDiskRequest(
            disk_id=self.what.disk_id,
            generation=self.what.generation,
            data_cells=data_cells,
            zero_cells=zero_cells,
            aggregate_digest=aggregate,
        )
        answer = await _call(stub.SealDisk(request, timeout=CALL_TIMEOUT_S))
        await asyncio.to_thread(self._journal.append_ranges, sender.sent, sender.sent.known_runs())
        self.manifest_digest = answer.manifest_digest
        self.sealed = True


async def _call(call: Awaitable[Answer]) -> Answer:
    """The answer of a unary call, or our error."""
    try:
        return await call
    except grpc.aio.AioRpcError as failed:
        raise to_error(failed) from failed
