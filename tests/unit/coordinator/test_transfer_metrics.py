"""What Prometheus sees of running transfers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from coriolis.coordinator.progress import ProgressBoard
from coriolis.coordinator.transfer_metrics import MAX_DISKS, TransferCollector
from coriolis.rpc.gen.coriolis.v1 import types_pb2


def disk(name: str, **numbers: int) -> types_pb2.DiskProgress:
    return types_pb2.DiskProgress(task_id="t", instance="vm", disk_id=name, pass_number=1, **numbers)


def text_of(collector: TransferCollector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def test_disks_and_their_job_are_shown() -> None:
    board, collector = ProgressBoard(), TransferCollector()
    board.report("m1", disk("a", read_bytes=10, sent_bytes=4, packed_bytes=2, unpacked_bytes=6, lanes=2))
    board.report("m1", disk("b", read_bytes=5, sent_bytes=3, lag_bytes=1))
    collector.watch(board, None)
    text = text_of(collector)
    assert 'coriolis_disk_sent_bytes{disk="a",instance="vm",migration="m1",pass="1"} 4.0' in text
    assert 'coriolis_disk_compression_ratio{disk="a",instance="vm",migration="m1",pass="1"} 3.0' in text
    assert 'coriolis_disk_compression_ratio{disk="b",instance="vm",migration="m1",pass="1"} 0.0' in text
    assert 'coriolis_job_read_bytes{migration="m1"} 15.0' in text
    assert 'coriolis_disk_lag_bytes{disk="b",instance="vm",migration="m1",pass="1"} 1.0' in text


def test_a_coordinator_that_does_not_lead_shows_no_disk() -> None:
    board, collector = ProgressBoard(), TransferCollector()
    board.report("m1", disk("a", sent_bytes=4))
    collector.watch(board, None)
    collector.watch(None, None)
    assert "migration=" not in text_of(collector)


def test_disks_shown_one_by_one_are_bounded_and_jobs_count_all() -> None:
    board, collector = ProgressBoard(), TransferCollector()
    for number in range(MAX_DISKS + 10):
        board.report("m1", disk(f"d{number}", sent_bytes=1))
    collector.watch(board, None)
    text = text_of(collector)
    assert text.count("coriolis_disk_sent_bytes{") == MAX_DISKS
    assert f'coriolis_job_sent_bytes{{migration="m1"}} {float(MAX_DISKS + 10)}' in text
