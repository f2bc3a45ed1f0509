"""The sink part of REPLICATE_DISKS: listen, write, flush, seal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from coriolis.agent.assignment import Assignment, TaskContext
from coriolis.agent.data_port import join_address
from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.lanes.hosts import SinkHosts
from coriolis.agent.listener import start_listener
from coriolis.agent.notary import Notary
from coriolis.agent.road import offer_road
from coriolis.agent.sink_disk import SinkDisk
from coriolis.agent.tasks.endpoint import open_endpoint, volumes_of
from coriolis.errors import TimedOut
from coriolis.providers.base import VolumeTarget
from coriolis.transfer.attestation import DiskProof, pack_proofs

IDLE_S = 60.0
"""A sink that hears nothing for this long gives up; the coordinator assigns both sides anew."""
STOP_GRACE_S = 2.0


def disk_file(disk_id: str, number: int, suffix: str) -> str:
    """File name for a disk's journal or manifest; the id itself may hold anything."""
    safe = "".join(c if c.isalnum() else "_" for c in disk_id)[:40]
    return f"{number}-{safe}.{suffix}"


def manifest_paths(context: TaskContext, migration_id: str) -> dict[str, Path]:
    """Manifest file of each disk of the assignment's machine."""
    folder = context.workplace.manifest_dir(migration_id, context.assignment.instance_index)
    disks = context.assignment.spec().devices.disks
    return {disk.id: folder / disk_file(disk.id, number, "manifest") for number, disk in enumerate(disks)}


async def receive_pass(context: TaskContext) -> dict[str, Any]:
    """Return when every disk is sealed. Raises TimedOut when the source falls silent, and what a volume refused."""
    work = context.assignment
    async with open_endpoint(context) as connection, AsyncExitStack() as stack:
        target = volumes_of(connection, work.provider)
        disks = await _open_disks(context, target, stack)
        async with _listening(context, disks), asyncio.TaskGroup() as group:
            background = [group.create_task(disk.flush_regularly()) for disk in disks.values()]
            background.append(group.create_task(_watch_idle(disks)))
            for disk in disks.values():
                await _sealed(disk)
            for task in background:
                task.cancel()
    digests = {disk_id: disk.manifest_digest.hex() for disk_id, disk in disks.items()}
    return {"manifests": digests, "proofs": packed(context, _proofs(disks))}


def _proofs(disks: Mapping[str, SinkDisk]) -> dict[str, DiskProof]:
    return {disk_id: disk.proof for disk_id, disk in disks.items() if disk.proof is not None}


def packed(context: TaskContext, proofs: Mapping[str, DiskProof]) -> dict[str, Any]:
    """As the job keeps them; says which ones it cannot keep."""
    document, left_out = pack_proofs(proofs)
    for disk_id in left_out:
        context.event(f"disk {disk_id}: its signed manifest stays at this agent, the job has no room", "WARNING")
    return document


async def _sealed(disk: SinkDisk) -> None:
    sealing = asyncio.create_task(disk.sealed.wait())
    disk.failed.add_done_callback(lambda _: sealing.cancel())
    await asyncio.wait([sealing])
    if disk.failed.done():
        disk.failed.result()


async def _open_disks(context: TaskContext, target: VolumeTarget, stack: AsyncExitStack) -> dict[str, SinkDisk]:
    work: Assignment = context.assignment
    folder = context.workplace.transfer_dir(work) / "sink"
    volumes, manifests = work.volumes(), manifest_paths(context, work.migration_id)
    disks: dict[str, SinkDisk] = {}
    notary = Notary(context.workplace.tls, work.allowed_identity)
    notary.warm_up()
    for number, disk in enumerate(work.spec().devices.disks):
        # the journal's lock comes before the volume is opened: an older process must have ended by then
        journal = await asyncio.to_thread(DiskJournal, folder / disk_file(disk.id, number, "journal"))
        stack.enter_context(journal)
        writer = await stack.enter_async_context(target.open_writer(volumes[disk.id].id))
        disks[disk.id] = SinkDisk(
            work.migration_id,
            disk.id,
            work.generation,
            work.pass_number,
            volumes[disk.id],
            writer,
            journal,
            manifests[disk.id],
            notary,
        )
    return disks


@asynccontextmanager
async def _listening(context: TaskContext, disks: Mapping[str, SinkDisk]) -> AsyncIterator[None]:
    place, allowed = context.workplace, context.assignment.allowed_identity
    hosts = SinkHosts(place.tls, allowed, place.bind_host, place.data_ports)
    listener = start_listener(place.tls, place.bind_host, disks, allowed, hosts.attach, place.data_ports)
    accepting = asyncio.create_task(listener.accept_direct(hosts.take))
    try:
        listener.lanes_on(await hosts.start(list(disks.values())))
        async with offer_road(context, {"grpc": listener.port, "direct": listener.direct_port}):
            context.listening(join_address(place.advertise_host, listener.port))
            yield
            # before the road is closed, so that the answer to the last seal gets through it
            await listener.stop(STOP_GRACE_S)
    finally:
        accepting.cancel()
        await asyncio.wait([accepting])
        await listener.stop(STOP_GRACE_S)
        # the volumes are closed after this: no lane may still write to them
        await hosts.close()


async def _watch_idle(disks: Mapping[str, SinkDisk]) -> None:
    loop = asyncio.get_running_loop()
    seen, since = -1, loop.time()
    while True:
        await asyncio.sleep(1)
        activity = sum(disk.activity for disk in disks.values())
        if activity != seen:
            seen, since = activity, loop.time()
        elif loop.time() - since > IDLE_S:
            raise TimedOut(f"nothing came from the source for {IDLE_S:.0f} s")
