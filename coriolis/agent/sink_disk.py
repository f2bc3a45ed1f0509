"""One disk at the sink: what lanes wrote becomes durable, is journalled, acknowledged, and in the end sealed."""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from pathlib import Path

import msgspec
import structlog

from coriolis.agent.cell_digests import read_digests
from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.lanes.cell_io import CellWriter, DescriptorWriter
from coriolis.agent.lanes.loop_io import LoopWriter
from coriolis.agent.lanes.messages import DiskFailed, FromHost, Refused, Wrote, WroteFrame
from coriolis.agent.lanes.sink_host import ServedDisk, take_frame
from coriolis.agent.lanes.touched import touched_bytes
from coriolis.agent.manifest_update import enter_cells
from coriolis.agent.notary import DiskPass, Notary
from coriolis.agent.signed_message import read_signed, signed_message
from coriolis.durable_file import replace_file
from coriolis.errors import Conflict, CoriolisError, Corrupt, Denied, InvalidInput, StaleGeneration, from_code
from coriolis.model.resource import Volume
from coriolis.providers.base import BlockWriter, raw_descriptor
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.transfer.attestation import DiskProof
from coriolis.transfer.cells import CELL_BYTES, Run, cell_count, complement, merge_runs
from coriolis.transfer.codec import Frame, FrameKind, encode_acks
from coriolis.transfer.journal import Opening, Sealed
from coriolis.transfer.manifest import decode_manifest, encode_manifest
from coriolis.transfer.receiver import FLUSH_INTERVAL_S, WINDOW_BYTES, Receiver, initially_touched
from coriolis.transfer.run_map import pack_runs
from coriolis.transfer.table import CellTable

log = structlog.get_logger(__name__)

MAX_COMPARED_CELLS = 4096
_FLUSH_POLL_S = 0.1
ACK_DELAY_S = 0.005
"""Acks of this long travel together: a message each would cost more than the cells they are for."""

AckQueue = queue.SimpleQueue["bytes | CoriolisError | None"]


class OpenedDisk(msgspec.Struct, frozen=True):
    """What lane hosts need to serve it. ``touched_descriptor``: of the memory that all of them share; open until
    the task's process ends."""

    served: ServedDisk
    touched_descriptor: int


class SinkDisk:
    """State and volume of one disk for one attempt (generation). All methods but ``open`` run in the event loop."""

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
        notary: Notary | None = None,
    ) -> None:
        self.disk_id = disk_id
        self.generation = generation
        self.pass_number = pass_number
        self.sealed = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the exception when the volume cannot be written."""
        self.manifest_digest = b""
        self.proof: DiskProof | None = None
        """What both agents signed; there once it is sealed."""
        self.activity = 0
        """Counts frames and calls; the task watches it for stalls."""
        self.opened: OpenedDisk | None = None
        self._transfer_id = transfer_id
        self._volume = volume
        self._writer = writer
        self._journal = journal
        self._manifest_path = manifest_path
        self._notary = notary
        self._receiver: Receiver | None = None
        self._flush_lock = asyncio.Lock()
        self._listeners: set[AckQueue] = set()
        self._acks: list[Frame] = []
        self._inbox: deque[FromHost] = deque()
        self._inbox_told = False
        self._compare_first = False
        self._journalled: list[Run] = []
        self._loop = asyncio.get_running_loop()

    @property
    def volume_bytes(self) -> int:
        return self._volume.size_bytes

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
            touched, shared = touched_bytes(initially_touched(table, unwritten_is_zero=fresh))
            self._journalled = table.known_runs()
            self._compare_first = not same_pass and not fresh and self.pass_number == 1
            self._receiver = Receiver(request.size_bytes, self.generation, table, touched, unwritten_is_zero=fresh)
            served = ServedDisk(self.disk_id, self._receiver.intake, self._cell_writer())
            self.opened = OpenedDisk(served, shared)
        cells = self._receiver.table.cells
        return pb.OpenDiskResponse(
            durable_map=pack_runs(self._receiver.table.known_runs(), cells),
            written_map=pack_runs(self._journal.written_hints(), cells),
            unwritten_is_zero=fresh,
            window_bytes=WINDOW_BYTES,
            compare_first=self._compare_first,
        )

    def _cell_writer(self) -> CellWriter:
        direct = raw_descriptor(self._writer)
        if direct is None:
            return LoopWriter(self._writer, self._loop)
        return DescriptorWriter(direct.number, direct.label)

    @property
    def lock_descriptor(self) -> int:
        """Goes with the volume to every process that writes it: a successor must wait for them all."""
        return self._journal.lock_descriptor

    def descriptor(self) -> tuple[int, str] | None:
        """(descriptor, label) of a volume that lane processes can write by themselves."""
        direct = raw_descriptor(self._writer)
        return None if direct is None else (direct.number, direct.label)

    # -- acks ---------------------------------------------------------------------------------------------------

    def listen(self) -> AckQueue:
        """A queue of ack messages; begins with all that is known, since an earlier stream may have lost some.

        Bounded by the source's window: it sends no more than that unacknowledged. Ends with None or an error.
        """
        listener: AckQueue = queue.SimpleQueue()
        for message in (*self.receiver.known_acks(), *self.receiver.durable_acks(self._journalled)):
            listener.put(message)
        if self.failed.done():
            listener.put(_error_of(self.failed))
        self._listeners.add(listener)
        return listener

    def drop_listener(self, listener: AckQueue) -> None:
        self._listeners.discard(listener)

    def _ack(self, frame: Frame) -> None:
        if not self._acks:
            self._loop.call_later(ACK_DELAY_S, self._send_acks)
        self._acks.append(frame)

    def _send_acks(self) -> None:
        frames, self._acks = self._acks, []
        self._tell(encode_acks(frames))

    def _tell(self, messages: list[bytes]) -> None:
        for listener in self._listeners:
            for message in messages:
                listener.put(message)

    # -- frames -------------------------------------------------------------------------------------------------

    def take(self, message: FromHost) -> None:
        """What a lane's host says of this disk."""
        self.activity += 1
        match message:
            case Wrote(_, frames):
                for frame in frames:
                    self._wrote(frame)
            case Refused(_, cell, count, reason):
                log.warning("chunk refused", disk=self.disk_id, reason=reason)
                self._ack(self.receiver.rejected(cell, count))
            case DiskFailed(_, code, text):
                self.fail(from_code(code, text))

    def _wrote(self, wrote: WroteFrame) -> None:
        kind = FrameKind(wrote.kind)
        frame = Frame(kind, self.generation, wrote.cell, wrote.count, wrote.length, wrote.bitmap, wrote.digest)
        self._journal.hint_written(Run(wrote.cell, wrote.count))
        self._ack(self.receiver.written(frame))

    def take_here(self, frame: Frame) -> None:
        """Check and write one frame in this thread (of gRPC), then let the event loop know."""
        assert self.opened is not None
        try:
            said = take_frame(self.opened.served, frame)
        except StaleGeneration:
            raise
        except CoriolisError as failed:
            self._inbox.append(DiskFailed(self.disk_id, failed.code, failed.message))
        else:
            self._inbox.append(Wrote(self.disk_id, (said,)) if isinstance(said, WroteFrame) else said)
        if not self._inbox_told:
            # one wake-up of the loop for all that lanes say until it looks
            self._inbox_told = True
            self._loop.call_soon_threadsafe(self._take_inbox)

    def _take_inbox(self) -> None:
        self._inbox_told = False
        while self._inbox:
            self.take(self._inbox.popleft())

    def fail(self, error: CoriolisError) -> None:
        """The volume cannot be written: the task fails, and the source learns why."""
        if not self.failed.done():
            self.failed.set_exception(error)
            self.failed.exception()  # somebody has seen it, even if the task ends for another reason
            for listener in self._listeners:
                listener.put(error)

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
            self._tell(self.receiver.durable_acks(runs))

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
        wanted = {one.cell: one.digest for one in request.cells}
        for cell, digest in wanted.items():
            if cell >= self.receiver.table.cells or len(digest) not in (0, 16):
                raise InvalidInput(f"cell {cell} or its digest cannot be")
        differing = []
        async for cell, digest in read_digests(self._writer, wanted, self.receiver.size_bytes):
            if digest == wanted[cell]:
                self.receiver.equal(cell, digest)
            else:
                differing.append(cell)
        return pb.CompareCellsResponse(differing=differing)

    async def seal(self, request: pb.SealDiskRequest, peer_certificate: bytes = b"") -> pb.SealDiskResponse:
        """End the pass: durable, equal in count and digest on both sides, signed by both, manifest kept.

        ``peer_certificate``: PEM, what the caller showed in TLS. Raises Corrupt or Denied, and seals nothing then.
        """
        self.check_generation(request.generation)
        if self._notary is None:
            raise Denied("this sink has no key to sign a manifest with")
        await self._writer.flush()
        await self.flush()  # waits for one that is running, too
        # a lane that was lost may still deliver copies: the check comes right after a look that found none
        while self.receiver.has_unflushed:
            await self.flush()
        self.receiver.check_seal(request.data_cells, request.zero_cells, request.aggregate_digest)
        manifest = await self._merged_manifest()
        proof, leaves = await self._notary.countersign(
            self._signed_pass(), read_signed(request.source), peer_certificate, self.receiver.table, manifest
        )
        content = encode_manifest(self._transfer_id, self.disk_id, manifest, proof)
        await asyncio.to_thread(self._manifest_path.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(replace_file, self._manifest_path, content)
        self.manifest_digest, self.proof = manifest.aggregate_digest(), DiskProof(proof, tuple(leaves))
        self._journal.append_sealed(Sealed(self.pass_number, self.manifest_digest.hex()))
        self.sealed.set()
        return pb.SealDiskResponse(
            manifest_digest=self.manifest_digest,
            written_bytes=self.receiver.written_bytes,
            sink=signed_message(proof.sink),
        )

    def _signed_pass(self) -> DiskPass:
        opening = self._journal.state.opening
        assert opening is not None, "a disk that is sealed was opened"
        return DiskPass(
            self._transfer_id,
            self.disk_id,
            self.pass_number,
            self.generation,
            self.receiver.size_bytes,
            opening.snapshot_identity,
        )

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
        # an earlier pass sealed them, only the list of their digests is lost with an agent's state
        await enter_cells(manifest, (cell for run in unknown for cell in range(run.first, run.end)), self._writer)
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


def _error_of(failed: asyncio.Future[None]) -> CoriolisError:
    error = failed.exception()
    assert isinstance(error, CoriolisError)
    return error
