"""One lane's connection at the source, for either transport: frames go in, nothing comes back.

Acks travel on the control channel, so a lane is a one-way pipe and needs no thread that listens.
"""

from __future__ import annotations

import select
import socket
import ssl
from typing import Protocol

from coriolis.agent.lanes.hello import answer_error, encode_hello, receive_answer
from coriolis.agent.lanes.tls_stream import dial
from coriolis.errors import Unavailable
from coriolis.rpc.tls_files import TlsFiles


class PushLane(Protocol):
    def send(self, message: bytes | memoryview) -> int:
        """Bytes put on the wire; ``message`` may be reused afterwards.

        Blocks while the peer does not take them. Raises Unavailable, or what the sink
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

    def send(self, message: bytes | memoryview) -> int:
        try:
            self._socket.sendall(message)
        except OSError as broken:
            raise Unavailable(f"a lane broke: {broken}") from broken
        return len(message)

    def finish(self) -> None:
        try:
            # the sink reads on until this arrives, and has nothing to answer: nobody waits for it
            self._socket.settimeout(0)
            self._socket.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass  # said, or to be seen from the connection's end
        except OSError as broken:
            raise Unavailable(f"a lane broke at its end: {broken}") from broken
        finally:
            self._socket.close()

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


def open_lane(
    transport: str, address: str, tls: TlsFiles, peer: str, disk_id: str, generation: int, *, long_path: bool = False
) -> PushLane:
    """A lane by the given transport ("grpc" or "direct")."""
    if transport == "direct":
        return DirectLane(address, tls, peer, disk_id, generation, long_path=long_path)
    # a host of direct lanes starts without it, in half of the time
    from coriolis.agent.lanes.grpc_lane import GrpcLane

    return GrpcLane(address, tls, peer, disk_id, generation)
