"""One disk at the sink: carries out what the receiver accepts, flushes, journals, seals."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.manifest_update import enter_cell
from coriolis.durable_file import replace_file
from coriolis.errors import Conflict, Corrupt, InvalidInput, StaleGeneration
from coriolis.model.resource import Volume
from coriolis.providers.base import BlockWriter
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.transfer.cells import CELL_BYTES, Run, cell_count, cell_length, complement, merge_runs
from coriolis.transfer.codec import cell_digest, decode, encode, nonzero_blocks
from coriolis.transfer.journal import Opening, Sealed
from coriolis.transfer.manifest import decode_manifest, encode_manifest
from coriolis.transfer.receiver import FLUSH_INTERVAL_S, WINDOW_BYTES, Receiver, Write
from coriolis.transfer.table import CellTable

log = structlog.get_logger(__name__)

MAX_COMPARED_CELLS = 4096
_FLUSH_POLL_S = 0.1


class SinkDisk:
    """State and volume of one disk for one attempt (generation)."""

    def __init__(
        self,
        transfer_id: str,
        disk_id: str,
        generation: int,
        pass_number: int,
        volume: Volume,
        writer: BlockWriter,
        journal: DiskJournal,
        manifest_path: Path,
    ) -> None:
        self.disk_id = disk_id
        self.generation = generation
        self.pass_number = pass_number
        self.sealed = asyncio.Event()
        self.manifest_digest = b""
        self.activity = 0
        """Counts frames and calls; the task watches it for stalls."""
        self._transfer_id = transfer_id
        self._volume = volume
        self._writer = writer
        self._journal = journal
        self._manifest_path = manifest_path
        self._receiver: Receiver | None = None
        self._flush_lock = asyncio.Lock()
        self._lanes: set[asyncio.Queue[bytes | None]] = set()
        self._compare_first = False
        self._journalled: list[Run] = []

    @property
    def receiver(self) -> Receiver:
        if self._receiver is None:
            raise InvalidInput(f"disk {self.disk_id} was not opened")
        return self._receiver

    def check_generation(self, generation: int) -> None:
        """Fence 3. Raises StaleGeneration."""
        if generation != self.generation:
            raise StaleGeneration(f"generation {generation} came to a sink of generation {self.generation}")

    def open(self, request: pb.OpenDiskRequest) -> pb.OpenDiskResponse:
        """Begin the attempt. A second open of the same attempt gets the same answer."""
        self.check_generation(request.generation)
        if request.transfer_id != self._transfer_id or request.cell_bytes != CELL_BYTES:
            raise InvalidInput("the source speaks of another transfer or another cell size")
        if request.pass_number != self.pass_number:
            raise InvalidInput(f"pass {request.pass_number} came to a sink of pass {self.pass_number}")
        if request.size_bytes > self._volume.size_bytes:
            raise InvalidInput(f"disk of {request.size_bytes} bytes, volume of {self._volume.size_bytes} bytes")
        before = self._journal.state
        # An empty journal alone proves nothing: it may be damaged, or another agent may have written meanwhile. The
        # first generation of the first pass cannot have been preceded by any writer.
        first_ever = before.opening is None and self.generation == 1
        fresh = first_ever and self.pass_number == 1 and self._volume.fresh_is_zero
        if self._receiver is None:
            opening = Opening(
                self._transfer_id,
                self.disk_id,
                request.size_bytes,
                request.generation,
                request.pass_number,
                request.snapshot_identity,
            )
            same_pass = before.opening is not None and (
                before.opening.pass_number,
                before.opening.snapshot_identity,
            ) == (request.pass_number, request.snapshot_identity)
            table = self._journal.open_attempt(opening)
            self._receiver = Receiver(request.size_bytes, self.generation, table, unwritten_is_zero=fresh)
            self._journalled = table.known_runs()
            self._compare_first = not same_pass and not fresh and self.pass_number == 1
        runs = [pb.CellRange(first=run.first, count=run.count) for run in self._receiver.table.known_runs()]
        return pb.OpenDiskResponse(
            durable=runs,
            unwritten_is_zero=fresh,
            window_bytes=WINDOW_BYTES,
            compare_first=self._compare_first,
        )

    # -- frames -------------------------------------------------------------------------------------------------

    def add_lane(self) -> asyncio.Queue[bytes | None]:
        """Acks for a new Push stream; begins with what is durable, since a lost lane may have missed it."""
        lane: asyncio.Queue[bytes | None] = asyncio.Queue()
        for message in self.receiver.durable_acks(self._journalled):
            lane.put_nowait(message)
        self._lanes.add(lane)
        return lane

    def drop_lane(self, lane: asyncio.Queue[bytes | None]) -> None:
        self._lanes.discard(lane)

    async def take(self, message: bytes) -> bytes:
        """Write one frame; returns its RECEIVED or REJECTED ack. Raises StaleGeneration for an old chunk."""
        self.activity += 1
        frame = decode(message)
        try:
            accepted = self.receiver.accept(frame)
        except Corrupt as damaged:
            log.warning("chunk refused", disk=self.disk_id, reason=damaged.message)
            return encode(self.receiver.rejection(frame))
        for operation in accepted.operations:
            if isinstance(operation, Write):
                await self._writer.write_at(operation.offset, operation.data)
            else:
                await self._writer.write_zeroes(operation.offset, operation.length)
        return encode(self.receiver.written(accepted.frame))

    async def flush(self) -> None:
        """Make everything written so far durable, then journal it, then tell the source. In this order only."""
        async with self._flush_lock:
            batch = self.receiver.start_flush()
            if not batch:
                return
            try:
                await self._writer.flush()
                runs = self.receiver.make_durable(batch)
                await asyncio.to_thread(self._journal.append_ranges, self.receiver.table, runs)
            except BaseException:
                self.receiver.flush_failed(batch)
                raise
            self._journalled = merge_runs([*self._journalled, *runs])
            for message in self.receiver.durable_acks(runs):
                for lane in self._lanes:
                    lane.put_nowait(message)

    async def flush_regularly(self) -> None:
        """Flush by amount or age until cancelled."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(_FLUSH_POLL_S)
            if self._receiver is None or not self._receiver.has_unflushed:
                last = loop.time()
            elif self._receiver.flush_due or loop.time() - last >= FLUSH_INTERVAL_S:
                await self.flush()
                last = loop.time()

    # -- compare and seal ---------------------------------------------------------------------------------------

    async def compare(self, request: pb.CompareCellsRequest) -> pb.CompareCellsResponse:
        """Which cells of the volume hold something else. Equal ones count as received."""
        self.check_generation(request.generation)
        self.activity += 1
        if len(request.cells) > MAX_COMPARED_CELLS:
            raise InvalidInput(f"{len(request.cells)} cells in one comparison, at most {MAX_COMPARED_CELLS}")
        differing = []
        for wanted in request.cells:
            if wanted.cell >= self.receiver.table.cells or len(wanted.digest) not in (0, 16):
                raise InvalidInput(f"cell {wanted.cell} or its digest cannot be")
            if await self._volume_digest(wanted.cell) == wanted.digest:
                self.receiver.equal(wanted.cell, wanted.digest)
            else:
                differing.append(wanted.cell)
        return pb.CompareCellsResponse(differing=differing)

    async def _volume_digest(self, cell: int) -> bytes:
        size = self.receiver.size_bytes
        data = await self._writer.read_at(cell * CELL_BYTES, cell_length(cell, size))
        return cell_digest(data) if nonzero_blocks(data) else b""

    async def seal(self, request: pb.SealDiskRequest) -> pb.SealDiskResponse:
        """End the pass: durable, equal in count and digest on both sides, manifest kept."""
        self.check_generation(request.generation)
        await self.flush()
        await self._writer.flush()
        self.receiver.check_seal(request.data_cells, request.zero_cells, request.aggregate_digest)
        manifest = await self._merged_manifest()
        content = encode_manifest(self._transfer_id, self.disk_id, manifest)
        await asyncio.to_thread(self._manifest_path.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(replace_file, self._manifest_path, content)
        self.manifest_digest = manifest.aggregate_digest()
        self._journal.append_sealed(Sealed(self.pass_number, self.manifest_digest.hex()))
        self.sealed.set()
        return pb.SealDiskResponse(manifest_digest=self.manifest_digest, written_bytes=self.receiver.written_bytes)

    async def _merged_manifest(self) -> CellTable:
        """The manifest of the passes before, overwritten by this one's cells."""
        manifest = CellTable(self.receiver.size_bytes)
        earlier = await asyncio.to_thread(self._earlier_manifest)
        if earlier is not None:
            manifest.merge(earlier)
        manifest.merge(self.receiver.table)
        unknown = complement(manifest.known_runs(), cell_count(manifest.size_bytes))
        if unknown and self.pass_number == 1:
            raise Corrupt(f"{sum(run.count for run in unknown)} cells of disk {self.disk_id} were never covered")
        for run in unknown:
            # an earlier pass sealed them, only the list of their digests is lost with an agent's state
            for cell in range(run.first, run.end):
                await enter_cell(manifest, cell, self._writer)
        return manifest

    def _earlier_manifest(self) -> CellTable | None:
        """What the pass before sealed; None for the first pass, and when this agent's state was lost."""
        if self.pass_number == 1:
            return None
        try:
            _, before = decode_manifest(self._manifest_path.read_bytes())
        except (FileNotFoundError, Corrupt) as lost:
            log.warning("manifest lost, the volume is read again", disk=self.disk_id, reason=str(lost))
            return None
        if before.size_bytes != self.receiver.size_bytes:
            raise Conflict(f"disk {self.disk_id} changed its size between passes")
        return before
