"""Slots are shared by processes, given back however their holder ends, and never make anybody wait for ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from coriolis.providers.vmware_vsphere import connection_slots
from coriolis.providers.vmware_vsphere.connection_slots import Limit, connections, release, take

HOST, ENDPOINT = Limit("host", 3), Limit("vcenter", 5)


def silent(message: str, level: str = "INFO") -> None:
    """An event nobody needs."""


def test_slots_are_taken_once_and_given_back(tmp_path: Path) -> None:
    first = take(tmp_path, HOST, 2)
    second = take(tmp_path, HOST, 2)
    assert (len(first), len(second)) == (2, 1)
    assert take(tmp_path, HOST, 1) == []
    assert len(take(tmp_path, Limit("another", 3), 3)) == 3
    release(first)
    assert len(take(tmp_path, HOST, 3)) == 2


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from coriolis.providers.vmware_vsphere.connection_slots import *;"
        f"print(len(take(Path({str(tmp_path)!r}), Limit('host', 3), 3)), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "3\n"
        assert take(tmp_path, HOST, 1) == []
        child.kill()
    assert len(take(tmp_path, HOST, 3)) == 3


async def test_the_smallest_limit_decides_and_the_rest_stays_free(tmp_path: Path) -> None:
    async with connections(tmp_path, (HOST, ENDPOINT), 8, silent) as granted:
        assert granted == 3
        async with connections(tmp_path, (ENDPOINT,), 8, silent) as rest:
            assert rest == 2
    assert len(take(tmp_path, ENDPOINT, 9)) == 5


async def test_a_machine_with_more_disks_than_slots_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_slots, "PATIENCE_S", 0.2)
    said: list[str] = []

    def hear(message: str, level: str = "INFO") -> None:
        said.append(f"{level} {message}")

    one = (Limit("host", 1),)
    async with connections(tmp_path, one, 1, silent), connections(tmp_path, one, 4, hear) as granted:
        assert granted == 1
    assert said == ["WARNING all connections to host (1) are taken; going on with one more"]


async def test_without_a_directory_nothing_is_limited() -> None:
    async with connections(None, (HOST,), 8, silent) as granted:
        assert granted == 8
