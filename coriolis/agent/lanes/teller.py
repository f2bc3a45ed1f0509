"""Tells a task what its sink's lanes wrote: some frames at a time, none later than a few milliseconds."""

from __future__ import annotations

import socket
import threading
import time

from coriolis.agent.lanes.messages import WORDS_AT_ONCE, FromHost, Refused, Wrote, WroteFrame, encode_message

DELAY_S = 0.003


class Teller:
    """Shared by the threads of a host.

    ``add`` waits for company: for a few milliseconds, or, where a lane can tell that more is coming, until it is not.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._wrote: dict[str, list[WroteFrame]] = {}
        self._some = threading.Event()
        threading.Thread(target=self._tell_soon, name="teller", daemon=True).start()

    def add(self, disk_id: str, said: WroteFrame | Refused, more_comes: bool | None = None) -> None:
        """``more_comes``: None where nobody can know. True binds the lane to another ``add`` or to ``flush``."""
        if isinstance(said, Refused):
            self.say(said)
            return
        with self._lock:
            frames = self._wrote.setdefault(disk_id, [])
            frames.append(said)
            if len(frames) >= WORDS_AT_ONCE or more_comes is False:
                self._tell(disk_id)
            elif more_comes is None and len(frames) == 1:
                self._some.set()

    def flush(self, disk_id: str) -> None:
        with self._lock:
            if disk_id in self._wrote:
                self._tell(disk_id)

    def say(self, message: FromHost) -> None:
        """At once. Without effect when the task has closed its end: nobody listens any more."""
        try:
            self._link.send(encode_message(message))
        except OSError:
            return

    def _tell(self, disk_id: str) -> None:
        self.say(Wrote(disk_id, tuple(self._wrote.pop(disk_id))))

    def _tell_soon(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            time.sleep(DELAY_S)
            with self._lock:
                for disk_id in list(self._wrote):
                    self._tell(disk_id)
