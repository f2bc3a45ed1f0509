"""``python -m bench.vsphere``: our readers beside curl and a plain decoder, from the same simulator in turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec
from pyVim.connect import Disconnect, SmartConnect
from rich.console import Console
from rich.table import Table

from bench.__main__ import listed
from bench.report import machine, write_json
from bench.scene import OUT, ROOT
from bench.vsphere.simulated import NAME, Scene, simulated
from bench.vsphere.verdicts import GOALS, INVENTORY_MIB, INVENTORY_S, MIB, Row, Run, row
from coriolis.providers.vmware_vsphere.certificate import tls_context
from coriolis.providers.vmware_vsphere.folder_reader import CONNECTIONS
from tests.lab.vcsim import PASSWORD, USER, vcsim

TIMEOUT_S = 900
DISKS = 4
WHATS = (*GOALS, "inventory")


def ours(what: str, info: dict[str, Any]) -> dict[str, Any]:
    """One run in a fresh process."""
    command = [sys.executable, "-m", "bench.vsphere.ours", what, json.dumps(info)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def our_run(what: str, scene: Scene) -> Run:
    return msgspec.convert(ours(what, scene.simulator.connection_info()), Run)


def curl(scene: Scene, url: str, *more: str) -> list[str]:
    return ["curl", "-sS", "--insecure", "--fail", "-H", f"Cookie: {scene.cookie}", *more, url]


def peer_ranges(scene: Scene) -> Run:
    """As many curl processes as we have connections, each with its part."""
    part = -(-scene.size // CONNECTIONS)
    began = time.monotonic()
    running = [
        subprocess.Popen(
            curl(scene, scene.flat_url(), "-o", "/dev/null", "-r", f"{at}-{min(at + part, scene.size) - 1}")
        )
        for at in range(0, scene.size, part)
    ]
    for one in running:
        if one.wait(TIMEOUT_S):
            raise click.ClickException("curl failed")
    return Run(time.monotonic() - began, scene.size)


def peer_export(scene: Scene) -> Run:
    """A lease of its own, then ``curl | plain_decoder``; the clock starts with the lease."""
    info = scene.simulator.connection_info()
    instance = SmartConnect(host=info["host"], port=info["port"], user=USER, pwd=PASSWORD, sslContext=tls_context(info))
    try:
        vm = instance.content.searchIndex.FindByInventoryPath(f"DC0/vm/{NAME}")
        task = vm.CreateSnapshot_Task(name="peer", memory=False, quiesce=False)
        while task.info.state not in ("success", "error"):
            time.sleep(0.01)
        snapshot = task.info.result
        began = time.monotonic()
        lease = snapshot.ExportSnapshot()
        url = next(one.url for one in lease.info.deviceUrl if one.targetId == "disk1.vmdk")
        with subprocess.Popen(curl(scene, url), stdout=subprocess.PIPE) as fetch:
            _decode(fetch.stdout)
        seconds = time.monotonic() - began
        lease.HttpNfcLeaseComplete()
        snapshot.RemoveSnapshot_Task(removeChildren=False)
    finally:
        Disconnect(instance)
    return Run(seconds, scene.size)


def peer_decoder(scene: Scene) -> Run:
    """The plain decoder alone on the exported file of one disk."""
    began = time.monotonic()
    with scene.exported[0].open("rb") as file:
        _decode(file)
    return Run(time.monotonic() - began, scene.size)


def _decode(source: Any) -> None:
    command = [sys.executable, str(Path(__file__).with_name("plain_decoder.py"))]
    subprocess.run(command, stdin=source, capture_output=True, check=True, timeout=TIMEOUT_S)


PEER_RUNS = {"datastore": peer_ranges, "export": peer_export, "export-4": peer_decoder}
OUR_NAMES = {"datastore": "datastore", "export": "export-1", "export-4": f"export-{DISKS}"}


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

    Contestants take turns; ratios are taken within each round. Example: python -m bench.vsphere --what export --n 3
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(width=None if os.isatty(1) else 160)
    rows: list[Row] = []
    inventory: dict[str, Any] = {}
    if set(what) & set(GOALS):
        with simulated(int(size * (1 << 30)), DISKS) as scene:
            for name in [one for one in GOALS if one in what]:
                rounds = [
                    {"ours": our_run(OUR_NAMES[name], scene), "peer": PEER_RUNS[name](scene)} for _ in range(count)
                ]
                rows.append(row(name, rounds))
                console.print(f"{name}: {count} rounds done", style="dim")
    if "inventory" in what:
        with vcsim("-machines", str(machines // 2)) as simulator:
            inventory = ours("inventory", simulator.connection_info())
    show(console, rows, inventory)
    write_json(out, {"machine": machine(), "rows": rows, "inventory": inventory})


def show(console: Console, rows: list[Row], inventory: dict[str, Any]) -> None:
    table = Table(title="Reading from a simulated vSphere", title_justify="left")
    for name in ("what", "beside", "ratio [min-max]", "ours MiB/s", "peer MiB/s", "RSS MiB", "goal"):
        table.add_column(name, justify="left" if name in ("what", "beside", "goal") else "right")
    for one in rows:
        ratio = f"{one.ratio_median:.2f} [{one.ratio_min:.2f}-{one.ratio_max:.2f}]"
        verdict = f"[green]met ({one.goal})" if one.met else f"[red]MISSED ({one.goal})"
        table.add_row(
            one.what, one.peer, ratio, f"{one.ours_mib_s:.0f}", f"{one.peer_mib_s:.0f}", f"{one.rss_mib:.0f}", verdict
        )
    if rows:
        console.print(table)
    if inventory:
        rss = inventory["rss"] / MIB
        met = inventory["seconds"] <= INVENTORY_S and rss <= INVENTORY_MIB
        console.print(
            f"inventory: {inventory['machines']} machines in {inventory['seconds']:.1f} s, {rss:.0f} MiB "
            f"({'met' if met else 'MISSED'}: {INVENTORY_S:.0f} s, {INVENTORY_MIB:.0f} MiB)"
        )


if __name__ == "__main__":
    main()
