"""``python -m bench``: copy every image with ours and the peers in turn over loopback, and say what was reached."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.images import NAMES, Name, copy_sparse, make_image
from bench.ours import Ours
from bench.peers import Peer, Tool
from bench.report import TOO_SMALL, machine, show_costs, show_rows, write_json
from bench.scene import OUT, TMPFS_NEEDED, Place, Scene, available_memory, scene
from bench.series import Contestant, Series, run_series
from bench.table import Row, compare, cost

TRANSPORTS = ("direct", "grpc", "auto")
STANDARD_GIB, SMALL_GIB = 4.0, 2.0
MIN_DISK = 20 << 30
PEERS: tuple[Tool, ...] = ("nbdcopy", "qemu-img")


def listed(allowed: Sequence[str]) -> Any:
    """A click callback: comma separated words out of ``allowed``; ``all`` is all of them."""

    def parse(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, ...]:
        words = tuple(allowed) if text == "all" else tuple(word for word in text.split(",") if word)
        unknown = sorted(set(words) - set(allowed))
        if unknown:
            raise click.BadParameter(f"{', '.join(unknown)}: choose among {', '.join(allowed)}")
        return words

    return parse


def chosen_size(gib: float | None, memory: int, in_memory: bool) -> tuple[int, str]:
    """Bytes of each image, and a remark when it is not the standard."""
    if gib is not None:
        return int(gib * (1 << 30)), ""
    if in_memory and memory < TMPFS_NEEDED:
        return int(SMALL_GIB * (1 << 30)), f"only {memory / (1 << 30):.0f} GiB of memory are available: 2 GiB images"
    return int(STANDARD_GIB * (1 << 30)), ""


@click.command()
@click.option("--transport", "transports", default="direct,grpc", show_default=True, callback=listed(TRANSPORTS))
@click.option("--images", default="all", show_default=True, callback=listed(NAMES), help="Comma separated, or all.")
@click.option("--peers", default="all", show_default=True, callback=listed(PEERS), help="nbdcopy,qemu-img")
@click.option("--n", "count", default=5, show_default=True, type=click.IntRange(1, 100), help="Rounds.")
@click.option("--size", "gib", type=float, help="GiB of each image; default 4, or 2 when memory is short.")
@click.option("--plain", is_flag=True, help="Also the peers without TLS (ours stays encrypted).")
@click.option("--disk", "on_disk", is_flag=True, help="Copy on the file system of bench/out instead of tmpfs.")
@click.option("--out", default=OUT / "latest.json", type=click.Path(path_type=Path), help="Rows as JSON.")
def main(
    transports: tuple[str, ...],
    images: tuple[Name, ...],
    peers: tuple[Tool, ...],
    count: int,
    gib: float | None,
    plain: bool,
    on_disk: bool,
    out: Path,
) -> None:
    """Compare our task processes with nbdcopy and qemu-img, file to file over loopback, TLS on both sides.

    Contestants take turns (A B C A B C). Example: python -m bench --transport grpc --images realistic --n 3
    """
    console = Console(width=None if os.isatty(1) else 160)
    size, remark = chosen_size(gib, available_memory(), not on_disk)
    if remark:
        console.print(f"[yellow]{remark}")
    tools = [Peer(tool, tls) for tool in peers for tls in ((True, False) if plain else (True,))]
    ours = [Ours(transport) for transport in transports]
    contestants: list[Contestant] = [*ours, *tools]
    found: dict[str, Series] = {}
    rows: list[Row] = []
    with scene(Place(), Place(), work_parent=OUT if on_disk else None) as here:
        for image in images:
            _provide(console, here, image, size)
            series = run_series(console, f"{image} {size >> 20} MiB", here, contestants, count)
            found[image] = series
            rows += _rows(image, ours, tools, series)
            costs = [cost(name, size, samples) for name, samples in series.samples.items()]
            show_costs(console, f"{image}, {size >> 20} MiB, n={count}", costs)
            here.image.unlink()
    show_rows(console, rows, found)
    if size < SMALL_GIB * (1 << 30):
        console.print(TOO_SMALL)
    write_json(out, rows)
    details = {"machine": machine(), "size_bytes": size, "on_disk": on_disk, "remark": remark, "series": found}
    write_json(out.with_name(f"{out.stem}-details.json"), details)
    console.print(f"rows: {out}", highlight=False)


def _provide(console: Console, here: Scene, image: Name, size: int) -> None:
    with console.status(f"{image}: making or copying the image"):
        room = shutil.disk_usage(OUT).free
        if room < MIN_DISK:
            raise click.ClickException(f"only {room >> 30} GiB are free for the images' cache: remove bench/out/images")
        copy_sparse(make_image(image, size, OUT / "images"), here.image)


def _rows(image: str, ours: Sequence[Ours], tools: Sequence[Peer], series: Series) -> list[Row]:
    rows = []
    for mine in ours:
        for peer in tools:
            pair = series.both(mine.name, peer.name)
            if pair is not None:
                rows.append(compare(image, mine.transport, peer.tool, peer.tls, *pair))
    return rows


if __name__ == "__main__":
    main()
