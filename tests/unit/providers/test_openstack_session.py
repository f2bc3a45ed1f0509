"""What is asked again of a cloud that is busy, and what is not."""

from __future__ import annotations

import threading
import types
from typing import Any

import pytest

pytest.importorskip("coriolis.keystone")  # before openstacksdk, see there
pytest.importorskip("openstack")
from keystoneauth1 import exceptions

from coriolis.errors import CoriolisError, Denied, Throttled, TimedOut, Unavailable
from coriolis.providers.openstack import session as session_module
from coriolis.providers.openstack.access import Access
from coriolis.providers.openstack.session import REPEATS, Session

ACCESS = Access("password", "http://cloud.test/v3", {"username": "u"})


class BusyCloud:
    """Answers with ``status``, then with what was asked for."""

    def __init__(self, status: int, times: int) -> None:
        self.status, self.times, self.calls = status, times, 0

    def __call__(self, cloud: Any) -> str:
        self.calls += 1
        if self.calls > self.times:
            return "found"
        raise exceptions.HttpError("busy", http_status=self.status)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(session_module, "MAX_WAIT_S", 0.0)
    found = Session(ACCESS)
    monkeypatch.setattr(found, "_cloud", types.SimpleNamespace(close=lambda: None))
    return found


@pytest.mark.parametrize(
    ("status", "error"), [(429, Throttled), (500, Unavailable), (503, Unavailable), (504, TimedOut), (408, TimedOut)]
)
async def test_reads_are_repeated_while_the_cloud_is_busy(
    opened: Session, status: int, error: type[CoriolisError]
) -> None:
    """A gateway's 504 too: a wait of hours would end with it, and an upload begin anew."""
    once, always = BusyCloud(status, 1), BusyCloud(status, REPEATS)
    assert await opened.read(once) == "found"
    assert once.calls == 2
    with pytest.raises(error):
        await opened.read(always)
    assert always.calls == REPEATS
    await opened.close()


async def test_neither_refusals_nor_waits_of_our_own_are_repeated(opened: Session) -> None:
    refused, stuck = BusyCloud(403, 9), threading.Event()
    with pytest.raises(Denied):
        await opened.read(refused)
    assert refused.calls == 1
    calls = []

    def wait(cloud: Any) -> None:
        calls.append(1)
        stuck.wait(30)

    with pytest.raises(TimedOut, match="did not answer within"):
        await opened.read(wait, timeout_s=0.1)
    assert len(calls) == 1
    stuck.set()
    await opened.close()
