"""What the demo shows while a migration runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

LINE_EVERY_S = 2.0
TASK_WORDS = {
    "SHUTDOWN_INSTANCE": "origin shut down",
    "OS_MORPHING": "guest converted for virtio, in an overlay",
    "FINALIZE_INSTANCE_DEPLOYMENT": "destination machine made and started",
}
"""The tasks whose names say little to somebody who sees Coriolis for the first time."""

Event = dict[str, Any]


def size(count: float) -> str:
    """Bytes for people: 1.9 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def speed_and_eta(disk: Event) -> str:
    """Of a disk's event: ``48.0 MiB/s, 12 s left``."""
    if disk["sealed"]:
        return "sealed (digests of both sides agree)"
    left = "" if disk["eta_s"] is None else f", {disk['eta_s']:.0f} s left"
    return f"{size(disk['rate_bytes_per_s'])}/s{left}"


class View:
    """A context manager; ``say`` prints a line, ``event`` takes one server-sent event."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._console = Console(highlight=False, soft_wrap=True)
        self._live = sys.stdout.isatty()
        self._progress = Progress(
            TextColumn("         {task.description}"),
            BarColumn(20),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[rate]}"),
            console=self._console,
            disable=not self._live,
        )
        self._bars: dict[tuple[str, int], TaskID] = {}
        self._printed: dict[tuple[str, int], float] = {}
        self._sealed: set[tuple[str, int]] = set()
        self._tasks: dict[str, str] = {}
        self.task_times: dict[str, float] = {}
        """When each type of task was first seen completed, by this process's clock."""

    def __enter__(self) -> View:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str, style: str = "") -> None:
        """One line, with the seconds since the demo began."""
        self._console.print(f"[{time.monotonic() - self._began:5.0f} s] {text}", style=style, markup=False)

    def event(self, kind: str, document: Event) -> None:
        if kind == "state":
            self.say(f"migration {document['status']}")
        elif kind == "task":
            self._task(document)
        elif kind == "disk":
            self._disk(document)

    def _task(self, task: Event) -> None:
        if self._tasks.get(task["id"]) == task["status"]:
            return
        self._tasks[task["id"]] = task["status"]
        name, status = task["task_type"], task["status"]
        if status in ("COMPLETED", "ERROR"):
            self.task_times.setdefault(name, time.monotonic())
            words = f"  ({TASK_WORDS[name]})" if name in TASK_WORDS and status == "COMPLETED" else ""
            where = f" on {task['host']}" if task["host"] else ""
            self.say(f"  {name:<38}{status}{where}{words}", "red" if status == "ERROR" else "")

    def _disk(self, disk: Event) -> None:
        """A bar while it moves, and one line that stays when it is sealed; without a terminal, lines only."""
        key = (disk["disk_id"], disk["pass_number"])
        if key in self._sealed:
            return
        name = f"disk {disk['disk_id']}, pass {disk['pass_number']}"
        if disk["sealed"]:
            self._sealed.add(key)
            if key in self._bars:
                self._progress.remove_task(self._bars.pop(key))
        elif self._live:
            if key not in self._bars:
                self._bars[key] = self._progress.add_task(name, total=None, rate="")
            total = disk["total_bytes"] or None
            self._progress.update(self._bars[key], total=total, completed=disk["done_bytes"], rate=speed_and_eta(disk))
            return
        elif time.monotonic() - self._printed.get(key, 0) < LINE_EVERY_S:
            return
        self._printed[key] = time.monotonic()
        percent = 100 * disk["done_bytes"] // max(1, disk["total_bytes"])
        moved = f"read {size(disk['read_bytes'])}, sent {size(disk['sent_bytes'])}"
        self.say(f"  {name}: {percent}% of {size(disk['total_bytes'])}, {moved}, {speed_and_eta(disk)}")
