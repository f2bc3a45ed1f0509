"""Reads byte ranges of one file over HTTPS: ``python -m coriolis.providers.vmware_vsphere.range_process``.

A process of its own, for threads that read connections and whoever uses what they read wait for each other's turn of
the interpreter; and one thread for all its connections, for several are slower. Standard input is a socket to the
parent; ``range_messages`` are what goes over it. It is killed when it is not needed any more.
"""

from __future__ import annotations

import contextlib
import http.client
import selectors
import signal
import socket
import time
from collections import deque

from coriolis.errors import CoriolisError, TimedOut, Unavailable
from coriolis.parent import die_with_parent
from coriolis.providers.vmware_vsphere.export_messages import Order, receive_order
from coriolis.providers.vmware_vsphere.range_connection import ARRIVING_BYTES, Body, Connection, Target
from coriolis.providers.vmware_vsphere.range_messages import Ask, send_answer, send_failure, taken_asks

ASKS_BYTES = 65536
MAX_WAITING = 4096
"""Asks; more than any reader has under way."""
TICK_S = 0.5


class RangeReader:
    """Serves asks in their order over at most ``order.connections`` connections."""

    def __init__(self, order: Order, link: socket.socket) -> None:
        self._target = Target(order.host, order.port, order.trust.context(), order.path, order.stall_s)
        self._link, self._connections = link, order.connections
        self._selector = selectors.DefaultSelector()
        self._selector.register(link, selectors.EVENT_READ)
        self._arrived, self._waiting = bytearray(), deque[Ask]()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._buffer = bytearray(ARRIVING_BYTES)

    def serve(self) -> None:
        """Until the parent closes its end. Raises OSError when it has gone."""
        while True:
            for key, _ in self._selector.select(TICK_S):
                if key.data is not None:
                    self._advance(key.data)
                elif not self._take_asks():
                    return
            self._assign()
            now = time.monotonic()
            for one in [one for one in self._busy if one.deadline < now]:
                self._drop(one, TimedOut(f"nothing came for {self._target.timeout_s:.0f} s"))

    def _take_asks(self) -> bool:
        """Whether the parent is still there."""
        piece = self._link.recv(ASKS_BYTES)
        self._arrived += piece
        self._waiting.extend(taken_asks(self._arrived))
        return bool(piece) and len(self._waiting) <= MAX_WAITING

    def _assign(self) -> None:
        """Give waiting asks to connections that are free."""
        while self._waiting and len(self._busy) < self._connections:
            self._begin(self._waiting.popleft())

    def _begin(self, ask: Ask) -> None:
        one: Connection | None = None
        try:
            if self._idle:
                one = self._idle.pop()
            else:
                one = Connection(self._target)
                self._selector.register(one.socket, selectors.EVENT_READ, one)
            self._busy.add(one)
            one.begin(ask)
        except (OSError, http.client.HTTPException) as error:
            if one is not None:
                one.ask = None
                self._drop(one, None)
            send_failure(self._link, ask, _unavailable(error))

    def _advance(self, one: Connection) -> None:
        ask = one.ask
        if ask is None:  # an idle connection that the server ends
            self._drop(one, None)
            return
        try:
            answer = one.advance(self._buffer)
        except (OSError, http.client.HTTPException, Unavailable) as error:
            self._drop(one, error)
            return
        if answer is not None:
            self._finish(one, ask, answer)

    def _finish(self, one: Connection, ask: Ask, answer: Body) -> None:
        """The connection's next request goes out first, so that the server works while the parent is told."""
        one.ask = None
        self._busy.discard(one)
        if one.keep:
            self._idle.append(one)
        else:
            self._drop(one, None)
        self._assign()
        send_answer(self._link, ask, *answer)

    def _drop(self, one: Connection, error: Exception | None) -> None:
        """End a connection; what it was asked for fails with ``error``."""
        self._busy.discard(one)
        with contextlib.suppress(ValueError):
            self._idle.remove(one)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(one.socket)
        one.socket.close()
        ask, one.ask = one.ask, None
        if ask is not None and error is not None:
            send_failure(self._link, ask, _unavailable(error))


def _unavailable(error: Exception) -> CoriolisError:
    if isinstance(error, TimedOut | Unavailable):
        return error
    return Unavailable(str(error) or type(error).__name__)


def main() -> None:
    """One order, then asks. What is no error of ours ends with a traceback, which the parent takes for Unavailable."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent decides
    link = socket.socket(fileno=0)
    order = receive_order(link)
    die_with_parent(order.parent)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent does not listen any more
        RangeReader(order, link).serve()


if __name__ == "__main__":
    main()
