"""The receiving host of ``direct`` lanes: TLS, check, write; one thread a connection."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator

import msgspec

from coriolis.agent.lanes.cell_io import CellWriter, DescriptorWriter
from coriolis.agent.lanes.commands import commands
from coriolis.agent.lanes.hello import HELLO_BYTES, encode_answer, hello_rest
from coriolis.agent.lanes.messages import (
    MAX_TEXT_CHARS,
    AttachDisk,
    DiskFailed,
    Refused,
    TakeConnection,
    ToHost,
    WroteFrame,
)
from coriolis.agent.lanes.teller import Teller
from coriolis.agent.lanes.tls_stream import SILENCE_S, TlsReceiver, server_context
from coriolis.agent.lanes.touched import map_touched
from coriolis.errors import CoriolisError, Corrupt, Denied, StaleGeneration, Unavailable
from coriolis.rpc.tls_files import TlsFiles
from coriolis.transfer.cells import CELL_BYTES
from coriolis.transfer.codec import HEADER_BYTES, Frame, decode_header, with_payload
from coriolis.transfer.receiver import Accepted, Intake, Write

MAX_CONNECTIONS = 64
"""Lanes that one host serves at once."""
GREETING_TIMEOUT_S = 10.0
"""A connection that has not said who it is keeps one of those places for this long without a word."""
STOP_WAIT_S = 5.0
FAILED_LINGER_S = 10.0


class ServedDisk(msgspec.Struct, frozen=True):
    """A disk as a host sees it."""

    disk_id: str
    intake: Intake
    writer: CellWriter


def carry_out(accepted: Accepted, writer: CellWriter) -> None:
    """Write what a frame asks for."""
    for operation in accepted.operations:
        if isinstance(operation, Write):
            writer.write(operation.offset, operation.data)
        else:
            writer.write_zeroes(operation.offset, operation.length)


def take_frame(disk: ServedDisk, frame: Frame) -> WroteFrame | Refused:
    """Check and write one frame. Raises StaleGeneration for an old attempt's, and what the disk refuses with."""
    try:
        accepted = disk.intake.accept(frame)
    except Corrupt as damaged:
        return Refused(disk.disk_id, frame.cell, frame.count, damaged.message[:MAX_TEXT_CHARS])
    carry_out(accepted, disk.writer)
    return WroteFrame(
        frame.kind,
        frame.cell,
        frame.count,
        frame.length,
        frame.bitmap,
        frame.digest,
    )


class SinkHost:
    """Serves one socket until it ends. ``disks``: by id, those that come without a descriptor, put in by the task at
    any time."""

    def __init__(self, link: socket.socket, tls: TlsFiles, allowed: str, disks: dict[str, ServedDisk]) -> None:
        self._link = link
        self._allowed = allowed
        self._context = server_context(tls)
        self._teller = Teller(link)
        self._disks = disks
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ending = threading.Event()
        self._kept: list[object] = []
        self._descriptors: list[int] = []

    def run(self) -> None:
        """Return when the task closes its end."""
        try:
            for message, descriptors in commands(self._link):
                self._obey(message, descriptors)
        finally:
            self._ending.set()
            for connection in list(self._open):
                _wake(connection)
            for thread in self._threads:
                thread.join(STOP_WAIT_S)
            for descriptor in self._descriptors:
                os.close(descriptor)

    def _obey(self, message: ToHost, descriptors: list[int]) -> None:
        match message:
            case AttachDisk() as disk:
                self._attach(disk, descriptors)
            case TakeConnection():
                connection = socket.socket(fileno=descriptors[0])
                if len(self._open) >= MAX_CONNECTIONS:
                    connection.close()
                    return
                self._open.add(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), name="lane", daemon=True)
                self._threads = [each for each in self._threads if each.is_alive()] + [thread]
                thread.start()
            case other:
                raise AssertionError(f"a sink's host cannot {type(other).__name__}")

    def _attach(self, disk: AttachDisk, descriptors: list[int]) -> None:
        # the journal's lock is only held: as long as this process can write, no successor opens the volume
        self._descriptors += descriptors
        volume, shared, _ = descriptors
        intake = Intake(disk.size_bytes, disk.generation, map_touched(shared))
        self._disks[disk.disk_id] = ServedDisk(disk.disk_id, intake, DescriptorWriter(volume, disk.label))

    def _serve(self, connection: socket.socket) -> None:
        stream = TlsReceiver(connection, self._context)
        try:
            disk = self._greet(stream)
            if disk is not None:
                self.take_frames(frames_of(stream), disk, stream.more_comes)
        except CoriolisError:
            return  # the source sees its lane end, and sends again what was not acknowledged
        finally:
            stream.close()
            self._open.discard(connection)

    def _greet(self, stream: TlsReceiver) -> ServedDisk | None:
        stream.wait_at_most(GREETING_TIMEOUT_S)
        identity = stream.handshake()
        head = memoryview(bytearray(HELLO_BYTES))
        if not stream.read_into(head):
            return None
        generation, length = hello_rest(head)
        name = memoryview(bytearray(length))
        stream.read_into(name)
        try:
            disk = self.disk_for(identity, bytes(name).decode("utf-8", "replace"), generation)
        except CoriolisError as refused:
            stream.answer(encode_answer(refused))
            return None
        stream.answer(encode_answer())
        stream.wait_at_most(SILENCE_S)
        return disk

    def keep(self, server: object) -> None:
        """Hold what must live as long as this host."""
        self._kept.append(server)

    def disk_for(self, identity: str, disk_id: str, generation: int) -> ServedDisk:
        """The disk that a lane may write to. Raises Denied, Unavailable, StaleGeneration."""
        if identity != self._allowed:
            raise Denied("this sink was assigned another source")
        disk = self._disks.get(disk_id)
        if disk is None:
            # its first lane may be quicker than the task's word that it was opened
            raise Unavailable("that disk is not open here, or not yet")
        if generation != disk.intake.generation:
            raise StaleGeneration("the lane belongs to a replaced attempt")
        return disk

    def take_frames(
        self, frames: Iterable[Frame], disk: ServedDisk, more_comes: Callable[[], bool | None] = lambda: None
    ) -> None:
        """Until the lane ends. Raises as ``receive_frames``."""
        if not receive_frames(frames, disk, self._teller, more_comes):
            # the source hears of it with its acks; a lane that just ended it would open again
            self._ending.wait(FAILED_LINGER_S)


def _wake(connection: socket.socket) -> None:
    """End a connection that a thread may be waiting on."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # ended by itself


def receive_frames(
    frames: Iterable[Frame], disk: ServedDisk, teller: Teller, more_comes: Callable[[], bool | None]
) -> bool:
    """Until the lane ends; False when the disk failed, for whatever reason. ``more_comes``: for ``Teller.add``.

    Raises Unavailable when the lane breaks, Corrupt for a header that nothing can be made of.
    """
    try:
        for frame in frames:
            try:
                teller.add(disk.disk_id, take_frame(disk, frame), more_comes())
            except StaleGeneration:
                continue  # fence 3: dropped
            except CoriolisError as failed:
                teller.say(DiskFailed(disk.disk_id, failed.code, failed.message[:MAX_TEXT_CHARS]))
                return False
        return True
    finally:
        teller.flush(disk.disk_id)


def frames_of(stream: TlsReceiver) -> Iterator[Frame]:
    head = memoryview(bytearray(HEADER_BYTES))
    body = memoryview(bytearray(CELL_BYTES))
    while stream.read_into(head):
        header = decode_header(head)
        payload = body[: header.payload_bytes]
        if payload and not stream.read_into(payload):
            return
        yield with_payload(header, payload)
