"""Creates that a cloud carries out late, for agents that are dead: found by the kill tests, shown here one by one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openstack")
import coriolis.keystone  # noqa: F401  # before openstacksdk
from coriolis.ids import resource_name
from coriolis.providers.openstack import marks
from coriolis.providers.openstack.images import MARK, Images
from coriolis.providers.openstack.rest import ask, listed
from tests.contract.openstack_destination import NETWORK, Project
from tests.integration.openstack_project import Trial
from tests.lab.openstack_phony_faults import phony_faults

pytestmark = [
    pytest.mark.lab,
    pytest.mark.openstack,
]


def another_volume(trial: Trial, size: int) -> str:
    """As the dead agent asked for it."""
    request = trial.volume_request()
    body = {"name": request.name, "size": 1, "metadata": marks.of_volume(request.tag, size)}
    return str(ask(trial.project.own, "block_storage", "POST", "/volumes", {"volume": body})["volume"]["id"])


def volumes_of(trial: Trial) -> list[Any]:
    return [one["id"] for one in listed(trial.project.own, "block_storage", "/volumes", "volumes")]


async def test_the_older_volume_stays_and_is_the_one_that_is_used(trial: Trial) -> None:
    """It appears between the look and the create: the own, younger one goes, and must not be what is answered."""
    request = trial.volume_request()
    older = another_volume(trial, request.size_bytes)
    await asyncio.sleep(1.1)  # Cinder tells whole seconds; of two of one second the one with the lower id stays
    async with trial.connected() as connection:
        with phony_faults(connection) as faults:
            faults.add("GET", "/volumes/detail", change=lambda document: document["volumes"].clear())
            made = await connection.volumes.cinder.make(request)
        assert made.id == older
        assert volumes_of(trial) == [older]
        await trial.clean(connection)


async def test_what_comes_late_goes_before_and_after_the_start(trial: Trial) -> None:
    """A second volume before the machine is reserved; a second port and an image of a disk while it is made."""
    own = trial.project.own
    async with trial.connected() as connection:
        volumes = await trial.volumes(connection)
        another_volume(trial, volumes[0].size_bytes)
        request = trial.request(volumes)
        made = await connection.instances.create_instance(request)
        assert volumes_of(trial) == [volumes[0].id]
        network = next(one for one in listed(own, "network", "/networks", "networks") if one["name"] == NETWORK)
        name = marks.port_name(request.instance_id, 0)
        port = {"network_id": network["id"], "name": name, "description": str(request.tag)}
        ask(own, "network", "POST", "/ports", {"port": port})
        owner = {marks.JOB: trial.job, marks.INSTANCE: request.instance_id, marks.INSTANCE_TAG: str(request.tag)}
        staged = {"name": "late", MARK: f"{request.instance_id}/{resource_name(trial.job, 0, 'disk-0')}", **owner}
        ask(own, "image", "POST", "/images", {"disk_format": "raw", "container_format": "bare", **staged})
        await connection.instances.start(made.id)
        (server,) = listed(own, "compute", "/servers/detail", "servers")
        ports = [one for one in listed(own, "network", "/ports", "ports") if one["name"] == name]
        assert [one["device_id"] for one in ports] == [server["id"]]
        assert listed(own, "image", "/images", "images", {"visibility": "private"}) == []
        await trial.clean(connection)


async def test_an_image_of_a_volume_is_found_before_it_is_described(project: Project, tmp_path: Path) -> None:
    """The agent died right after it had asked Cinder for the image of a template's root disk."""
    trial = Trial(project, tmp_path, disks=(1 << 30,), as_template=True)

    class Killed(Exception):
        pass

    async def describe(*_: Any) -> None:
        raise Killed

    async with trial.connected() as connection:
        volumes = await trial.volumes(connection)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Images, "describe", describe)
            with pytest.raises(Killed):
                await connection.instances.create_instance(trial.request(volumes))
        assert len(listed(project.own, "image", "/images", "images", {"visibility": "private"})) == 1
        await trial.clean(connection)
    try:
        assert project.leftovers() == []
    finally:
        project.clear()
