"""OS_MORPHING: convert the guest in an overlay on the sealed replicas, write back only what changed."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import msgspec

from coriolis.agent.assignment import TaskContext
from coriolis.agent.manifest_update import RecordingWriter, update_manifest
from coriolis.agent.notary import Notary
from coriolis.agent.replicate_sink import manifest_paths, packed
from coriolis.agent.tasks.conversion_settings import conversion_settings
from coriolis.agent.tasks.endpoint import instances_of, open_endpoint, volumes_of
from coriolis.agent.tasks.machine_request import machine_request, volumes_in_order
from coriolis.convert.convert import convert
from coriolis.convert.request import ConversionOptions, request_for
from coriolis.errors import Unsupported
from coriolis.model.resource import ResourceKind
from coriolis.model.user_scripts import for_machine
from coriolis.providers.base import Connection, ReservesNics
from coriolis.providers.registry import load_provider


async def run(context: TaskContext) -> dict[str, Any]:
    """``osmorphing_info``: what was found and done; ``deployed``: this agent's word for the volumes.

    Raises Unsupported for guests this version cannot convert.
    """
    work = context.assignment
    spec = work.spec()
    manifests = work.results["manifests"]
    identity = "/".join(manifests[disk.id] for disk in spec.devices.disks)
    options = msgspec.convert(work.environment.get("conversion", {}), ConversionOptions)
    scripts = for_machine(work.input.get("user_scripts", {}), spec.os_type, work.instance)
    platform = options.platform or load_provider(work.provider).capabilities.target_platform
    async with open_endpoint(context) as connection, AsyncExitStack() as stack:
        target = volumes_of(connection, work.provider)
        macs = await _reserved_macs(context, connection)
        writers = [
            RecordingWriter(await stack.enter_async_context(target.open_writer(volume.id)))
            for volume in volumes_in_order(work)
        ]
        result = await convert(
            request_for(spec, platform, identity, options, scripts, macs),
            writers,
            writers,
            context.workplace.transfer_dir(work) / "morphing",
            context.event,
            settings=await conversion_settings(context),
        )
        notary, paths = Notary(context.workplace.tls), manifest_paths(context, work.migration_id)
        deployed = {
            disk.id: await update_manifest(paths[disk.id], writer, notary)
            for disk, writer in zip(spec.devices.disks, writers, strict=True)
        }
    changed = sum(disk.data_bytes for disk in result.disks)
    context.event(
        f"{result.summary.system.title} converted for {platform} in {result.summary.seconds:.0f} s, "
        f"{changed} bytes changed"
    )
    return {
        "osmorphing_info": {"distribution": result.summary.system.title, "changed_bytes": changed},
        "deployed": packed(context, {disk_id: found for disk_id, found in deployed.items() if found is not None}),
    }


async def _reserved_macs(context: TaskContext, connection: Connection) -> tuple[str, ...]:
    """Those that the machine will have, where the destination may give others than the origin's; else empty."""
    work = context.assignment
    if not load_provider(work.provider).capabilities.reserves_nics:
        return ()
    target = instances_of(connection, work.provider)
    if not isinstance(target, ReservesNics):
        raise Unsupported(f"provider {work.provider} cannot reserve NICs, although it says so")
    request = machine_request(work, volumes_in_order(work))
    # in the ledger first: what is reserved belongs to the machine, and is removed as the machine is
    await context.record(ResourceKind.INSTANCE, request.name, "destination", "INTENDED")
    return await target.reserve_nics(request)
