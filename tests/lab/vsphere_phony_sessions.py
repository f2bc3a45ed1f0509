"""Which logins of a simulated site are good: vcsim forgets none and asks for none on ``/folder`` and ``/nfc``."""

from __future__ import annotations

import re
import threading

COOKIE = "vmware_soap_session"
_VALUE = re.compile(COOKIE + r'="?([^";,\s]+)')


class Sessions:
    def __init__(self) -> None:
        self._good: set[str] = set()
        self._lock = threading.Lock()
        self._calls_left: int | None = None

    def login(self, set_cookie: str) -> None:
        if match := _VALUE.search(set_cookie):
            with self._lock:
                self._good.add(match[1])

    def good(self, cookie: str | None) -> bool:
        match = _VALUE.search(cookie or "")
        with self._lock:
            return match is not None and match[1] in self._good

    def end(self, cookie: str | None) -> None:
        if match := _VALUE.search(cookie or ""):
            with self._lock:
                self._good.discard(match[1])

    def expire(self) -> None:
        """All that are logged in now must log in again."""
        with self._lock:
            self._good.clear()

    def expire_after(self, calls: int) -> None:
        """Once, after so many more calls of the API by anyone."""
        with self._lock:
            self._calls_left = calls

    def called(self) -> None:
        with self._lock:
            if self._calls_left is None:
                return
            self._calls_left -= 1
            if self._calls_left < 0:
                self._calls_left = None
                self._good.clear()
