"""Tables on the terminal and the files under ``out``."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.scene import ROOT
from bench.series import Series
from bench.table import Cost, Row, checks, load_note, said_of
from bench.wan.goals import RoadRow, WanRow
from bench.wan.goals import checks as wan_checks

LINK_COUNTS = "; the emulated line's own work counts as others'"
TOO_SMALL = "[yellow]small images: start-up outweighs the copy; the ratios show that all runs, not how fast"


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpus": os.cpu_count(),
        "cpu": next((line.split(": ")[1] for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _commit() -> str:
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(described, capture_output=True, text=True, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def write_json(path: Path, document: Any) -> None:
    """In one rename, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    fresh.rename(path)


def show_costs(console: Console, title: str, costs: Sequence[Cost]) -> None:
    """Absolute numbers of one image."""
    table = Table(title=title, title_justify="left")
    table.add_column("contestant")
    for name in ("copy s [min-max]", "with start s", "GiB/s", "CPU-s/GiB", "with start", "RSS MiB source", "sink"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("all processes", justify="right")
    table.add_column("allocated MiB", justify="right")
    for each in costs:
        table.add_row(*_cells(each))
    console.print(table)


def _cells(each: Cost) -> list[str]:
    return [
        escape(each.contestant),
        f"{each.copy_s.median:.2f} \\[{each.copy_s.low:.2f}-{each.copy_s.high:.2f}]",
        f"{each.whole_s:.2f}",
        f"{each.gib_per_s:.2f}",
        f"{each.cpu_s_per_gib:.2f}",
        f"{each.whole_cpu_s_per_gib:.2f}",
        f"{each.source_rss_mib:.0f}",
        f"{each.sink_rss_mib:.0f}",
        f"{each.total_rss_mib:.0f}",
        f"{each.allocated_mib:.0f}",
    ]


def show_rows(console: Console, rows: Sequence[Row], series: Mapping[str, Series]) -> None:
    """Ratios and verdicts of all images, what failed, and how quiet the machine was."""
    table = Table(
        title="Ours against the peers: above 1 we are faster; CPU above 1 we are dearer", title_justify="left"
    )
    for name in ("image", "transport", "peer"):
        table.add_column(name)
    for name in ("speed [min-max]", "CPU", "RSS MiB", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("goals")
    for row in rows:
        cells = [row.image, row.transport, row.peer + (" TLS" if row.tls else " plain"), _speed(row)]
        numbers = [f"{row.cpu_ratio_median:.2f}", f"{row.rss_mib:.0f}", str(row.n)]
        table.add_row(*cells, *numbers, _coloured(said_of(checks(row))))
    console.print(table)
    _show_notes(console, series)


def _speed(row: Row | WanRow) -> str:
    return f"{row.speed_ratio_median:.2f} \\[{row.speed_ratio_min:.2f}-{row.speed_ratio_max:.2f}]"


def _coloured(said: str) -> str:
    colour = "red" if said.startswith("MISSED") else "green" if said == "met" else "dim"
    return f"[{colour}]{said}"


def _show_notes(console: Console, series: Mapping[str, Series], remark: str = "") -> None:
    for image, each in series.items():
        console.print(f"{image}: {load_note(each.load_before, each.samples)}{remark}", highlight=False)
        for name, reason in each.failed.items():
            console.print(f"[red]{image}: {escape(name)} FAILED: {escape(reason)}", highlight=False)


def show_wan_rows(console: Console, rows: Sequence[WanRow], series: Mapping[str, Series]) -> None:
    """The same for the long path."""
    table = Table(title="Over the long path, against nbdcopy's best setting", title_justify="left")
    for name in ("image", "loss", "transport", "path", "peer"):
        table.add_column(name)
    for name in ("speed", "of the line", "CPU", "RSS MiB", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("goals")
    for row in rows:
        said = said_of(wan_checks(row))
        cells = [row.image, f"{row.loss:.1%}", row.transport, row.path, row.peer, _speed(row)]
        numbers = [f"{row.line_share_median:.2f}", f"{row.cpu_ratio_median:.2f}", f"{row.rss_mib:.0f}", str(row.n)]
        table.add_row(*cells, *numbers, _coloured(said))
    console.print(table)
    _show_notes(console, series, LINK_COUNTS)


def show_road_rows(console: Console, rows: Sequence[RoadRow], series: Mapping[str, Series]) -> None:
    """Pairs that cannot simply be dialled: whether they work is what counts."""
    table = Table(title="Pairs that cannot simply be dialled, incompressible", title_justify="left")
    for name in ("situation", "path", "transport"):
        table.add_column(name)
    for name in ("copy s", "of the line", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("goal")
    for row in rows:
        numbers = [f"{row.copy_s_median:.2f}", f"{row.line_share_median:.2f}", str(row.n)]
        table.add_row(row.situation, row.path, row.transport, *numbers, _coloured("met" if row.n else "MISSED works"))
    console.print(table)
    _show_notes(console, series, LINK_COUNTS)
