"""What the destination is asked to make of a machine: the same for validation and for the real thing."""

from __future__ import annotations

from coriolis.agent.assignment import Assignment
from coriolis.ids import derived_id
from coriolis.model.environment import of_provider
from coriolis.model.resource import InstanceRequest, Volume

INSTANCE_ROLE = "instance"


def machine_request(work: Assignment, volumes: tuple[Volume, ...]) -> InstanceRequest:
    """The request for the one instance of this run; its id derives from the migration."""
    spec = work.spec()
    return InstanceRequest(
        name=str(work.environment.get("instance_name") or spec.name),
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
