"""Runs contestants in turn over one image, shows how far they are, and keeps what they needed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.ours import Ours
from bench.scene import Scene
from bench.table import Sample, rounds

BETWEEN_RUNS_S = 0.2
"""For the kernel to free what the last run left."""
LINE_EVERY_S = 10.0
TOUCH_BYTES = 8 << 20


class Contestant(Protocol):
    @property
    def name(self) -> str: ...

    def run(self, scene: Scene) -> Sample: ...


@dataclass
class Series:
    """What came out for one image. A contestant that failed once is left out of later rounds; ``failed`` says why."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    load_before: float = 0.0

    def both(self, one: str, other: str) -> tuple[list[Sample], list[Sample]] | None:
        """Samples of two contestants when both finished all rounds."""
        if one in self.failed or other in self.failed or one not in self.samples or other not in self.samples:
            return None
        return self.samples[one], self.samples[other]


class Show:
    """A bar on a terminal, a line per run elsewhere."""

    def __init__(self, console: Console, title: str, runs: int) -> None:
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[doing]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(title, total=runs, doing="")
        self._title = title

    def __enter__(self) -> Show:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def doing(self, text: str) -> None:
        self._progress.update(self._task, doing=text)

    def done(self, text: str) -> None:
        self._progress.advance(self._task)
        if not self._console.is_terminal:
            self._console.print(f"{self._title}: {text}")


def touch_memory(folder: Path, size: int) -> None:
    """Write a file as large as a copy and remove it.

    Memory that a virtual machine never used is fetched from its host at the first touch: the first contestant paid
    twice the CPU time of all later ones for that.
    """
    path, piece = folder / "touched", memoryview(os.urandom(TOUCH_BYTES))
    with path.open("wb", buffering=0) as file:
        for at in range(0, size, TOUCH_BYTES):
            file.write(piece[: min(TOUCH_BYTES, size - at)])
    path.unlink()


def run_series(console: Console, title: str, scene: Scene, contestants: Sequence[Contestant], count: int) -> Series:
    """``count`` rounds. A failure is told at once and in the result; it never stops the others."""
    series = Series(load_before=os.getloadavg()[0])
    touch_memory(scene.work, scene.image.stat().st_size)
    with Show(console, title, count * len(contestants)) as show:
        for number, contestant in rounds(contestants, count):
            name = contestant.name
            if name in series.failed:
                continue
            show.doing(f"round {number + 1}: {name}")
            try:
                sample = _run(contestant, scene, show, f"round {number + 1}: {name}")
            except (OSError, ValueError, ExceptionGroup) as failed:
                series.failed[name] = str(failed)
                console.print(f"[bold red]{title}: {name} failed: {failed}", highlight=False)
                continue
            series.samples.setdefault(name, []).append(sample)
            show.done(f"round {number + 1}: {name} {sample.copy_s:.2f} s, {sample.cpu_s:.2f} CPU-s")
            time.sleep(BETWEEN_RUNS_S)
    return series


def _run(contestant: Contestant, scene: Scene, show: Show, doing: str) -> Sample:
    if isinstance(contestant, Ours):
        return contestant.run(scene, _percent(show, doing))
    return contestant.run(scene)


def _percent(show: Show, doing: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        show.doing(f"{doing} {100 * done // max(1, total)}%")

    return tell
