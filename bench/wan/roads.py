"""Copies between agents that cannot simply be dialled: only outbound on one side, or a relay between both."""

from __future__ import annotations

import importlib.util
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from bench.images import copy_sparse, make_image
from bench.ours import Ours, Route
from bench.scene import OUT, ROOT, Place, Scene, scene
from bench.series import Series, run_series
from bench.table import MIB, Sample
from bench.wan.goals import RoadRow, road_row
from tests.lab.wan_link import End, Road, relayed_pair, wan_link

KEY_BYTES = 32
ANY_HOST = "0.0.0.0"
IMAGE_BYTES = 512 * MIB


class Way(msgspec.Struct, frozen=True):
    """A situation and the path that the leader chooses for it."""

    situation: str
    path: str


WAYS = (
    Way("origin only outbound", "dialled"),
    Way("destination only outbound", "reverse"),
    Way("relayed", "relay"),
)


def supported() -> bool:
    """Whether this tree knows other paths than dialled."""
    return importlib.util.find_spec("coriolis.agent.road") is not None


def place(end: End) -> Place:
    return Place(end.address, tuple(end.prefix))


@dataclass(frozen=True)
class Situation:
    """Both ends, and where they may meet: its namespace's prefix, its address as the source and the sink dial it."""

    source: Place
    sink: Place
    meeting: Place
    source_meets: str
    sink_meets: str


@contextmanager
def situation(way: Way, road: Road) -> Iterator[Situation]:
    """The networks of ``way``, with walls that drop what must not pass."""
    if way.path == "relay":
        with relayed_pair(road) as pair:
            relay = Place(ANY_HOST, tuple(pair.a.b.prefix))
            yield Situation(place(pair.a.a), place(pair.b.a), relay, pair.a.b.address, pair.b.b.address)
        return
    with wan_link(road.delay_ms, road.rate_mbit, road.loss) as link:
        link.refuse_dialling(link.b if way.path == "reverse" else link.a)
        a, b = place(link.a), place(link.b)
        # both meet at the source's agent
        yield Situation(a, b, Place(ANY_HOST, a.prefix), "127.0.0.1", a.address)


@contextmanager
def meeting(where: Place, tls_directory: Path, key: bytes) -> Iterator[int]:
    """A data port at ``where`` that joins connections with ``key``; yields its port."""
    argv = [*where.prefix, sys.executable, "-m", "bench.wan.meeting", where.address, str(tls_directory)]
    with (OUT / "logs" / "meeting.log").open("ab") as log:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(key.hex() + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line.strip():
            raise OSError(f"no data port came up; see {OUT / 'logs' / 'meeting.log'}")
        yield int(line)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@dataclass(frozen=True)
class Routed:
    """Our agents over one transport and another path than dialled; each run has a key and a meeting of its own."""

    transport: str
    way: Way
    situation: Situation

    @property
    def name(self) -> str:
        return f"coriolis {self.transport}, {self.way.situation} ({self.way.path})"

    def run(self, scene: Scene) -> Sample:
        if self.way.path == "dialled":
            return Ours(self.transport).run(scene)
        key = secrets.token_bytes(KEY_BYTES)
        with meeting(self.situation.meeting, scene.tls["source"].cert.parent, key) as port:
            near, far = (f"{host}:{port}" for host in (self.situation.source_meets, self.situation.sink_meets))
            return Ours(self.transport, Route(self.way.path, key, near, far)).run(scene)


def run_ways(
    console: Console, transports: Sequence[str], count: int, road: Road, size: int
) -> tuple[dict[str, Series], list[RoadRow]]:
    """Every situation with every transport: identical bytes, and the share of the line."""
    found: dict[str, Series] = {}
    rows = []
    for way in WAYS:
        if way.path != "dialled" and not supported():
            console.print(f"[yellow]{way.situation}: this tree knows no path {way.path}; not run")
            continue
        with situation(way, road) as ends, scene(ends.source, ends.sink) as here:
            copy_sparse(make_image("incompressible", size, OUT / "images"), here.image)
            runners = [Routed(transport, way, ends) for transport in transports]
            series = run_series(console, f"{way.situation}, {size // MIB} MiB", here, runners, count)
        found[way.situation] = series
        for each in runners:
            samples = series.samples.get(each.name, []) if each.name not in series.failed else []
            rows.append(road_row(way.situation, way.path, each.transport, size, road.rate_mbit, samples))
    return found, rows
