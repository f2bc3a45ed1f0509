"""A lane of the grpc transport: a stream of raw messages on a connection of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import grpc

from coriolis.errors import CoriolisError, Unavailable
from coriolis.rpc.blocking import open_blocking_channel
from coriolis.rpc.channel import DATA_MESSAGE_BYTES
from coriolis.rpc.status import to_error
from coriolis.rpc.tls_files import TlsFiles

PUSH_METHOD = "/coriolis.v1.TransferService/Push"
ACKS_METHOD = "/coriolis.v1.TransferService/Acks"
DISK_KEY = "coriolis-disk"
GENERATION_KEY = "coriolis-generation"
FINISH_TIMEOUT_S = 60.0
FRAMES_AHEAD = 1
"""Frames handed to gRPC and not yet taken by it: one is read and hashed while another is sent."""


class GrpcLane:
    """A stream of raw messages on a connection of its own."""

    def __init__(self, address: str, tls: TlsFiles, peer: str, disk_id: str, generation: int) -> None:
        self._frames: queue.Queue[bytes | None] = queue.Queue(FRAMES_AHEAD)
        self._over = threading.Event()
        self._channel = open_blocking_channel(address, tls, peer, max_message_bytes=DATA_MESSAGE_BYTES)
        push = self._channel.stream_unary(PUSH_METHOD, None, None)
        metadata = ((DISK_KEY, disk_id), (GENERATION_KEY, str(generation)))
        self._call = push.future(self._messages(), metadata=metadata, wait_for_ready=False)
        self._call.add_done_callback(lambda _: self._over.set())

    def _messages(self) -> Iterator[bytes]:
        while (message := self._frames.get()) is not None:
            yield message

    def send(self, message: bytes | memoryview) -> int:
        message = bytes(message)  # gRPC takes bytes, and keeps them until they are sent
        while not self._over.is_set():
            try:
                self._frames.put(message, timeout=0.2)
            except queue.Full:
                continue
            return len(message)
        raise self._failure()

    def finish(self) -> None:
        while not self._over.is_set():
            try:
                self._frames.put(None, timeout=0.2)
                break
            except queue.Full:
                continue
        if not self._over.wait(FINISH_TIMEOUT_S):
            self.abort()
            raise Unavailable("a lane does not end")
        if self._call.code() is not grpc.StatusCode.OK:
            raise self._failure()
        self._channel.close()

    def check(self) -> None:
        if self._over.is_set():
            raise self._failure()

    def _failure(self) -> CoriolisError:
        self._channel.close()
        if self._call.cancelled():  # by ``abort``; asked for its exception, it would raise one of gRPC's own
            return Unavailable("a lane was cut")
        failed = self._call.exception()
        return to_error(failed) if isinstance(failed, grpc.RpcError) else Unavailable("a lane was cut")

    def abort(self) -> None:
        self._call.cancel()  # type: ignore[no-untyped-call]  # typeshed leaves it out
        try:
            self._frames.put_nowait(None)  # its feeding thread may wait for a frame
        except queue.Full:
            pass
        self._channel.close()
