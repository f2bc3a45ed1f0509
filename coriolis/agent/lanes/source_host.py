"""The sending host: reads cells, hashes, compresses and sends them, one thread a lane."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping

import zstandard

from coriolis.agent.lanes.cell_io import CellReader, attached_reader
from coriolis.agent.lanes.commands import commands
from coriolis.agent.lanes.messages import (
    MAX_SILENCE_S,
    MAX_TEXT_CHARS,
    WORDS_AT_ONCE,
    AttachDisk,
    CloseLane,
    FromHost,
    LaneDown,
    LaneUp,
    OpenLane,
    SendBatch,
    Sent,
    SentCell,
    ToHost,
    encode_message,
)
from coriolis.agent.lanes.push_lane import PushLane, open_lane
from coriolis.errors import CoriolisError, Unavailable
from coriolis.rpc.tls_files import TlsFiles
from coriolis.transfer.cells import CELL_BYTES, cell_length
from coriolis.transfer.codec import HEADER_BYTES, Encoding, Frame, FrameKind, blocks_bytes, data_frame, encode_header

STOP_WAIT_S = 5.0
CHECK_S = 0.3
"""A lane without work looks this often whether its connection is still there: what it had sent may be lost."""


class SourceHost:
    """Serves one socket until it ends. ``readers``: disks that need no descriptor, by id."""

    def __init__(self, link: socket.socket, tls: TlsFiles, readers: Mapping[str, CellReader]) -> None:
        self._link = link
        self._tls = tls
        self._readers = dict(readers)
        self._disks: dict[str, AttachDisk] = {}
        self._lanes: dict[int, _Lane] = {}
        self._threads: list[threading.Thread] = []
        self._descriptors: list[int] = []

    def run(self) -> None:
        """Return when the task closes its end."""
        try:
            for message, descriptors in commands(self._link):
                self._obey(message, descriptors)
        finally:
            for lane in self._lanes.values():
                lane.stop(abort=True)
            # those of lanes that were closed may still read: their descriptors must not go to another file meanwhile
            for thread in self._threads:
                thread.join(STOP_WAIT_S)
            for descriptor in self._descriptors:
                os.close(descriptor)

    def _obey(self, message: ToHost, descriptors: list[int]) -> None:
        match message:
            case AttachDisk() as disk:
                self._disks[disk.disk_id] = disk
                if descriptors:
                    self._descriptors += descriptors
                    self._readers[disk.disk_id] = attached_reader(descriptors[0], disk.label, disk.identity)
            case OpenLane() as opening:
                disk, reader = self._disks[opening.disk_id], self._readers[opening.disk_id]
                lane = _Lane(opening, disk, reader, self._tls, self._say)
                self._lanes[opening.lane] = lane
                self._threads = [each for each in self._threads if each.is_alive()] + [lane.thread]
                lane.thread.start()
            case SendBatch() as batch:
                if batch.lane in self._lanes:
                    self._lanes[batch.lane].give(batch)
            case CloseLane(number, abort):
                found = self._lanes.pop(number, None)
                if found is not None:
                    found.stop(abort=abort)
            case other:
                raise AssertionError(f"a source's host cannot {type(other).__name__}")

    def _say(self, message: FromHost) -> None:
        try:
            self._link.send(encode_message(message))
        except OSError:
            return  # the task has closed its end: nobody listens any more


class _ReadFailed(Exception):
    """The disk could not be read: no other lane could either."""

    def __init__(self, error: CoriolisError) -> None:
        super().__init__(error.message)
        self.error = error


class _Lane:
    """A thread with one connection. What it was given and has not reported is the task's to give to another."""

    def __init__(
        self, opening: OpenLane, disk: AttachDisk, reader: CellReader, tls: TlsFiles, say: Callable[[FromHost], None]
    ) -> None:
        self._opening, self._disk, self._reader, self._tls, self._say = opening, disk, reader.for_lane(), tls, say
        self._batches: queue.SimpleQueue[SendBatch | None] = queue.SimpleQueue()
        self._push: PushLane | None = None
        self._stopped = threading.Event()
        # room for a header before the cell, so that a whole cell goes out without being copied again
        self._room = memoryview(bytearray(HEADER_BYTES + CELL_BYTES))
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}
        self._sent: list[SentCell] = []
        self._work_s = self._packing_s = self._send_s = self._told_s = 0.0
        self.thread = threading.Thread(target=self.run, name=f"lane-{opening.lane}", daemon=True)

    def give(self, batch: SendBatch) -> None:
        size = self._disk.size_bytes
        for first, count in batch.cells:
            begin = first * CELL_BYTES
            self._reader.expect(begin, min(count * CELL_BYTES, size - begin))
        self._batches.put(batch)

    def stop(self, *, abort: bool) -> None:
        if abort:
            self._stopped.set()
            if self._push is not None:
                self._push.abort()
        self._batches.put(None)

    def run(self) -> None:
        number = self._opening.lane
        down = LaneDown(number, Unavailable.code, "a lane's thread ended without a word")
        try:
            self._serve()
            down = LaneDown(number)
        except _ReadFailed as failed:
            down = LaneDown(number, failed.error.code, failed.error.message[:MAX_TEXT_CHARS], True)
        except CoriolisError as failed:
            down = LaneDown(number, failed.code, failed.message[:MAX_TEXT_CHARS])
        finally:
            if self._push is not None and (down.code or self._stopped.is_set()):
                self._push.abort()
            self._reader.close()
            self._say(down)

    def _serve(self) -> None:
        opening = self._opening
        push = open_lane(
            opening.transport,
            opening.address,
            self._tls,
            opening.peer,
            opening.disk_id,
            self._disk.generation,
            long_path=opening.long_path,
        )
        self._push = push
        self._say(LaneUp(opening.lane))
        while (batch := self._next_batch(push)) is not None:
            for first, count in batch.zeros:
                self._send(push, Frame(FrameKind.ZERO, self._disk.generation, first, count), 0, 0.0)
            for first, count in batch.cells:
                for cell in range(first, first + count):
                    self._send_cell(push, cell, batch.level)
            self._tell()
        if not self._stopped.is_set():
            push.finish()

    def _next_batch(self, push: PushLane) -> SendBatch | None:
        while True:
            try:
                return self._batches.get(timeout=CHECK_S)
            except queue.Empty:
                push.check()

    def _send_cell(self, push: PushLane, cell: int, level: int) -> None:
        if self._stopped.is_set():
            raise Unavailable("a lane was stopped")
        began = time.monotonic()
        view = self._room[HEADER_BYTES : HEADER_BYTES + cell_length(cell, self._disk.size_bytes)]
        try:
            self._reader.read_into(cell * CELL_BYTES, view)
        except CoriolisError as failed:
            raise _ReadFailed(failed) from failed
        frame = data_frame(self._disk.generation, cell, view, self._compressor(level))
        self._send(push, frame, len(view), began)

    def _compressor(self, level: int) -> zstandard.ZstdCompressor | None:
        if not level:
            return None
        if level not in self._compressors:
            self._compressors[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
        return self._compressors[level]

    def _send(self, push: PushLane, frame: Frame, read_bytes: int, began: float) -> None:
        ready = time.monotonic()
        wire_bytes = push.send(self._message(frame))
        done = time.monotonic()
        data = frame.kind is FrameKind.DATA
        packed = frame.encoding is Encoding.ZSTD
        self._sent.append(
            SentCell(
                frame.cell,
                frame.count,
                frame.digest if data else b"",
                read_bytes,
                blocks_bytes(frame.bitmap, frame.length) if data else 0,
                wire_bytes,
                packed,
            )
        )
        work = ready - began if began else 0.0
        self._work_s += work
        self._packing_s += work if packed else 0.0
        self._send_s += done - ready
        if len(self._sent) >= WORDS_AT_ONCE or done - self._told_s > MAX_SILENCE_S:
            self._tell()

    def _message(self, frame: Frame) -> bytes | memoryview:
        """The frame as one piece."""
        header = encode_header(frame)
        if not len(frame.payload):
            return header
        if isinstance(frame.payload, memoryview) and frame.payload.obj is self._room.obj:
            self._room[:HEADER_BYTES] = header
            return self._room[: HEADER_BYTES + len(frame.payload)]
        return b"".join((header, frame.payload))

    def _tell(self) -> None:
        """Report what was sent since the last report."""
        if not self._sent:
            return
        self._say(Sent(self._opening.lane, tuple(self._sent), self._work_s, self._packing_s, self._send_s))
        self._sent.clear()
        self._work_s = self._packing_s = self._send_s = 0.0
        self._told_s = time.monotonic()
