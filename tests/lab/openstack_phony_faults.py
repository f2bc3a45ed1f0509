"""Phony faults in front of a real OpenStack: answers that its services would give on a bad day, in the client's way.

``with phony_faults(connection) as faults: faults.add("POST", "/volumes", 503)``. The rest goes to the real services.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter


@dataclass
class Fault:
    """``performed``: the service does its work first, and only the answer is lost. ``change``: of the real answer."""

    method: str
    pattern: re.Pattern[str]
    status: int
    times: int
    headers: Mapping[str, str]
    body: Any
    performed: bool
    change: Callable[[Any], None] | None
    met: int = 0


@dataclass
class PhonyFaults(BaseAdapter):
    """Stands before the session's own adapter. ``calls``: every request as ``METHOD path``."""

    inner: BaseAdapter
    faults: list[Fault] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def add(
        self,
        method: str,
        path: str,
        status: int = 0,
        *,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        performed: bool = False,
        change: Callable[[Any], None] | None = None,
    ) -> Fault:
        """The next ``times`` requests whose path ends with the regular expression ``path`` meet it."""
        fault = Fault(method, re.compile(f".*{path}$"), status, times, headers or {}, body, performed, change)
        self.faults.append(fault)
        return fault

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        where = urlsplit(request.url or "").path
        self.calls.append(f"{request.method} {where}")
        for fault in self.faults:
            if fault.met < fault.times and fault.method == request.method and fault.pattern.match(str(where)):
                fault.met += 1
                return self._answer(fault, request, arguments, options)
        return self.inner.send(request, *arguments, **options)

    def _answer(
        self, fault: Fault, request: requests.PreparedRequest, arguments: Any, options: Any
    ) -> requests.Response:
        real = self.inner.send(request, *arguments, **options) if fault.performed or fault.change else None
        if real is not None and fault.change is not None:
            document = json.loads(real.content)
            fault.change(document)
            real._content = json.dumps(document).encode()
            return real
        answer = requests.Response()
        answer.status_code = fault.status
        answer.headers.update({"Content-Type": "application/json", **fault.headers})
        said = {"phony": {"message": f"a phony fault, {fault.status}"}} if fault.body is None else fault.body
        answer._content = json.dumps(said).encode()
        answer.request, answer.url = request, request.url or ""
        answer.reason = "phony"
        return answer

    def close(self) -> None:
        self.inner.close()


@contextmanager
def phony_faults(connection: Any) -> Iterator[PhonyFaults]:
    """In the way of all requests of an open connection of the provider."""
    session: requests.Session = connection.session._keystone.session
    before = {scheme: session.get_adapter(scheme) for scheme in ("http://", "https://")}
    faults = PhonyFaults(before["http://"])
    for scheme in before:
        session.mount(scheme, faults)
    try:
        yield faults
    finally:
        for scheme, adapter in before.items():
            session.mount(scheme, adapter)
