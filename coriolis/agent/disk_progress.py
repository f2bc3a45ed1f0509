"""How far a disk is, told twice a second and once more at its end."""

from __future__ import annotations

import asyncio
import time

from coriolis.agent.assignment import TaskContext
from coriolis.agent.source_disk import SourceDisk
from coriolis.rpc.gen.coriolis.v1 import types_pb2

REPORT_S = 0.5


class ProgressReport:
    """Reports one disk's progress twice a second, and once more at its end."""

    def __init__(self, context: TaskContext, disk: SourceDisk, total_bytes: int) -> None:
        self._context = context
        self._disk = disk
        self._total = total_bytes
        self._began = time.monotonic()
        self._rate = 0.0
        self._last = (self._began, 0)

    async def until(self, sending: asyncio.Task[None]) -> None:
        while not sending.done():
            await asyncio.wait([sending], timeout=REPORT_S)
            self._report()

    def final(self) -> dict[str, int]:
        """What stays known of the pass when nobody remembers its progress any more."""
        assert self._disk.sender is not None
        stats = self._disk.sender.stats
        return {
            "total_bytes": self._total,
            "read_bytes": stats.read_bytes,
            "sent_bytes": stats.wire_bytes,
            "zero_bytes": stats.zero_bytes,
            "packed_bytes": stats.packed_bytes,
            "unpacked_bytes": stats.unpacked_bytes,
            "resent_bytes": stats.resent_bytes,
        }

    def _report(self) -> None:
        sender = self._disk.sender
        if sender is None:
            return
        done = sender.covered_bytes()
        now = time.monotonic()
        before, done_before = self._last
        if now > before:
            # smoothed over some seconds, so that the estimate does not jump with every flush
            self._rate += 0.3 * ((done - done_before) / (now - before) - self._rate)
        self._last = (now, done)
        what, work = self._disk.what, self._context.assignment
        route, push = self._disk.route, self._disk.push
        left = self._total - done
        self._context.progress(
            types_pb2.DiskProgress(
                task_id=work.task_id,
                instance=work.instance,
                disk_id=what.disk_id,
                total_bytes=self._total,
                # all but the last byte until the seal: 100% is a promise
                done_bytes=done if self._disk.sealed else max(0, min(done, self._total - 1)),
                read_bytes=sender.stats.read_bytes,
                sent_bytes=sender.stats.wire_bytes,
                written_bytes=max(0, sender.stats.sent_bytes - sender.in_flight_bytes),
                zero_bytes=sender.stats.zero_bytes,
                durable_bytes=sender.durable_bytes,
                rate_bytes_per_s=max(0, int(self._rate)),
                eta_s=left / self._rate if self._rate > 1 else (0.0 if left == 0 else -1.0),
                sealed=self._disk.sealed,
                pass_number=what.pass_number,
                transport=route.transport if route else "",
                lanes=push.lanes_up if push else 0,
                compression_level=push.compression.level if push else 0,
                unpacked_bytes=sender.stats.unpacked_bytes,
                packed_bytes=sender.stats.packed_bytes,
                resent_bytes=sender.stats.resent_bytes,
                lag_bytes=sender.undurable_sent_bytes,
                rtt_s=route.rtt_s if route else 0.0,
            )
        )
