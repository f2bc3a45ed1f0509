"""What processes cost: wall time, CPU seconds and peak memory of a child process and everything it starts."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SAMPLE_S = 0.2
"""The kernel keeps peaks itself, so rare looks are enough; each costs well below a millisecond per process."""
STOP_S = 10.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """``cpu_s``: of a process and all it started. Peaks in bytes: its largest process, all its processes added."""

    cpu_s: float
    largest_rss: int
    total_rss: int


def descendants(pid: int) -> list[int]:
    """``pid`` and every process below it that is alive."""
    found, unseen = [], [pid]
    while unseen:
        each = unseen.pop()
        found.append(each)
        try:
            threads = list((PROC / str(each) / "task").iterdir())
        except OSError:
            continue
        for thread in threads:
            try:
                unseen.extend(int(child) for child in (thread / "children").read_text().split())
            except OSError:
                continue
    return found


def cpu_seconds(stat: str) -> float:
    """Own user and system time and that of children already waited for, from the text of /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS_PER_S


def peak_rss(status: str) -> int:
    """Bytes of VmHWM in the text of /proc/PID/status; 0 for a process that is ending."""
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


class Tracked:
    """A running child process. It must be started by the main thread: task processes die with their parent thread."""

    def __init__(
        self,
        argv: list[str],
        *,
        log: Path,
        environ: dict[str, str] | None = None,
        cwd: Path | None = None,
        pipes: bool = False,
    ) -> None:
        self.argv, self.log = argv, log
        self.started_at = time.monotonic()
        self.ended_at = 0.0
        self._peaks: dict[int, int] = {}
        self._cpu = 0.0
        self._lock = threading.Lock()
        with log.open("ab") as output:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                env={**os.environ, **(environ or {})},
                cwd=cwd,
            )

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def look(self) -> float:
        """Take peaks now; CPU seconds so far of the whole tree."""
        total = 0.0
        peaks: dict[int, int] = {}
        for pid in descendants(self.process.pid):
            try:
                total += cpu_seconds((PROC / str(pid) / "stat").read_text())
                peaks[pid] = peak_rss((PROC / str(pid) / "status").read_text())
            except OSError:
                continue
        with self._lock:
            for pid, peak in peaks.items():
                self._peaks[pid] = max(self._peaks.get(pid, 0), peak)
            self._cpu = max(self._cpu, total)
            return self._cpu

    def wait(self, timeout_s: float) -> Usage:
        """Look regularly until the process ends. Raises TimeoutError; the process still runs then."""
        deadline = time.monotonic() + timeout_s
        while True:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.argv[0]} did not end within {timeout_s:.0f} s; see {self.log}")
            self.look()
            self._pause()
        self.ended_at = time.monotonic()
        self.process.returncode = os.waitstatus_to_exitcode(status)
        with self._lock:
            # what an orphan of the tree used is only in our own looks, what a short-lived child used only in wait4's
            cpu = max(self._cpu, usage.ru_utime + usage.ru_stime)
            return Usage(cpu, max(self._peaks.values(), default=0), sum(self._peaks.values()))

    def _pause(self) -> None:
        descriptor = os.pidfd_open(self.process.pid)
        try:
            # a short run needs looks early on
            select.select([descriptor], [], [], min(SAMPLE_S, 0.02 + (time.monotonic() - self.started_at) / 4))
        finally:
            os.close(descriptor)

    def stop(self) -> Usage:
        """Ask a server to end (SIGTERM) and return what it used; SIGKILL after ``STOP_S``."""
        self.look()
        self.process.terminate()
        try:
            return self.wait(STOP_S)
        except TimeoutError:
            self.process.kill()
            return self.wait(STOP_S)

    def kill(self) -> None:
        """For the way out of an error: no effect on a process that ended."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()

    def abandon(self) -> None:
        """Kill what still runs, close its pipes."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def tail(self, lines: int = 12) -> str:
        """The end of its log, for error messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def tracked(*processes: Tracked) -> Iterator[None]:
    """Whatever happens, none of them stays."""
    try:
        yield
    finally:
        for process in processes:
            process.abandon()


def wait_until(condition: Callable[[], bool], what: str, process: Tracked, timeout_s: float = 30.0) -> None:
    """Poll ``condition``; OSError with the log's end when the process ends first, TimeoutError when nothing happens."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if process.process.poll() is not None:
            raise OSError(f"{process.argv[0]} ended before {what}:\n{process.tail()}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{process.argv[0]}: no {what} within {timeout_s:.0f} s; see {process.log}")
        time.sleep(0.005)


@dataclass(frozen=True)
class MachineTime:
    """CPU seconds of the whole machine since it booted: busy with anything, and taken by the hypervisor."""

    at: float
    busy_s: float
    stolen_s: float

    @classmethod
    def now(cls) -> MachineTime:
        user, nice, system, _, _, irq, softirq, steal = (
            int(field) / TICKS_PER_S for field in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        return cls(time.monotonic(), user + nice + system + irq + softirq, steal)

    def others_since(self, own_cpu_s: float) -> float:
        """Cores that others kept busy between this moment and now, besides ``own_cpu_s``; stolen time counts."""
        now = MachineTime.now()
        wall = max(now.at - self.at, 1e-6)
        return max(0.0, (now.busy_s - self.busy_s - own_cpu_s + now.stolen_s - self.stolen_s) / wall)
