"""OpenStack as a destination beyond the contract: killed agents, images, templates, a guest that boots."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("openstack")
import coriolis.keystone  # noqa: F401  # before openstacksdk
from coriolis.errors import Conflict, InvalidInput, NotFound
from coriolis.providers.openstack.marks import joined
from coriolis.providers.openstack.rest import ask, listed
from coriolis.providers.openstack.server_plan import decode
from tests.contract.openstack_destination import NETWORK, Project
from tests.integration.openstack_project import MAC, Trial

ROOT = Path(__file__).resolve().parents[2]
BOOT_TIMEOUT_S = 180.0
_ED25519 = bytes((0, 0, 0, 11)) + b"ssh-ed25519" + bytes((0, 0, 0, 32)) + bytes(32)
PUBLIC_KEY = f"ssh-ed25519 {base64.b64encode(_ED25519).decode()} nobody"
pytestmark = [
    pytest.mark.lab,
    pytest.mark.openstack,
]
_HOLD = """
import asyncio, json, sys
from pathlib import Path
from coriolis.providers.openstack.provider import OpenstackProvider
from coriolis.providers.surroundings import CinderAccess, Surroundings
info, volume, mount_dir = json.loads(sys.argv[1])
async def main():
    around = Surroundings(cinder=CinderAccess(("nfs",), Path(mount_dir)))
    async with OpenstackProvider().connect(info, around) as connection:
        async with connection.volumes.open_writer(volume) as writer:
            await writer.write_at(0, b"before the end")
            await writer.flush()
            print("writing", flush=True)
            await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def tiny_guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guest")
    image = folder / "tiny.raw"
    maker = [str(ROOT / "tests/lab/make_tiny_guest"), str(folder / "tiny.qcow2"), str(image)]
    subprocess.run(maker, check=True, timeout=120, cwd=ROOT, capture_output=True)
    return image


def attachments(trial: Trial) -> list[Any]:
    found: list[Any] = ask(trial.project.own, "block_storage", "GET", "/attachments")["attachments"]
    return found


async def test_a_killed_agent_leaves_a_volume_attached(trial: Trial) -> None:
    """kill -9 while it writes: the next writer takes over, what was flushed is there; a clean-up detaches too."""
    async with trial.connected() as connection:
        (volume,) = await trial.volumes(connection)
        order = json.dumps([trial.project.connection_info, volume.id, str(trial.project.mount_dir)])
        for last in (False, True):
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _HOLD,
                order,
                stdout=asyncio.subprocess.PIPE,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert child.stdout is not None
            try:
                assert await child.stdout.readline() == b"writing\n"
            finally:
                child.kill()
                await child.wait()
            assert len(attachments(trial)) == 1
            if last:
                break
            async with connection.volumes.open_writer(volume.id) as writer:
                assert await writer.read_at(0, 14) == b"before the end"
                assert len(attachments(trial)) == 1
            assert attachments(trial) == []
        await connection.volumes.delete_volume(volume.id)


async def test_a_volume_that_is_still_made_is_deleted(trial: Trial) -> None:
    """Cinder refuses to delete it yet: what a clean-up right after a kill meets."""
    async with trial.connected() as connection:
        request = trial.volume_request()
        metadata = {
            "coriolis_tag": str(request.tag),
            "coriolis_job": trial.job,
            "coriolis_size": str(request.size_bytes),
        }
        body = {"volume": {"name": request.name, "size": 1, "metadata": metadata}}
        made = ask(trial.project.own, "block_storage", "POST", "/volumes", body)["volume"]
        assert made["status"] == "creating"
        await connection.volumes.delete_volume(made["id"])
        assert await connection.instances.find_tagged(trial.job) == []


async def test_a_volume_that_runs_is_left_alone(trial: Trial) -> None:
    async with trial.connected() as connection:
        volumes = await trial.volumes(connection)
        made = await connection.instances.create_instance(trial.request(volumes))
        await connection.instances.start(made.id)
        with pytest.raises(Conflict, match="attached to server"):
            await connection.volumes.delete_volume(volumes[0].id)
        with pytest.raises(Conflict, match="attached to server"):
            async with connection.volumes.open_writer(volumes[0].id):
                pass
        await trial.clean(connection)


@pytest.mark.parametrize("way", ["attach", "upload"])
async def test_template(project: Project, tmp_path: Path, way: str) -> None:
    """The root disk ends as an image with its bytes, the other as a volume; a start is an event."""
    trial = Trial(project, tmp_path, disks=(1 << 30, 8 << 20) if way == "attach" else (8 << 20, 8 << 20), data_path=way)
    trial.environment["as_template"] = True
    sample = os.urandom(70000)
    async with trial.connected() as connection:
        await connection.instances.validate(trial.request())
        volumes = await trial.volumes(connection)
        async with connection.volumes.open_writer(volumes[0].id) as writer:
            await writer.write_at(0, sample)
            await writer.flush()
        made = await connection.instances.create_instance(trial.request(volumes))
        assert await connection.instances.create_instance(trial.request(volumes)) == made
        assert made.unneeded_volumes == tuple(one.id for one in (volumes if way == "upload" else volumes[:1]))
        await connection.instances.start(made.id)
        assert any("is a template" in event for event in trial.events)
        assert listed(project.own, "compute", "/servers", "servers") == []
        (image,) = listed(project.own, "image", "/images", "images", {"visibility": "private"})
        assert (image["status"], image["name"], image["hw_disk_bus"]) == ("active", trial.request().name, "virtio")
        if way == "upload":  # a GiB of an image is more than a bounded answer; Cinder's own copies are Cinder's
            assert project.own.image.get(f"/images/{image['id']}/file").content[: len(sample)] == sample
        for volume in made.unneeded_volumes:
            await connection.volumes.delete_volume(volume)
        (kept,) = listed(project.own, "block_storage", "/volumes", "volumes")
        assert image["coriolis_data_volumes"] == kept["id"]
        await trial.clean(connection)
        assert project.leftovers() == []
        with pytest.raises(NotFound):
            await connection.instances.start(made.id)


@pytest.mark.parametrize(("way", "boot_from"), [("attach", "volume"), ("upload", "image")])
async def test_a_guest_boots(project: Project, tmp_path: Path, tiny_guest: Path, way: str, boot_from: str) -> None:
    """Written through the path, it comes up with the MAC it had, on q35 with a disk of the right kind."""
    content = tiny_guest.read_bytes()
    trial = Trial(project, tmp_path, disks=(len(content),), data_path=way, boot_from=boot_from, machine="q35")
    if boot_from == "image":
        trial.environment["flavor_name"] = "m1.small"  # a flavor without a disk boots from volumes only
    async with trial.connected() as connection:
        volumes = await trial.volumes(connection)
        async with connection.volumes.open_writer(volumes[0].id) as writer:
            await writer.write_at(0, content)
            await writer.flush()
        made = await connection.instances.create_instance(trial.request(volumes))
        await connection.instances.start(made.id)
        (server,) = listed(project.own, "compute", "/servers/detail", "servers")
        (places,) = server["addresses"].values()
        assert [place["OS-EXT-IPS-MAC:mac_addr"] for place in places] == [MAC]
        assert await asyncio.to_thread(console_says, project, server["id"], places[0]["addr"]), trial.events
        await trial.clean(connection)
    assert project.leftovers() == []


def console_says(project: Project, server: str, address: str) -> bool:
    """Whether the guest says on its console that it has this address, within three minutes."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < deadline:
        action = {"os-getConsoleOutput": {"length": 200}}
        said = ask(project.own, "compute", "POST", f"/servers/{server}/action", action)["output"]
        if re.search(rf"\b{re.escape(address)}\b", said):
            return True
        time.sleep(1)
    return False


async def test_what_a_machine_is_given_besides(project: Project, tmp_path: Path) -> None:
    """Floating IP, fixed IP, security group, key pair, zone, server group: in the reservation, and gone with it."""
    own = project.own
    network = next(one for one in listed(own, "network", "/networks", "networks") if one["name"] == NETWORK)
    public = next(one for one in listed(own, "network", "/networks", "networks") if one["name"] == "public")
    gateway = {"router": {"name": "r", "external_gateway_info": {"network_id": public["id"]}}}
    router = ask(own, "network", "POST", "/routers", gateway)["router"]
    interface = {"subnet_id": network["subnets"][0]}
    ask(own, "network", "PUT", f"/routers/{router['id']}/add_router_interface", interface)
    group = ask(own, "network", "POST", "/security-groups", {"security_group": {"name": "open"}})["security_group"]
    policy = {"server_group": {"name": "apart", "policy": "anti-affinity"}}
    apart = ask(own, "compute", "POST", "/os-server-groups", policy)["server_group"]
    ask(own, "compute", "POST", "/os-keypairs", {"keypair": {"name": "mine", "public_key": PUBLIC_KEY, "type": "ssh"}})
    wishes = {"security_groups": ["open"], "keypair_name": "mine", "availability_zone": "nova", "server_group": "apart"}
    trial = Trial(project, tmp_path, floating_ip_pool="public", keep_ips=True, config_drive=True, **wishes)
    devices = trial.spec.devices
    nic = msgspec.structs.replace(devices.nics[0], ip_addresses=("10.77.0.77", "192.168.9.9"))
    devices = msgspec.structs.replace(devices, nics=(nic,))
    trial.spec = msgspec.structs.replace(trial.spec, devices=devices)
    try:
        async with trial.connected() as connection:
            await connection.instances.validate(trial.request())
            for name, member in (("no-key", "keypair_name"), ("no-zone", "availability_zone"), ("no", "server_group")):
                wrong = trial.request(environment={**trial.environment, member: name})
                with pytest.raises(InvalidInput, match=rf"{member}: .*{name}"):
                    await connection.instances.validate(wrong)
            volumes = await trial.volumes(connection)
            for _ in range(2):
                await connection.instances.create_instance(trial.request(volumes))
            (address,) = listed(own, "network", "/floatingips", "floatingips")
            assert address["fixed_ip_address"] == "10.77.0.77"
            assert any(address["floating_ip_address"] in event for event in trial.events)
            assert any("cannot keep 192.168.9.9" in event for event in trial.events)
            port = ask(own, "network", "GET", f"/ports/{address['port_id']}")["port"]
            assert (port["security_groups"], port["mac_address"]) == ([group["id"]], MAC)
            root = ask(own, "block_storage", "GET", f"/volumes/{volumes[0].id}")["volume"]
            plan = decode(joined(root["metadata"]))
            assert (plan.key, plan.zone, plan.group, plan.config_drive) == ("mine", "nova", apart["id"], True)
            await trial.clean(connection)
            assert listed(own, "network", "/floatingips", "floatingips") == []
    finally:
        project.clear()
        ask(own, "compute", "DELETE", "/os-keypairs/mine")
        ask(own, "compute", "DELETE", f"/os-server-groups/{apart['id']}")
        ask(own, "network", "DELETE", f"/security-groups/{group['id']}")
        ask(own, "network", "PUT", f"/routers/{router['id']}/remove_router_interface", interface)
        ask(own, "network", "DELETE", f"/routers/{router['id']}")
