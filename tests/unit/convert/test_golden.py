"""Every phony guest converted end to end: what changes in it is compared with the text that somebody has looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from coriolis.convert.plugins import convert_guest, plan_guest
from tests.lab.phony_distros import DISTROS, MACS
from tests.lab.phony_network import address
from tests.unit.convert.golden_conversion import CASES, GOLDEN, changes, converted, job_of, phony_guest, tree_of

STATIC = sorted(key for key in CASES if DISTROS[key].network != "networkd")


def test_every_phony_guest_has_a_case() -> None:
    assert sorted(CASES) == sorted(DISTROS)
    assert {path.stem for path in GOLDEN.glob("*.diff")} == set(CASES)


@pytest.mark.parametrize("key", CASES)
def test_what_changes_is_as_agreed(tmp_path: Path, key: str) -> None:
    text, facts, _ = converted(tmp_path, key)
    wanted = (GOLDEN / f"{key}.diff").read_text()
    assert text == wanted, "look at it, then: python -m tests.unit.convert.golden_conversion --update"
    assert facts.way == "fast"
    assert facts.kernel_versions == [DISTROS[key].kernel]


@pytest.mark.parametrize("key", CASES)
def test_a_plan_reads_only_and_a_second_conversion_changes_nothing(tmp_path: Path, key: str) -> None:
    guest = phony_guest(tmp_path, key)
    job = job_of(DISTROS[key], CASES[key])
    before = tree_of(tmp_path)
    plan = plan_guest(guest, job)
    assert tree_of(tmp_path) == before
    assert not [finding for finding in plan.findings if finding.severity == "error"]
    convert_guest(guest, job, lambda text: None)
    first = tree_of(tmp_path)
    convert_guest(guest, job, lambda text: None)
    assert changes(first, tree_of(tmp_path)) == ""


@pytest.mark.parametrize("key", STATIC)
def test_addresses_go_where_asked_and_stay_where_not(tmp_path: Path, key: str) -> None:
    guest, case = phony_guest(tmp_path, key), CASES[key]
    convert_guest(guest, job_of(DISTROS[key], case), lambda text: None)
    places = ("etc/network", "etc/netplan", "etc/sysconfig", "etc/NetworkManager")
    texts = [path.read_text() for place in places for path in (tmp_path / place).rglob("*") if path.is_file()]
    for number, _ in enumerate(DISTROS[key].nics):
        there = any(address(number) in text for text in texts)
        assert there == (number not in case.dhcp), f"{MACS[number]}: {address(number)}"
