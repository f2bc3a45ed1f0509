"""One lane's connection at the source, for either transport: frames go in, nothing comes back.

Acks travel on the control channel, so a lane is a one-way pipe and needs no thread that listens.
"""

from __future__ import annotations

import queue
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Protocol

import grpc

from coriolis.agent.lanes.hello import answer_error, encode_hello, receive_answer
from coriolis.agent.lanes.tls_stream import dial
from coriolis.errors import CoriolisError, Unavailable
from coriolis.rpc.blocking import open_blocking_channel
from coriolis.rpc.channel import DATA_MESSAGE_BYTES
from coriolis.rpc.status import to_error
from coriolis.rpc.tls import TlsFiles
from coriolis.transfer.codec import Frame, encode, encode_header

PUSH_METHOD = "/coriolis.v1.TransferService/Push"
ACKS_METHOD = "/coriolis.v1.TransferService/Acks"
DISK_KEY = "coriolis-disk"
GENERATION_KEY = "coriolis-generation"
FRAMES_AHEAD = 1
"""Frames handed to gRPC and not yet taken by it: one is read and hashed while another is sent."""
FINISH_TIMEOUT_S = 60.0


class PushLane(Protocol):
    def send(self, frame: Frame) -> int:
        """Bytes put on the wire. Blocks while the peer does not take them. Raises Unavailable, or what the sink
        refused with."""
        ...

    def finish(self) -> None:
        """Everything sent has arrived at the sink's process (not: was written)."""
        ...

    def check(self) -> None:
        """Raises as ``send`` does if the peer has ended the lane meanwhile; for a lane that has nothing to send."""
        ...

    def abort(self) -> None: ...


class DirectLane:
    """TLS 1.3 over TCP."""

    def __init__(
        self, address: str, tls: TlsFiles, peer: str, disk_id: str, generation: int, *, long_path: bool = False
    ) -> None:
        self._socket: ssl.SSLSocket = dial(address, tls, peer, long_path=long_path)
        try:
            self._socket.sendall(encode_hello(disk_id, generation))
            error = answer_error(receive_answer(self._socket))
        except OSError as broken:
            self._socket.close()
            raise Unavailable(f"the sink at {address} does not answer: {broken}") from broken
        if error is not None:
            self._socket.close()
            raise error

    def send(self, frame: Frame) -> int:
        header = encode_header(frame)
        try:
            # one record boundary less, and small cells in one packet; measured no dearer than two calls
            self._socket.sendall(b"".join((header, frame.payload)) if len(frame.payload) else header)
        except OSError as broken:
            raise Unavailable(f"a lane broke: {broken}") from broken
        return len(header) + len(frame.payload)

    def finish(self) -> None:
        try:
            # the sink reads on until this arrives; it has nothing to answer
            self._socket.settimeout(FINISH_TIMEOUT_S)
            self._socket.unwrap().close()
        except OSError as broken:
            raise Unavailable(f"a lane broke at its end: {broken}") from broken

    def check(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLRDHUP)
        # the sink has nothing to say on a lane but that it ends: no tickets, no answers
        if poll.poll(0):
            raise Unavailable("the sink ended a lane")

    def abort(self) -> None:
        try:
            # past ssl's own shutdown, which would take the session from under the thread that is sending
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            return  # ended by itself


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

    def send(self, frame: Frame) -> int:
        message = encode(frame)
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
        failed = self._call.exception()
        return to_error(failed) if isinstance(failed, grpc.RpcError) else Unavailable("a lane was cut")

    def abort(self) -> None:
        self._call.cancel()  # type: ignore[no-untyped-call]  # typeshed leaves it out
        try:
            self._frames.put_nowait(None)  # its feeding thread may wait for a frame
        except queue.Full:
            pass
        self._channel.close()


def open_lane(
    transport: str, address: str, tls: TlsFiles, peer: str, disk_id: str, generation: int, *, long_path: bool = False
) -> PushLane:
    """A lane by the given transport ("grpc" or "direct")."""
    if transport == "direct":
        return DirectLane(address, tls, peer, disk_id, generation, long_path=long_path)
    return GrpcLane(address, tls, peer, disk_id, generation)
