"""What a job's numbers are, in REST."""

from __future__ import annotations

from coriolis.rpc.gen.coriolis.v1 import types_pb2
from gateway.translate import job_progress

SEALED = types_pb2.DiskProgress(
    total_bytes=10, done_bytes=10, sent_bytes=4, packed_bytes=2, unpacked_bytes=6, rate_bytes_per_s=99, sealed=True
)
MOVING = types_pb2.DiskProgress(total_bytes=20, done_bytes=5, sent_bytes=3, rate_bytes_per_s=5, eta_s=3.0)
SLOW = types_pb2.DiskProgress(total_bytes=20, done_bytes=1, rate_bytes_per_s=1, eta_s=19.0)
UNKNOWN = types_pb2.DiskProgress(total_bytes=1, eta_s=-1.0)


def test_they_are_the_sums_of_its_disks() -> None:
    told = job_progress([SEALED, MOVING, SLOW])
    assert (told["total_bytes"], told["done_bytes"], told["sent_bytes"]) == (50, 16, 7)
    assert told["compression_ratio"] == 3.0


def test_speed_and_eta_are_those_of_what_still_moves() -> None:
    told = job_progress([SEALED, MOVING, SLOW])
    assert (told["rate_bytes_per_s"], told["eta_s"]) == (6, 19.0)
    assert job_progress([MOVING, UNKNOWN])["eta_s"] is None
    assert job_progress([SEALED])["eta_s"] == 0.0
