"""The source part of REPLICATE_DISKS: snapshot, plan, send all disks at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.choose_route import Transport, Ways, choose_route, wanted_transport
from coriolis.agent.data_port import split_address
from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.disk_progress import ProgressReport
from coriolis.agent.lanes.hosts import SourceHosts, source_hosts
from coriolis.agent.notary import Notary
from coriolis.agent.push_disk import Limits, Offer, Route
from coriolis.agent.replicate_sink import disk_file
from coriolis.agent.road import open_road
from coriolis.agent.source_disk import DiskPlan, PassDisk, SourceDisk, Wiring
from coriolis.agent.tasks.endpoint import open_endpoint, snapshots_of
from coriolis.errors import ChangeLogLost, Conflict, NotFound, Unavailable
from coriolis.model.disk import Extent, Snapshot
from coriolis.model.machine import MachineSpec
from coriolis.model.resource import ResourceKind
from coriolis.providers.base import SnapshotSource
from coriolis.providers.layers.throttle import throttled
from coriolis.rpc.channel import open_channel
from coriolis.transfer.cells import cell_count, complement, covering_runs
from coriolis.transfer.lane_count import MAX_LANES, MIN_LANES
from coriolis.transfer.sender import Plan

MAX_CONTROL_BYTES = 16 << 20
"""An OpenDisk answer says for each of 64 million cells whether it is there."""


async def send_pass(context: TaskContext) -> dict[str, Any]:
    """Return when the sink has sealed every disk and the origin's snapshot of this pass is given back.

    ``progress``: {pass: {disk id: the final numbers of its DiskProgress}}.
    """
    work = context.assignment
    number = work.pass_number
    instance_id = work.spec().id
    name = work.snapshot_name(number)
    base = work.snapshot_name(number - 1) if number > 1 else None
    sizes = [disk.size_bytes for disk in work.spec().devices.disks]
    async with source_hosts(context.workplace.tls, sizes) as hosts, open_endpoint(context) as connection:
        source = snapshots_of(connection, work.provider)
        await context.record(ResourceKind.SNAPSHOT, name, "origin", "INTENDED")
        snapshot = await source.create_snapshot(instance_id, name, base)
        await context.record(ResourceKind.SNAPSHOT, name, "origin", "MADE", name)
        check_same_disks(work.spec(), snapshot)
        try:
            final = await _send_disks(context, hosts, source, snapshot, base)
        except* NotFound as lost:
            # e.g. the origin's qemu ended: a new snapshot has another identity, and the sink compares with it
            raise Unavailable(f"the snapshot was lost while it was read: {lost.exceptions[0]}") from lost
        await source.delete_snapshot(instance_id, name)
        if base is not None:
            await source.delete_change_base(instance_id, base)
            await context.record(ResourceKind.SNAPSHOT, base, "origin", "DELETED")
    earlier = work.results.get("progress", {})
    return {"progress": {**earlier, str(number): final}}


def check_same_disks(spec: MachineSpec, snapshot: Snapshot) -> None:
    """The volumes at the destination were made for ``spec``. Raises Conflict when the machine has other disks now."""
    then = {disk.id: disk.size_bytes for disk in spec.devices.disks}
    now = {disk.disk_id: disk.size_bytes for disk in snapshot.disks}
    if then == now:
        return
    changes = [f"{disk_id} was added" for disk_id in now.keys() - then.keys()]
    changes += [f"{disk_id} was removed" for disk_id in then.keys() - now.keys()]
    changes += [
        f"{disk_id} has {now[disk_id]} bytes now, not {then[disk_id]}"
        for disk_id in now.keys() & then.keys()
        if now[disk_id] != then[disk_id]
    ]
    raise Conflict(f"disks of {spec.name} changed since this job began ({'; '.join(sorted(changes))}): start a new one")


async def _send_disks(
    context: TaskContext, hosts: SourceHosts, source: SnapshotSource, snapshot: Snapshot, base: str | None
) -> dict[str, dict[str, int]]:
    work = context.assignment
    folder = context.workplace.transfer_dir(work) / "source"
    reports: dict[str, ProgressReport] = {}
    transport = wanted_transport(work.environment)
    lanes = max(MIN_LANES, MAX_LANES // len(snapshot.disks))
    limits = Limits(lanes, len(os.sched_getaffinity(0)))
    async with (
        AsyncExitStack() as stack,
        open_road(context) as road,
        asyncio.TaskGroup() as group,
    ):
        ways = Ways(road, split_address(work.peer_address)[1], context.workplace.tls, work.peer_identity)
        control = partial(
            open_channel,
            ways.address("grpc"),
            context.workplace.tls,
            work.peer_identity,
            max_message_bytes=MAX_CONTROL_BYTES,
            own_connection=True,
        )
        notary = Notary(context.workplace.tls, work.peer_identity)
        notary.warm_up()
        for index, disk in enumerate(snapshot.disks):
            journal = await asyncio.to_thread(DiskJournal, folder / disk_file(disk.disk_id, index, "journal"))
            stack.enter_context(journal)
            reader = throttled(
                await stack.enter_async_context(source.open_reader(snapshot, disk.disk_id)),
                context.workplace.read_limit_bytes_per_s,
            )
            plan = await _plan(context, source, snapshot, base, disk.disk_id, disk.size_bytes)
            what = PassDisk(
                work.migration_id,
                disk.disk_id,
                work.generation,
                work.pass_number,
                disk.size_bytes,
                snapshot.identity,
            )
            choose = partial(_choose, context, disk.disk_id, ways, transport)
            wiring = Wiring(control, hosts, choose, limits, context.pace(disk.disk_id), notary)
            sending = SourceDisk(what, reader, journal, wiring)
            task = group.create_task(sending.send(plan))
            report = ProgressReport(context, sending, plan.plan.total_bytes(disk.size_bytes))
            reports[disk.disk_id] = report
            group.create_task(report.until(task))
    return {disk_id: report.final() for disk_id, report in reports.items()}


async def _choose(
    context: TaskContext, disk_id: str, ways: Ways, wanted: Transport, offer: Offer, rtt: Awaitable[float]
) -> Route:
    route = await choose_route(wanted, ways, offer, rtt)
    how = f"{route.transport} transport, path {ways.path}, round trip {route.rtt_s * 1000:.1f} ms"
    context.event(f"disk {disk_id}: sent by the {how}")
    return route


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
