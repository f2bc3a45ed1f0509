"""``python -m bench.convert``: convert each guest with our fast and full way and with virt-v2v-in-place."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console

from bench.__main__ import listed
from bench.convert import ours, v2v
from bench.convert.guests import NAMES, Guest, Name, provide
from bench.convert.report import show
from bench.convert.rows import TOOLS, WAYS, Boot, Row, Sample, Way, order, row
from bench.measure import MachineTime
from bench.report import machine, write_json
from bench.scene import OUT
from coriolis.convert.appliance import Accelerator
from coriolis.errors import CoriolisError
from tests.lab.boot import LOGIN, BootFailed, Machine
from tests.lab.boot import Console as GuestConsole

WORK_PARENT = Path("/var/tmp")
"""A short path: sockets of appliances lie below it."""
WORK_BYTES = 8 << 30
BOOT_TIMEOUT_S = 300.0


class Outcome(msgspec.Struct):
    """What came out for one guest. A way that failed once is not tried again; ``failed`` says why."""

    samples: dict[str, list[Sample]] = {}
    boots: dict[str, Boot] = {}
    failed: dict[str, str] = {}
    load_before: float = 0.0


@click.command()
@click.option(
    "--guests",
    default="bios,dracut,lvm",
    show_default=True,
    callback=listed(NAMES),
    help=f"Of {','.join(NAMES)}; or all.",
)
@click.option("--ways", default="all", show_default=True, callback=listed(WAYS), help="Of fast,full,v2v.")
@click.option(
    "--n", "count", default=3, show_default=True, type=click.IntRange(1, 100), help="Runs of the fast way; others: 1."
)
@click.option("--boots/--no-boots", default=True, show_default=True, help="Start each result on virtio.")
@click.option("--out", default=OUT / "convert.json", show_default=True, type=click.Path(path_type=Path), help="Rows.")
def main(guests: tuple[Name, ...], ways: tuple[Way, ...], count: int, boots: bool, out: Path) -> None:
    """Convert the lab's VMware guests for virtio, in turn by each way, and compare time and disk traffic.

    \b
    fast  drivers appended to the guest's initramfs, files edited; no program of the guest runs
    full  the guest's own tools make its initramfs anew in the appliance
    v2v   virt-v2v-in-place (Debian's package virt-v2v) on a copy of the same disk

    Goals, judged for the fast way: at most 1/5 of virt-v2v's time, 64 MiB read, 8 MiB written. Without KVM a slow
    way takes four minutes or more, a guest some ten; the lab builds a guest that it does not have yet (two minutes, as
    root). Whatever is done so far is in --out, also after an interruption.

    Example: python -m bench.convert --guests bios --ways fast,v2v --n 1
    """
    # what was set up is taken down in ``finally`` clauses, which an unhandled signal would skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(width=None if os.isatty(1) else 160)
    if "v2v" in ways and (reason := v2v.missing()):
        raise click.ClickException(f"{reason} (or leave v2v out: --ways fast,full)")
    found: dict[str, Outcome] = {}
    with work_directory() as work:
        with console.status("a first appliance"):
            accelerator, first_s = ours.warm_up(work / "state")
        console.print(f"appliance: accelerator {accelerator}, found by trying; a first start took {first_s:.1f} s")
        for name in guests:
            with console.status(f"{name}: taking the guest from the lab's cache, or building it"):
                guest = provide(name, work / "guest")
            found[name] = Outcome(load_before=os.getloadavg()[0])
            for way in order(ways, count):
                if way not in found[name].failed:
                    volumes = run(console, guest, way, accelerator, work, found[name])
                    # before the start, which may take minutes: an interruption must not lose what was measured
                    write(out, accelerator, found)
                    if boots and volumes and way not in found[name].boots:
                        start(console, guest, way, volumes, found[name])
                        write(out, accelerator, found)
    show(console, rows_of(found), {name: (each.samples, each.boots, each.failed) for name, each in found.items()})
    console.print(f"rows: {out}", highlight=False)


def run(
    console: Console, guest: Guest, way: Way, accelerator: Accelerator, work: Path, outcome: Outcome
) -> tuple[Path, ...]:
    """One conversion on a fresh copy: the converted volumes, none when it failed."""
    name = f"{guest.name} {way}"
    with console.status(f"{name}: copying the disk"):
        volumes = guest.fresh_volumes(work)
    before, own_before = MachineTime.now(), _own_cpu_s()
    try:
        with console.status(f"{name}: {TOOLS[way]} converts"):
            sample = _convert(guest, volumes, way, accelerator, work)
    except (CoriolisError, OSError) as error:
        outcome.failed[way] = str(error)
        console.print(f"{name}: FAILED", style="red", highlight=False)
        return ()
    sample = msgspec.structs.replace(sample, others=before.others_since(_own_cpu_s() - own_before))
    outcome.samples.setdefault(way, []).append(sample)
    console.print(f"{name}: {sample.seconds:.1f} s, load average {os.getloadavg()[0]:.1f}", highlight=False)
    return volumes


def start(console: Console, guest: Guest, way: Way, volumes: tuple[Path, ...], outcome: Outcome) -> None:
    """The way's first result on virtio."""
    name = f"{guest.name} {way}"
    with console.status(f"{name}: starting the result on virtio"):
        said = outcome.boots[way] = boot(guest, volumes)
    console.print(f"{name}: {'login' if said.reached else 'NO login'} after {said.seconds:.0f} s", highlight=False)


def _convert(guest: Guest, volumes: tuple[Path, ...], way: Way, accelerator: Accelerator, work: Path) -> Sample:
    if way == "v2v":
        logs = OUT / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        return v2v.convert(volumes, guest.uefi, accelerator, work / "v2v", logs / f"convert-{guest.name}-v2v.log")
    return ours.convert(guest.replicas, volumes, guest.uefi, way, accelerator, work / "ours")


def boot(guest: Guest, volumes: tuple[Path, ...]) -> Boot:
    """Start it on virtio-blk and virtio-net until the login prompt."""
    started = time.monotonic()
    try:
        with GuestConsole(Machine(volumes[0], "raw", uefi=guest.uefi, more_disks=volumes[1:])) as running:
            running.wait_for(LOGIN, BOOT_TIMEOUT_S)
    except BootFailed as error:
        return Boot(False, time.monotonic() - started, str(error))
    return Boot(True, time.monotonic() - started)


def rows_of(found: dict[str, Outcome]) -> list[Row]:
    return [
        row(name, way, outcome.samples[way], outcome.boots.get(way))
        for name, outcome in found.items()
        for way in WAYS
        if way in outcome.samples
    ]


def write(out: Path, accelerator: str, found: dict[str, Outcome]) -> None:
    write_json(out, rows_of(found))
    details = {"machine": machine(), "accelerator": accelerator, "guests": found}
    write_json(out.with_name(f"{out.stem}-details.json"), details)


@contextmanager
def work_directory() -> Iterator[Path]:
    """Removed afterwards, as are those of runs that were killed."""
    for left in WORK_PARENT.glob("coriolis-bench-convert-*"):
        if not Path(f"/proc/{left.name.rpartition('-')[2]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    room = shutil.disk_usage(WORK_PARENT).free
    if room < WORK_BYTES:
        raise click.ClickException(f"only {room >> 30} GiB are free in {WORK_PARENT}, {WORK_BYTES >> 30} are needed")
    work = WORK_PARENT / f"coriolis-bench-convert-{os.getpid()}"
    work.mkdir(mode=0o700)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _own_cpu_s() -> float:
    """Of this process and of all that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()
