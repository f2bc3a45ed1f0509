"""A server is gone when it was removed, also where Nova only marks it as deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("openstack")
from coriolis.providers.openstack import instances
from coriolis.providers.openstack.instances import remove_server


class PhonyNova:
    """Stands for a session with one server. ``keeps``: deleted servers are kept for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, keeps: bool) -> None:
        self.keeps, self.status, self.calls = keeps, "ACTIVE", list[str]()
        monkeypatch.setattr(instances, "ask", self._ask)
        monkeypatch.setattr(instances, "ask_or_none", lambda cloud, service, path: self._look())
        monkeypatch.setattr(instances, "remove", self._remove)

    def _look(self) -> Any:
        return {"server": {"id": "s-1", "status": self.status}} if self.status else None

    def _ask(self, cloud: None, service: str, method: str, path: str, body: dict[str, Any]) -> Any:
        self.calls.append(f"{method} {path} {' '.join(body)}")
        self.status = ""

    async def _remove(self, session: Any, service: str, path: str) -> None:
        self.calls.append(f"DELETE {path}")
        self.status = "SOFT_DELETED" if self.keeps else ""

    async def change(self, call: Callable[[None], Any]) -> Any:
        return call(None)

    async def until(self, look: Callable[[None], Any], timeout_s: float, what: str) -> Any:
        found = look(None)
        assert found is not None, what
        return found


@pytest.mark.parametrize(
    ("keeps", "calls"),
    [(False, ["DELETE /servers/s-1"]), (True, ["DELETE /servers/s-1", "POST /servers/s-1/action forceDelete"])],
)
async def test_a_removed_server_is_gone(monkeypatch: pytest.MonkeyPatch, keeps: bool, calls: list[str]) -> None:
    """One that is kept for a while would keep its volumes and ports too."""
    nova = PhonyNova(monkeypatch, keeps)
    await remove_server(nova, "s-1")  # type: ignore[arg-type]
    assert (nova.status, nova.calls) == ("", calls)
