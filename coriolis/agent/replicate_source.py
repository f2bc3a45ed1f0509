"""The source part of REPLICATE_DISKS: snapshot, plan, send all disks at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.data_port import split_address
from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.replicate_sink import disk_file
from coriolis.agent.road import open_road
from coriolis.agent.source_disk import DiskPlan, PassDisk, SourceDisk
from coriolis.agent.tasks.endpoint import open_endpoint, snapshots_of
from coriolis.errors import ChangeLogLost, NotFound, Unavailable
from coriolis.model.disk import Extent, Snapshot
from coriolis.model.resource import ResourceKind
from coriolis.providers.base import SnapshotSource
from coriolis.rpc.channel import DATA_MESSAGE_BYTES, open_channel
from coriolis.rpc.gen.coriolis.v1 import types_pb2
from coriolis.transfer.cells import cell_count, complement, covering_runs
from coriolis.transfer.sender import Plan

REPORT_S = 0.5


async def send_pass(context: TaskContext) -> dict[str, Any]:
    """Return when the sink has sealed every disk and the origin's snapshot of this pass is given back.

    ``progress``: {pass: {disk id: the final numbers of its DiskProgress}}.
    """
    work = context.assignment
    number = work.pass_number
    instance_id = work.spec().id
    name = work.snapshot_name(number)
    base = work.snapshot_name(number - 1) if number > 1 else None
    async with open_endpoint(context) as connection:
        source = snapshots_of(connection, work.provider)
        await context.record(ResourceKind.SNAPSHOT, name, "origin", "INTENDED")
        snapshot = await source.create_snapshot(instance_id, name, base)
        await context.record(ResourceKind.SNAPSHOT, name, "origin", "MADE", name)
        try:
            final = await _send_disks(context, source, snapshot, base)
        except* NotFound as lost:
            # e.g. the origin's qemu ended: a new snapshot has another identity, and the sink compares with it
            raise Unavailable(f"the snapshot was lost while it was read: {lost.exceptions[0]}") from lost
        await source.delete_snapshot(instance_id, name)
        if base is not None:
            await source.delete_change_base(instance_id, base)
            await context.record(ResourceKind.SNAPSHOT, base, "origin", "DELETED")
    earlier = work.results.get("progress", {})
    return {"progress": {**earlier, str(number): final}}


async def _send_disks(
    context: TaskContext, source: SnapshotSource, snapshot: Snapshot, base: str | None
) -> dict[str, dict[str, int]]:
    work = context.assignment
    folder = context.workplace.transfer_dir(work) / "source"
    reports: dict[str, ProgressReport] = {}
    async with AsyncExitStack() as stack, open_road(context) as road, asyncio.TaskGroup() as group:
        lane = partial(
            open_channel,
            road.address("grpc", split_address(work.peer_address)[1]),
            context.workplace.tls,
            work.peer_identity,
            max_message_bytes=DATA_MESSAGE_BYTES,
            own_connection=True,
        )
        for index, disk in enumerate(snapshot.disks):
            journal = await asyncio.to_thread(DiskJournal, folder / disk_file(disk.disk_id, index, "journal"))
            stack.enter_context(journal)
            reader = await stack.enter_async_context(source.open_reader(snapshot, disk.disk_id))
            plan = await _plan(context, source, snapshot, base, disk.disk_id, disk.size_bytes)
            what = PassDisk(
                work.migration_id,
                disk.disk_id,
                work.generation,
                work.pass_number,
                disk.size_bytes,
                snapshot.identity,
            )
            sending = SourceDisk(what, reader, journal, lane)
            task = group.create_task(sending.send(plan))
            report = ProgressReport(context, sending, plan.plan.total_bytes(disk.size_bytes))
            reports[disk.disk_id] = report
            group.create_task(report.until(task))
    return {disk_id: report.final() for disk_id, report in reports.items()}


async def _plan(
    context: TaskContext, source: SnapshotSource, snapshot: Snapshot, base: str | None, disk_id: str, size: int
) -> DiskPlan:
    """Allocated data on the first pass, changed cells on later ones, everything by comparison when in doubt."""
    if base is not None:
        try:
            changed = [extent async for extent in source.changed_extents(base, snapshot, disk_id)]
        except ChangeLogLost as lost:
            context.event(f"disk {disk_id}: {lost.message}; comparing digests instead", "WARNING")
        else:
            return DiskPlan(_changed_plan(changed, size))
    allocated = [extent async for extent in source.allocated_extents(snapshot, disk_id)]
    data = covering_runs(allocated, size)
    zero = complement(data, cell_count(size))
    context.event(f"disk {disk_id}: {sum(run.count for run in data)} of {cell_count(size)} MiB cells hold data")
    return DiskPlan(Plan(tuple(data), tuple(zero)), compare=base is not None)


def _changed_plan(changed: Sequence[Extent], size: int) -> Plan:
    """Cells touched by changed ranges, whatever their kind: reading tells what they hold now."""
    touched = covering_runs([Extent(extent.offset, extent.length) for extent in changed], size)
    return Plan(tuple(touched))


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
            "sent_bytes": stats.sent_bytes,
            "zero_bytes": stats.zero_bytes,
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
                sent_bytes=sender.stats.sent_bytes,
                written_bytes=sender.stats.sent_bytes - sender.in_flight_bytes
                if sender.stats.sent_bytes > sender.in_flight_bytes
                else 0,
                zero_bytes=sender.stats.zero_bytes,
                durable_bytes=sender.durable_bytes,
                rate_bytes_per_s=max(0, int(self._rate)),
                eta_s=left / self._rate if self._rate > 1 else (0.0 if left == 0 else -1.0),
                sealed=self._disk.sealed,
                pass_number=what.pass_number,
            )
        )
