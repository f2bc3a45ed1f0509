"""``python -m bench.vsphere``: our readers beside curl and a plain decoder, from the same simulator in turn."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from bench.__main__ import listed
from bench.measure import Tracked, tracked
from bench.report import machine, write_json
from bench.scene import OUT, ROOT
from bench.vsphere.peers import RUNS, TIMEOUT_S
from bench.vsphere.simulated import Scene, simulated, simulator
from bench.vsphere.verdicts import GOALS, MIB, OURS, Row, Run, inventory_verdict, rows

DISKS = 4
WHATS = (*GOALS, "inventory")
OUR_NAMES = {**{what: what for what in GOALS}, "export": "export-1", "export-4": f"export-{DISKS}"}
LOGS = OUT / "logs"


def ours(what: str, info: dict[str, Any]) -> dict[str, Any]:
    """One run in a fresh process; ``rss`` adds the peaks of all that it starts."""
    command = [sys.executable, "-m", "bench.vsphere.ours", what, json.dumps(info)]
    run = Tracked(command, log=LOGS / "vsphere-ours.log", cwd=ROOT, pipes=True)
    with tracked(run):
        usage = run.wait(TIMEOUT_S)
        if run.process.returncode:
            raise click.ClickException(f"our run of {what} failed:\n{run.tail()}")
        found: dict[str, Any] = json.loads(run.stdout.read())
    return {**found, "rss": max(found["rss"], usage.total_rss)}


def one_round(what: str, scene: Scene) -> dict[str, Run]:
    found = msgspec.convert(ours(OUR_NAMES[what], scene.simulator.connection_info()), Run)
    return {OURS: found, **{peer: RUNS[peer](scene) for peer in GOALS[what]}}


@click.command()
@click.option("--what", default="all", show_default=True, callback=listed(WHATS), help=f"Of {','.join(WHATS)}.")
@click.option("--n", "count", default=5, show_default=True, type=click.IntRange(1, 100), help="Rounds.")
@click.option("--size", default=2.0, show_default=True, type=click.FloatRange(0.0625, 64), help="GiB of each disk.")
@click.option("--machines", default=5000, show_default=True, type=click.IntRange(2, 100_000), help="Of the inventory.")
@click.option("--out", default=OUT / "vsphere.json", show_default=True, type=click.Path(path_type=Path), help="Rows.")
def main(what: tuple[str, ...], count: int, size: float, machines: int, out: Path) -> None:
    """Read disks and inventories of a simulated vSphere (govmomi's vcsim) by our transports and by plain tools.

    \b
    datastore  ranges over HTTPS beside curl with as many connections
    export     one disk by an export lease beside `curl | decoder`
    export-4   four disks by four leases beside zlib on one thread: how many times as fast
    inventory  all machines of a large vCenter: seconds and memory

    Contestants take turns; ratios are taken within each round.

    Example: python -m bench.vsphere --what export --n 3
    """
    if shutil.which("curl") is None:
        raise click.ClickException("curl is not installed: apt-get install curl")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(width=None if os.isatty(1) else 160)
    LOGS.mkdir(parents=True, exist_ok=True)
    found: list[Row] = []
    inventory: dict[str, Any] = {}
    if set(what) & set(GOALS):
        with simulated(int(size * (1 << 30)), DISKS, LOGS) as scene:
            for name in [one for one in GOALS if one in what]:
                found += rows(name, [one_round(name, scene) for _ in range(count)])
                console.print(f"{name}: {count} rounds done", style="dim")
    if "inventory" in what:
        with simulator(LOGS, "-machines", str(machines // 2)) as large:
            inventory = ours("inventory", large.connection_info())
    show(console, found, inventory)
    write_json(out, {"machine": machine(), "rows": found, "inventory": inventory})


def show(console: Console, found: list[Row], inventory: dict[str, Any]) -> None:
    table = Table(title="Reading from a simulated vSphere", title_justify="left")
    for name in ("what", "beside", "ratio [min-max]", "ours MiB/s", "peer MiB/s", "RSS MiB", "goal"):
        table.add_column(name, justify="left" if name in ("what", "beside", "goal") else "right")
    for one in found:
        ratio = f"{one.ratio_median:.2f} [{one.ratio_min:.2f}-{one.ratio_max:.2f}]".replace("[", r"\[")
        speeds = (f"{speed:.0f}" for speed in (one.ours_mib_s, one.peer_mib_s, one.rss_mib))
        table.add_row(one.what, one.peer, ratio, *speeds, coloured(one.verdict))
    if found:
        console.print(table)
    if inventory:
        verdict = coloured(inventory_verdict(inventory["seconds"], inventory["rss"]))
        console.print(
            f"inventory: {inventory['machines']} machines in {inventory['seconds']:.1f} s, "
            f"{inventory['rss'] / MIB:.0f} MiB: {verdict}"
        )


def coloured(verdict: str) -> str:
    colour = {"met": "green", "MISSED": "red"}.get(verdict.partition(" ")[0])
    return f"[{colour}]{verdict}[/]" if colour else verdict


if __name__ == "__main__":
    main()
