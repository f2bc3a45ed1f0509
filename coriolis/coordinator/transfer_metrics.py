"""What moves, for Prometheus: per disk, job and link, read from the leader's memory when somebody scrapes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from coriolis.coordinator.progress import ProgressBoard
from coriolis.coordinator.roads import Roads, now_s
from coriolis.rpc.gen.coriolis.v1 import types_pb2

MAX_DISKS = 2000
"""Disks shown one by one; jobs and links count all of them."""

BYTES = {
    "read": "Bytes read from the origin",
    "sent": "Bytes put on the wire, after compression",
    "written": "Bytes written at the destination",
    "zero": "Bytes known to be zero, announced without data",
    "resent": "Bytes sent more than once",
    "lag": "Bytes sent and not durable yet",
    "done": "Bytes covered, zero ranges included",
    "total": "Bytes that the pass has to cover",
}


class TransferCollector(Collector):
    """Shows a term's board; nothing while this coordinator does not lead."""

    def __init__(self) -> None:
        self._board: ProgressBoard | None = None
        self._roads: Roads | None = None

    def watch(self, board: ProgressBoard | None, roads: Roads | None) -> None:
        self._board, self._roads = board, roads

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Gauges: numbers of a pass begin anew with the next one."""
        disks = list(self._board.all_disks()) if self._board is not None else []
        yield from _disk_families(disks[-MAX_DISKS:])
        yield from _job_families(disks)
        if self._roads is not None:
            yield from _link_families(self._roads)


def _disk_families(disks: list[tuple[str, types_pb2.DiskProgress]]) -> Iterator[GaugeMetricFamily]:
    labels = ["migration", "instance", "disk", "pass"]
    shown = [(_labels(migration_id, disk), disk) for migration_id, disk in disks]
    for name, text in BYTES.items():
        family = GaugeMetricFamily(f"coriolis_disk_{name}_bytes", text, labels=labels)
        for values, disk in shown:
            family.add_metric(values, getattr(disk, f"{name}_bytes"))
        yield family
    rate = GaugeMetricFamily("coriolis_disk_rate_bytes_per_second", "Bytes covered per second, smoothed", labels=labels)
    eta = GaugeMetricFamily("coriolis_disk_eta_seconds", "Seconds left at this rate; -1 while unknown", labels=labels)
    ratio = GaugeMetricFamily("coriolis_disk_compression_ratio", "Of what was compressed; 0: nothing", labels=labels)
    lanes = GaugeMetricFamily("coriolis_disk_lanes", "Lanes that are up", labels=labels)
    for values, disk in shown:
        rate.add_metric(values, disk.rate_bytes_per_s)
        eta.add_metric(values, disk.eta_s)
        ratio.add_metric(values, disk.unpacked_bytes / disk.packed_bytes if disk.packed_bytes else 0.0)
        lanes.add_metric(values, disk.lanes)
    yield from (rate, eta, ratio, lanes)


def _labels(migration_id: str, disk: types_pb2.DiskProgress) -> list[str]:
    return [migration_id, disk.instance, disk.disk_id, str(disk.pass_number)]


def _job_families(disks: list[tuple[str, types_pb2.DiskProgress]]) -> Iterator[GaugeMetricFamily]:
    for name, text in BYTES.items():
        sums: dict[str, int] = defaultdict(int)
        for migration_id, disk in disks:
            sums[migration_id] += getattr(disk, f"{name}_bytes")
        family = GaugeMetricFamily(f"coriolis_job_{name}_bytes", f"{text}; all disks and passes", labels=["migration"])
        for migration_id, number in sums.items():
            family.add_metric([migration_id], number)
        yield family


def _link_families(roads: Roads) -> Iterator[GaugeMetricFamily]:
    labels = ["origin_site", "destination_site"]
    now = GaugeMetricFamily("coriolis_link_rate_bytes_per_second", "Bytes sent per second, smoothed", labels=labels)
    best = GaugeMetricFamily("coriolis_link_best_bytes_per_second", "The most of the last hour", labels=labels)
    at = now_s()
    for link in roads.speeds.links():
        now.add_metric(list(link), roads.speeds.now(link, at))
        best.add_metric(list(link), roads.speeds.best(link, at))
    yield from (now, best)
