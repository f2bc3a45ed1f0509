"""Following a migration: one bar per disk with bytes, speed and ETA; plain lines when nobody watches a terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from coriolis.cli.exits import Ended, Exit, HttpFailure
from coriolis.cli.output import STYLES, console, human_bytes, human_seconds
from coriolis.cli.rest import Api

Document = dict[str, Any]

ENDS = {"COMPLETED": Exit.OK, "ERROR": Exit.MIGRATION_ERROR, "CANCELED": Exit.MIGRATION_CANCELED}
TOLD = frozenset({"RUNNING", "COMPLETED", "ERROR", "CANCELLING", "CANCELED"})
"""Statuses worth a line; tasks pass the others in moments."""
RECONNECT_FIRST_S = 1.0
RECONNECT_MOST_S = 10.0
RECONNECT_GIVE_UP_S = 300.0
PLAIN_LINE_EVERY_S = 5.0


class Display:
    """Shows events as they come. ``status`` is the last one seen."""

    def __init__(self, shown: Console) -> None:
        self.status = ""
        self._console = shown
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._said: set[tuple[str, str]] = set()
        self._last_line: dict[tuple[str, str], float] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[numbers]}", markup=False),
            console=shown,
            disable=not shown.is_terminal,
        )

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, name: str, document: Document) -> None:
        """One event of the stream."""
        match name:
            case "state":
                if document["status"] != self.status:
                    self.status = document["status"]
                    self._say("", self.status, STYLES.get(self.status, ""))
            case "task":
                self._show_task(document)
            case "disk":
                self._show_disk(document)

    def _show_task(self, task: Document) -> None:
        if task["status"] in TOLD and (task["id"], task["status"]) not in self._said:
            self._said.add((task["id"], task["status"]))
            self._say(task["instance"], f"{task['task_type']} {task['status']}", STYLES.get(task["status"], ""))
        told = {event["message"] for event in task["events"]}
        for event in task["events"]:
            if (event["id"], "") not in self._said:
                self._said.add((event["id"], ""))
                style = {"ERROR": "red", "WARNING": "yellow"}.get(event["level"], "")
                self._say(task["instance"], event["message"], style)
        failure = task["exception_details"]
        if failure and failure not in told and (task["id"], failure) not in self._said:
            self._said.add((task["id"], failure))
            self._say(task["instance"], failure, "red")

    def _show_disk(self, disk: Document) -> None:
        key = (disk["task_id"], disk["disk_id"])
        title = f"{disk['instance']} {disk['disk_id']} pass {disk['pass_number']}"
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(title, total=max(1, disk["total_bytes"]), numbers="")
        done = max(1, disk["total_bytes"]) if disk["sealed"] else disk["done_bytes"]
        self._progress.update(
            self._bars[key], total=max(1, disk["total_bytes"]), completed=done, numbers=disk_numbers(disk)
        )
        now = time.monotonic()
        due = now - self._last_line.get(key, -PLAIN_LINE_EVERY_S) >= PLAIN_LINE_EVERY_S or disk["sealed"]
        if not self._console.is_terminal and due and (key[0], key[1] + "sealed") not in self._said:
            self._last_line[key] = now
            if disk["sealed"]:
                self._said.add((key[0], key[1] + "sealed"))
            self._console.print(Text(f"{title}: {disk_numbers(disk)}"))

    def _say(self, instance: str, text: str, style: str) -> None:
        line = Text(time.strftime("%H:%M:%S "), style="dim")
        line.append(f"{instance}: " if instance else "", style="bold")
        line.append(text, style=style)
        self._progress.console.print(line)


def disk_numbers(disk: Document) -> str:
    """``512.0 MiB / 1.0 GiB  100.0 MiB/s  ETA 0:05  direct x2  zstd 2.9:1``."""
    covered = f"{human_bytes(disk['done_bytes'])} / {human_bytes(disk['total_bytes'])}"
    if disk["sealed"]:
        return f"{covered}  sealed, {human_bytes(disk['sent_bytes'])} sent{_packed(disk)}"
    how = f"  {disk['transport']} x{disk['lanes']}" if disk.get("transport") else ""
    speed = f"{human_bytes(disk['rate_bytes_per_s'])}/s  ETA {human_seconds(disk['eta_s'])}"
    return f"{covered}  {speed}{how}{_packed(disk)}"


def _packed(disk: Document) -> str:
    ratio = disk.get("compression_ratio")
    return f"  zstd {ratio:.1f}:1" if ratio else ""


def follow(api: Api, migration_id: str) -> Exit:
    """Show a migration until it ends and return what its end means. Survives restarts of the gateway for 5 min."""
    # progress goes to stderr: stdout stays for what a program may read
    with Display(console(stderr=True)) as display:
        pause_s, silent_since = RECONNECT_FIRST_S, time.monotonic()
        while True:
            try:
                with api.events(f"/migrations/{migration_id}/events") as events:
                    for name, document in events:
                        pause_s, silent_since = RECONNECT_FIRST_S, time.monotonic()
                        if name == "error":
                            break
                        display.show(name, document)
                        if display.status in ENDS:
                            return ENDS[display.status]
            except HttpFailure as failure:
                if failure.exit_code != Exit.UNAVAILABLE or time.monotonic() - silent_since > RECONNECT_GIVE_UP_S:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, RECONNECT_MOST_S)


def follow_and_end(api: Api, migration_id: str) -> None:
    """``follow``, then end the command with the code of the migration's end."""
    code = follow(api, migration_id)
    if code is not Exit.OK:
        raise Ended(code)
