"""What comes of each fault of a cloud at the destination: phony ones before a real OpenStack, and real ones."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openstack")
import coriolis.keystone  # noqa: F401  # before openstacksdk
from coriolis.errors import Conflict, Denied, InvalidInput, QuotaExceeded, Throttled, Unavailable
from coriolis.providers.openstack.placing import servers_of
from coriolis.providers.openstack.rest import ask, listed
from tests.contract.openstack_destination import NETWORK, Project
from tests.integration.openstack_project import MAC, Trial
from tests.lab.openstack_phony_faults import phony_faults

pytestmark = [
    pytest.mark.lab,
    pytest.mark.openstack,
]


def rows(trial: Trial, service: str, path: str, key: str) -> list[Any]:
    return listed(trial.project.own, service, path, key)


async def test_volume_answers_lost_busy_and_late(trial: Trial) -> None:
    """500 and 503 after the work was done, 429, 401 in mid-job, 503 to reads: one volume, no error."""
    async with trial.connected() as connection:
        with phony_faults(connection) as faults:
            lost = faults.add("POST", "/volumes", 500, performed=True)
            busy = faults.add("GET", "/volumes/detail", 503, headers={"Retry-After": "1"})
            limited = faults.add("POST", "/attachments", 429, headers={"Retry-After": "1"})
            ended = faults.add("GET", "/attachments/detail", 401)
            begun = time.monotonic()
            volume = await connection.volumes.create_volume(trial.volume_request())
            assert time.monotonic() - begun > 2
            assert [one.met for one in (lost, busy, limited, ended)] == [1, 1, 1, 1]
        assert [one["id"] for one in rows(trial, "block_storage", "/volumes", "volumes")] == [volume.id]
        async with connection.volumes.open_writer(volume.id) as writer:
            with phony_faults(connection) as faults:
                faults.add("POST", r"/attachments/[^/]+/action", 503, times=9)
                await writer.write_at(0, b"x")  # data does not pass through the services
        await trial.clean(connection)


@pytest.mark.parametrize(
    ("status", "headers", "error", "said"),
    [
        (413, {}, QuotaExceeded, "raise the project's quota"),
        (413, {"Retry-After": "1"}, Throttled, "phony"),
        (429, {"Retry-After": "1"}, Throttled, "phony"),
        (409, {}, Conflict, "phony"),
        (403, {}, Denied, "roles"),
        (401, {}, Denied, "not accepted any more"),
        (500, {}, Unavailable, "phony"),
        (503, {"Retry-After": "1"}, Unavailable, "phony"),
        (400, {}, InvalidInput, "phony"),
    ],
)
async def test_volume_refused_for_good(
    trial: Trial, status: int, headers: dict[str, str], error: type[Exception], said: str
) -> None:
    async with trial.connected() as connection:
        with phony_faults(connection) as faults:
            faults.add("POST", "/volumes", status, times=99, headers=headers)
            with pytest.raises(error, match=said) as caught:
                await connection.volumes.create_volume(trial.volume_request())
            assert type(caught.value) is error


async def test_volume_in_error_is_made_anew(trial: Trial) -> None:
    """A phony status of the first; it is deleted, and the second serves."""
    async with trial.connected() as connection:
        with phony_faults(connection) as faults:

            def fail(document: Any) -> None:
                document["volume"]["status"] = "error"

            faults.add("GET", r"/volumes/[0-9a-f-]{36}", change=fail)
            await connection.volumes.create_volume(trial.volume_request())
        assert len(rows(trial, "block_storage", "/volumes", "volumes")) == 1
        assert any("made anew" in event for event in trial.events)
        await trial.clean(connection)


async def test_volume_type_without_a_backend(project: Project, tmp_path: Path) -> None:
    """Real: the scheduler puts each volume into error and says why."""
    kind = {"name": "coriolis-nowhere", "extra_specs": {"volume_backend_name": "nowhere"}}
    made = ask(project._admin, "block_storage", "POST", "/types", {"volume_type": kind})["volume_type"]
    trial = Trial(project, tmp_path, volume_type="coriolis-nowhere")
    try:
        async with trial.connected() as connection:
            await connection.instances.validate(trial.request())
            with pytest.raises(QuotaExceeded, match=r"failed 3 times .* choose another volume type"):
                await connection.volumes.create_volume(trial.volume_request())
            assert project.leftovers() == []
    finally:
        ask(project._admin, "block_storage", "DELETE", f"/types/{made['id']}")


async def test_quotas_before_a_byte_moves(project: Project, tmp_path: Path) -> None:
    trial = Trial(project, tmp_path, disks=(5001 << 30,))
    async with trial.connected() as connection:
        with pytest.raises(QuotaExceeded, match=r"gigabytes: 5000 GiB left of 5000 GiB, 5001 GiB needed"):
            await connection.instances.validate(trial.request())
    path = f"/os-quota-sets/{project.account.project_id}"
    ask(project._admin, "compute", "PUT", path, {"quota_set": {"cores": 0, "instances": 0}})
    try:
        trial = Trial(project, tmp_path)
        async with trial.connected() as connection:
            with pytest.raises(QuotaExceeded, match=r"instances: 0 left of 0, 1 needed; cores: 0 left of 0, 1 needed"):
                await connection.instances.validate(trial.request())
    finally:
        ask(project._admin, "compute", "DELETE", path)


async def test_server_answers_lost_and_faults(trial: Trial) -> None:
    """The answer to POST /servers is lost; then the server seems to be in ERROR once: never two servers."""
    async with trial.connected() as connection:
        volumes = await trial.volumes(connection)
        made = await connection.instances.create_instance(trial.request(volumes))
        assert rows(trial, "compute", "/servers", "servers") == []

        def fail(document: Any) -> None:
            document["server"] |= {"status": "ERROR", "fault": {"message": "phony: the hypervisor fell over"}}

        with phony_faults(connection) as faults:
            faults.add("POST", "/servers", 503, performed=True)
            faults.add("GET", r"/servers/[0-9a-f-]{36}", change=fail)
            await connection.instances.start(made.id)
            posts = [one for one in faults.calls if re.fullmatch(r"POST .*/servers", one)]
            assert len(posts) == 2  # the one whose answer was lost, and the one after the phony ERROR
        (server,) = rows(trial, "compute", "/servers/detail", "servers")
        assert (server["status"], server["metadata"]["coriolis_job"]) == ("ACTIVE", trial.job)
        assert any("phony: the hypervisor fell over" in event for event in trial.events)
        await trial.clean(connection)


async def test_no_valid_host(project: Project, tmp_path: Path) -> None:
    """Real: a flavor that no host can hold."""
    flavor = {"name": "coriolis-whale", "ram": 49000, "vcpus": 1, "disk": 0}
    made = ask(project._admin, "compute", "POST", "/flavors", {"flavor": flavor})["flavor"]
    trial = Trial(project, tmp_path, flavor_name="coriolis-whale")
    try:
        async with trial.connected() as connection:
            volumes = await trial.volumes(connection)
            reserved = await connection.instances.create_instance(trial.request(volumes))
            with pytest.raises(Unavailable, match=r"No valid host was found.*no host of this cloud has room"):
                await connection.instances.start(reserved.id)
            assert rows(trial, "compute", "/servers", "servers") == []
            await trial.clean(connection)
            assert project.leftovers() == []
    finally:
        ask(project._admin, "compute", "DELETE", f"/flavors/{made['id']}")
        project.clear()


async def test_two_agents_start_and_create(trial: Trial) -> None:
    """Two connections do everything at once: one volume, one port, one server."""
    async with trial.connected() as one, trial.connected() as two:
        first, second = await asyncio.gather(
            one.volumes.create_volume(trial.volume_request()),
            two.volumes.create_volume(trial.volume_request()),
            return_exceptions=True,
        )
        volume = await one.volumes.create_volume(trial.volume_request())
        made = [each for each in (first, second) if not isinstance(each, BaseException)]
        assert made
        assert all(each == volume for each in made)
        assert len(rows(trial, "block_storage", "/volumes", "volumes")) == 1
        request = trial.request((volume,))
        await asyncio.gather(*(each.instances.create_instance(request) for each in (one, two)))
        await asyncio.gather(*(each.instances.start(request.instance_id) for each in (one, two, one, two)))
        servers = await one.session.read(lambda cloud: servers_of(cloud, request.instance_id))
        assert [server.status for server in servers] == ["ACTIVE"]
        ports = [port for port in rows(trial, "network", "/ports", "ports") if port["name"].startswith("coriolis")]
        assert [port["mac_address"] for port in ports] == [MAC]
        await trial.clean(one)


async def test_mac_in_use(project: Project, tmp_path: Path) -> None:
    """The MAC is somebody's: a generated one and a warning, or, if it must be kept, a Conflict."""
    network = next(one for one in listed(project.own, "network", "/networks", "networks") if one["name"] == NETWORK)
    body = {"port": {"network_id": network["id"], "mac_address": MAC, "name": "somebody's"}}
    port = ask(project.own, "network", "POST", "/ports", body)["port"]
    try:
        trial = Trial(project, tmp_path, keep_mac=True)
        async with trial.connected() as connection:
            volumes = await trial.volumes(connection)
            with pytest.raises(Conflict, match=r"(?i)mac"):
                await connection.instances.create_instance(trial.request(volumes))
            trial.environment.pop("keep_mac")
            await connection.instances.create_instance(trial.request(volumes))
            assert any("does not keep its MAC address" in event for event in trial.events)
            await trial.clean(connection)
        assert project.leftovers() == []
    finally:
        ask(project.own, "network", "DELETE", f"/ports/{port['id']}")
