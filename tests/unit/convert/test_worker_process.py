"""The real worker process, and processes that misbehave in its place. No appliance is started."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coriolis.convert import appliance, worker_process
from coriolis.convert.worker_process import run_worker
from coriolis.errors import Corrupt, InvalidInput, TaskDied, TimedOut, Unavailable

pytest.importorskip("guestfs")


async def test_an_unknown_operation_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not know"):
        await run_worker({"op": "nothing"}, print, run_dir=tmp_path, timeout_s=30)


def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Let ``script`` be the worker."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable} -S\nimport os, sys, time\nsys.stdin.readline()\n{script}\n")
    path.chmod(0o755)

    async def find() -> str:
        return str(path)

    monkeypatch.setattr(worker_process, "find_interpreter", find)


async def test_events_then_the_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    play(monkeypatch, tmp_path, 'print(\'{"event": "one"}\'); print(\'{"result": {"a": 1}}\')')
    events: list[str] = []
    assert await run_worker({}, events.append, run_dir=tmp_path, timeout_s=30) == {"a": 1}
    assert events == ["one"]


async def test_a_death_tells_the_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    play(monkeypatch, tmp_path, "sys.stderr.write('first\\nout of \\x1bmemory\\n'); sys.exit(1)")
    with pytest.raises(TaskDied, match=r"out of \\x1bmemory"):
        await run_worker({}, print, run_dir=tmp_path, timeout_s=30)


@pytest.mark.parametrize(
    "script",
    ["print('no json')", "print('x' * 200000)", '[print(\'{"event": "x"}\') for _ in range(20000)]'],
)
async def test_nonsense_and_floods_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    play(monkeypatch, tmp_path, script)
    with pytest.raises(Corrupt):
        await run_worker({}, lambda _: None, run_dir=tmp_path, timeout_s=30)


SLEEPER = """import subprocess
child = subprocess.Popen(['sleep', '1000'])
open('{}', 'w').write(str(child.pid))
time.sleep(1000)"""


async def child_of(tmp_path: Path) -> int:
    for _ in range(200):
        try:
            return int((tmp_path / "child").read_text())
        except (FileNotFoundError, ValueError):
            await asyncio.sleep(0.05)
    raise AssertionError("the worker did not start")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def test_a_cancelled_worker_leaves_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    play(monkeypatch, tmp_path, SLEEPER.format(tmp_path / "child"))
    task = asyncio.create_task(run_worker({}, print, run_dir=tmp_path, timeout_s=100))
    child = await child_of(tmp_path)
    assert alive(child)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(child)


async def test_a_worker_out_of_time_leaves_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    play(monkeypatch, tmp_path, SLEEPER.format(tmp_path / "child"))
    with pytest.raises(TimedOut, match="nothing for 2 s"):
        await run_worker({}, print, run_dir=tmp_path, timeout_s=2)
    await gone(await child_of(tmp_path))


async def test_a_worker_that_goes_on_telling_has_more_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The full way takes minutes for each of many kernels."""
    play(
        monkeypatch,
        tmp_path,
        'for n in range(6): print(\'{"event": "kernel"}\', flush=True); time.sleep(0.5)\nprint(\'{"result": {}}\')',
    )
    assert await run_worker({}, lambda _: None, run_dir=tmp_path, timeout_s=2) == {}


async def test_a_dead_worker_leaves_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The appliance outlives a worker that crashes; its group must end all the same."""
    play(monkeypatch, tmp_path, SLEEPER.format(tmp_path / "child").replace("time.sleep(1000)", "os._exit(3)"))
    with pytest.raises(TaskDied):
        await run_worker({}, print, run_dir=tmp_path, timeout_s=30)
    await gone(await child_of(tmp_path))


async def gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is left"
        await asyncio.sleep(0.05)


WORKER_IN_A_CALL = """
import ctypes
from coriolis.convert import guest_worker as w
def wait(request, say):
    say(str(w.os.getpid()))
    ctypes.PyDLL(None).sleep(1000)
w.OPERATIONS['wait'] = wait
w.main()
"""
PARENT = """
import os, subprocess, sys
worker = subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())], stdin=subprocess.PIPE, text=True)
worker.stdin.write('{"op": "wait"}\\n')
worker.stdin.flush()
worker.wait()
"""


def test_a_worker_whose_parent_died_before_it_began_does_nothing() -> None:
    """Its request may be in the pipe already; it would convert in the overlay of the next attempt."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    command = [sys.executable, "-c", WORKER_IN_A_CALL, str(dead.pid)]
    done = subprocess.run(
        command,
        input='{"op": "wait"}\n',
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "the parent is gone" in done.stderr


async def test_the_worker_ends_with_its_parent_even_inside_a_call(tmp_path: Path) -> None:
    """As libguestfs's calls do, this one keeps the interpreter: a thread that watched the parent had no turn."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT,
        WORKER_IN_A_CALL,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    worker = int(json.loads(await parent.stdout.readline())["event"])
    assert alive(worker)
    parent.kill()
    await parent.wait()
    await gone(worker)


async def test_no_interpreter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_CAN_IMPORT", "raise SystemExit(1)")
    with pytest.raises(Unavailable, match="python3-guestfs"):
        await worker_process.find_interpreter()


async def test_kvm_that_does_not_launch_means_emulation_and_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []

    async def failing(request: object, *args: object, **kwargs: object) -> dict[str, object]:
        asked.append(request)
        raise Unavailable("QEMU aborted")

    monkeypatch.setattr(appliance, "run_worker", failing)
    monkeypatch.setattr(appliance, "_KVM_DEVICE", "/dev/null")
    for _ in range(2):
        assert await appliance.choose_accelerator(tmp_path, tmp_path, 1024, print) == "tcg"
    assert len(asked) == 1


async def test_kvm_that_launches_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def working(*args: object, **kwargs: object) -> dict[str, object]:
        return {}

    monkeypatch.setattr(appliance, "run_worker", working)
    monkeypatch.setattr(appliance, "_KVM_DEVICE", "/dev/null")
    assert await appliance.choose_accelerator(tmp_path, tmp_path, 1024, print) == "kvm"
    monkeypatch.setattr(appliance, "_host", lambda: "another host")
    assert appliance.remembered(tmp_path / "accelerator.json") is None
