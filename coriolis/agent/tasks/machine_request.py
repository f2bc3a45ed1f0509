"""What the destination is asked to make of a machine: the same for validation and for the real thing."""

from __future__ import annotations

import re

from coriolis.agent.assignment import Assignment
from coriolis.ids import derived_id
from coriolis.model.environment import of_provider
from coriolis.model.resource import InstanceRequest, Volume
from coriolis.providers.registry import load_provider

INSTANCE_ROLE = "instance"
MAX_NAME_CHARS = 128


def plain_name(name: str) -> str:
    """``name`` with a dash for whatever is no letter, digit, dot, dash or underscore; never empty or hidden."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:MAX_NAME_CHARS] or "instance"


def machine_request(work: Assignment, volumes: tuple[Volume, ...]) -> InstanceRequest:
    """The request for the one instance of this run; its id derives from the migration."""
    spec = work.spec()
    plain = load_provider(work.provider).capabilities.plain_names
    return InstanceRequest(
        name=str(work.environment.get("instance_name") or (plain_name(spec.name) if plain else spec.name)),
        instance_id=derived_id(work.migration_id, str(work.instance_index), INSTANCE_ROLE),
        tag=work.tag(INSTANCE_ROLE),
        spec=spec,
        volumes=volumes,
        network_map=work.input["network_map"],
        environment=of_provider(work.environment),
    )


def volumes_in_order(work: Assignment) -> tuple[Volume, ...]:
    """Volumes in the order of the machine's disks."""
    volumes = work.volumes()
    return tuple(volumes[disk.id] for disk in work.spec().devices.disks)
