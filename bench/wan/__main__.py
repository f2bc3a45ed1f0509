"""``python -m bench.wan``: ours against nbdcopy's best setting over an emulated long path. Needs root."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console

from bench.__main__ import TRANSPORTS, listed
from bench.images import Name, copy_sparse, make_image
from bench.ours import Ours
from bench.peers import Peer
from bench.report import TOO_SMALL, machine, show_costs, show_road_rows, show_wan_rows, write_json
from bench.scene import OUT, scene
from bench.series import Contestant, Series, run_series
from bench.table import MIB, cost
from bench.wan.goals import PROBE_SIZE, Leg, WanRow, best_setting, fastest, wan_row
from bench.wan.goals import legs as legs_of
from bench.wan.roads import IMAGE_BYTES, place, run_ways
from tests.lab.wan_link import Road, WanLink, missing, wan_link

IMAGES: tuple[Name, ...] = ("incompressible", "realistic")
LOSSES = (0.0, 0.001)
CONNECTIONS = (1, 4, 8, 16)
PROBE_S = 24.0
"""Sixteen connections take 7 s to open; the second half of this shows how fast they are."""
QUICK = 16
"""Divides the sizes of ``--quick``."""


@click.command()
@click.option("--transport", "transports", default="auto,grpc,direct", show_default=True, callback=listed(TRANSPORTS))
@click.option("--images", default="incompressible,realistic", show_default=True, callback=listed(IMAGES))
@click.option("--n", "count", default=3, show_default=True, type=click.IntRange(1, 100), help="Rounds.")
@click.option("--rtt", "rtt_ms", default=50.0, show_default=True, help="Round trip in ms.")
@click.option("--rate", "rate_mbit", default=1000.0, show_default=True, help="Of the line, Mbit/s.")
@click.option(
    "--loss", "losses", type=float, multiple=True, help="Share of packets; may be repeated; default 0 and 0.001."
)
@click.option("--congestion", default="cubic", show_default=True, help="TCP congestion control of both ends.")
@click.option("--roads/--no-roads", default=True, help="Also pairs that only dial out, and a relayed pair.")
@click.option("--legs/--no-legs", default=True, help="The comparison with nbdcopy.")
@click.option("--quick", is_flag=True, help="Small images, to see whether it works.")
@click.option("--out", default=OUT / "latest-wan.json", type=click.Path(path_type=Path), help="Rows as JSON.")
def main(
    transports: tuple[str, ...],
    images: tuple[Name, ...],
    count: int,
    rtt_ms: float,
    rate_mbit: float,
    losses: tuple[float, ...],
    congestion: str,
    roads: bool,
    legs: bool,
    quick: bool,
    out: Path,
) -> None:
    """Compare our task processes with nbdcopy over a line of 1 Gbit/s and 50 ms between two network namespaces.

    Example: python -m bench.wan --transport grpc --loss 0.001 --n 1
    """
    # what was set up is taken down in ``finally`` clauses, which an unhandled signal would skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(width=None if os.isatty(1) else 160)
    if reason := missing():
        raise click.ClickException(f"the emulated path {reason}")
    rows: list[WanRow] = []
    found: dict[str, Series] = {}
    smaller = QUICK if quick else 1
    for loss in (losses or LOSSES) if legs else ():
        with wan_link(rtt_ms / 2, rate_mbit, loss, congestion=congestion) as link:
            peers = probe(console, loss, link, PROBE_SIZE // smaller)
            for leg in legs_of(images, [loss]):
                leg = msgspec.structs.replace(leg, size=leg.size // smaller)
                ours = [Ours(transport) for transport in transports]
                series, new = run_leg(console, leg, link, ours, peers, count, (rtt_ms, rate_mbit))
                found[f"{leg.image}, loss {loss:.1%}"] = series
                rows += new
    road = Road(rtt_ms / 2, rate_mbit)
    ways, road_rows = run_ways(console, transports, 1, road, IMAGE_BYTES // smaller) if roads else ({}, [])
    show_wan_rows(console, rows, found)
    show_road_rows(console, road_rows, ways)
    if quick:
        console.print(TOO_SMALL)
    if legs:
        write_json(out, rows)
    if roads:
        write_json(out.with_name(f"{out.stem}-roads.json"), road_rows)
    details = {"machine": machine(), "congestion": congestion, "quick": quick, "series": {**found, **ways}}
    write_json(out.with_name(f"{out.stem}-details.json"), details)
    console.print(f"rows: {out}", highlight=False)


def run_leg(
    console: Console,
    leg: Leg,
    link: WanLink,
    ours: Sequence[Ours],
    peers: Sequence[Peer],
    count: int,
    line: tuple[float, float],
) -> tuple[Series, list[WanRow]]:
    """All rounds of one image over one setting of the link."""
    title = f"{leg.image} {leg.size // MIB} MiB, loss {leg.loss:.1%}"
    with scene(place(link.a), place(link.b)) as here:
        copy_sparse(make_image(leg.image, leg.size, OUT / "images"), here.image)
        contestants: list[Contestant] = [*ours, *peers]
        series = run_series(console, title, here, contestants, count)
    rivals = {peer.name: series.samples[peer.name] for peer in peers if series.both(peer.name, peer.name)}
    costs = [cost(name, leg.size, samples) for name, samples in series.samples.items()]
    show_costs(console, f"{title}, n={count}", costs)
    if not rivals:
        return series, []
    best = fastest(rivals)
    rows = []
    for mine in ours:
        pair = series.both(mine.name, best)
        if pair is not None:
            rows.append(wan_row(leg, mine.transport, "dialled", line, best, *pair))
    return series, rows


def probe(console: Console, loss: float, link: WanLink, size: int) -> list[Peer]:
    """nbdcopy with the connection count that promises most, and a close second: one short look is uncertain."""
    expected = {}
    with scene(place(link.a), place(link.b)) as here:
        copy_sparse(make_image("incompressible", size, OUT / "images"), here.image)
        for connections in CONNECTIONS:
            with console.status(f"nbdcopy with {connections} connections, loss {loss:.1%}"):
                expected[connections] = Peer("nbdcopy", connections=connections).probe(here, PROBE_S)
    said = ", ".join(f"{connections}: {seconds:.0f} s" for connections, seconds in expected.items())
    console.print(f"loss {loss:.1%}: nbdcopy by connections, expected for {size // MIB} MiB: {said}", highlight=False)
    return [Peer("nbdcopy", connections=connections) for connections in best_setting(expected)]


if __name__ == "__main__":
    main()
