"""Scripts before the mount, over an appliance whose shell is this machine's."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from coriolis.convert import before_mount
from coriolis.convert.before_mount import run_before_mount
from coriolis.convert.plugin import Script
from coriolis.errors import InvalidInput, Unsupported


class PhonyHandle:
    """What libguestfs's ``debug sh`` does: all words in one command of the shell."""

    def get_pid(self) -> int:
        return 2**22 + 1  # above the largest there can be: to kill it would be an error

    def debug(self, what: str, words: Sequence[str]) -> str:
        assert what == "sh"
        return subprocess.run(["/bin/sh", "-c", " ".join(words)], stdout=subprocess.PIPE, check=True, text=True).stdout


class HandleWithoutShell(PhonyHandle):
    def debug(self, what: str, words: Sequence[str]) -> str:
        raise RuntimeError("debug: unknown subcommand\nsh")


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before_mount, "_PATH", str(tmp_path / "script"))


def run(*payloads: str, phase: str = "osmorphing_pre_os_mount") -> list[str]:
    said: list[str] = []
    scripts = [Script(phase, f"own {n}", text) for n, text in enumerate(payloads)]  # type: ignore[arg-type]
    run_before_mount(PhonyHandle(), scripts, said.append)
    return said


def test_they_run_in_order_with_any_text_in_them() -> None:
    said = run("echo 'a \"b\" $HOME' | sed 's/a/x/'\n", "#!/bin/sh -e\r\necho two\r\n")
    assert said[1] == 'script own 0: x "b" $HOME'
    assert said[3] == "script own 1: two"


def test_scripts_of_other_phases_do_not_run() -> None:
    assert run("exit 1", phase="osmorphing_post_os_mount") == []


def test_the_first_that_fails_ends_it_with_its_last_words() -> None:
    with pytest.raises(InvalidInput, match=r"own 0 failed with status 3: last \\x1b words"):
        run("printf 'last \\033 words'; exit 3", "echo never")


def test_one_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before_mount, "SCRIPT_TIMEOUT_S", 1.0)
    with pytest.raises(InvalidInput, match="own 0 did not end within 1 s"):
        run("sleep 60")


def test_an_appliance_without_a_shell_is_said() -> None:
    script = Script("osmorphing_pre_os_mount", "own", "true")
    with pytest.raises(Unsupported, match="let it run after the mount"):
        run_before_mount(HandleWithoutShell(), [script], print)


def test_a_script_that_is_too_large_never_reaches_the_appliance() -> None:
    with pytest.raises(InvalidInput, match="more than 65536"):
        run("x" * (70 << 10))
