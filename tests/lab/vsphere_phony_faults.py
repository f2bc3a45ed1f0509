"""What a test wants to go wrong at a simulated site. Thread-safe.

A request is told as ``SOAP CreateSnapshot_Task vm-42`` or ``GET /folder/web 1/disk1-flat.vmdk?dcPath=...`` (unquoted);
each rule has a regular expression that is searched in it, and serves ``times`` requests, or all with None.
A ``Held`` request waits for the test, not for a time.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Any


@dataclass
class Rule:
    kind: str
    pattern: re.Pattern[str]
    left: int | None
    value: Any
    text: str = ""
    skip: int = 0


class Held:
    """A request that arrived (``reached``) and is answered when the test says so (``go_on``)."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()


class Faults:
    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def _add(self, kind: str, pattern: str, times: int | None, value: Any, text: str = "") -> Rule:
        rule = Rule(kind, re.compile(pattern), times, value, text)
        with self._lock:
            self._rules.append(rule)
        return rule

    def http(self, pattern: str, status: int = 503, times: int | None = 1, text: str = "Service Unavailable") -> Rule:
        """Answer with this status."""
        return self._add("http", pattern, times, status, text)

    def soap(
        self, pattern: str, fault: str, times: int | None = 1, text: str = "A fault of the lab", inner: str = ""
    ) -> Rule:
        """Answer calls with a fault of the API by its name, e.g. ``NotAuthenticated``; ``inner``: XML of its fields."""
        return self._add("soap", pattern, times, (fault, inner), text)

    def stall(self, pattern: str, seconds: float, times: int | None = 1) -> Rule:
        """Take the request and send nothing for so long; then go on."""
        return self._add("stall", pattern, times, seconds)

    def hold(self, pattern: str, skip: int = 0) -> Held:
        """Keep one request, after ``skip`` others like it, until the test lets it go on."""
        held = Held()
        self._add("hold", pattern, 1, held).skip = skip
        return held

    def slow(self, pattern: str, bytes_per_s: float, times: int | None = None) -> Rule:
        """Send bodies of answers no faster."""
        return self._add("slow", pattern, times, bytes_per_s)

    def cut(self, pattern: str, after: int, times: int | None = 1) -> Rule:
        """Break the connection after so many bytes of an answer's body."""
        return self._add("cut", pattern, times, after)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def pending(self) -> int:
        """Rules that still wait for a request."""
        with self._lock:
            return len(self._rules)

    def take(self, kind: str, request: str) -> Rule | None:
        """The first rule of a kind for a request; used up by that."""
        with self._lock:
            for rule in self._rules:
                if rule.kind == kind and rule.pattern.search(request):
                    if rule.skip:
                        rule.skip -= 1
                        continue
                    if rule.left is not None:
                        rule.left -= 1
                        if rule.left <= 0:
                            self._rules.remove(rule)
                    return rule
        return None
