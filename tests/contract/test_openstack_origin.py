"""What an OpenStack origin keeps besides: nothing stays behind, whenever its agent is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coriolis.model.network import CloudConfiguration
from tests.contract.case import Origin
from tests.contract.test_origin import content, source_of

pytestmark = [pytest.mark.lab, pytest.mark.openstack]

NAME = "coriolis-killed-1"
PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from coriolis.providers.openstack.provider import OpenstackProvider
from coriolis.providers.surroundings import CinderAccess, Surroundings

async def main(info, server, name, staging, mounts):
    access = CinderAccess(("nfs",), Path(mounts)) if mounts else None
    around = Surroundings(staging_dir=Path(staging), cinder=access)
    async with OpenstackProvider().connect(info, around) as connection:
        print("connected", flush=True)
        snapshot = await connection.snapshots.create_snapshot(server, name, None)
        print("frozen", flush=True)
        async with connection.snapshots.open_reader(snapshot, snapshot.disks[0].disk_id) as reader:
            print("reading", flush=True)
            while True:
                await reader.read_at(0, 4096)

asyncio.run(main(*json.loads(sys.stdin.read())))
"""


def left(servers: Any, staging: Path) -> list[str]:
    """All that a pass makes, as the project shows it."""
    sdk = servers.sdk
    found = [f"snapshot {one.name}" for one in sdk.block_storage.snapshots()]
    found += [
        f"volume {one.name}" for one in sdk.block_storage.volumes() if one.name and one.name.startswith("coriolis")
    ]
    found += [f"image {one.name}" for one in sdk.image.images(name=NAME)]
    return found + [f"file {path.name}" for path in staging.rglob("*") if path.is_file()]


def killed(origin: Origin, after: str, delay_s: float) -> None:
    """An agent's process that is killed ``delay_s`` after it said ``after``."""
    around = origin.surroundings
    mounts = str(around.cinder.mount_dir) if around.cinder is not None else ""
    order = [origin.connection_info, origin.instance, NAME, str(around.staging_dir), mounts]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        while process.stdout.readline().strip() != after:
            assert process.poll() is None, "the program ended by itself"
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)


full = pytest.mark.full


@pytest.mark.parametrize(
    ("kind", "after", "delay_s"),
    [
        ("volumes", "frozen", 0.2),
        ("image", "reading", 0.1),
        pytest.param("volumes", "connected", 0.4, marks=full),
        pytest.param("volumes", "reading", 0.1, marks=full),
        pytest.param("image", "connected", 0.4, marks=full),
        pytest.param("image", "frozen", 0.2, marks=full),
    ],
)
async def test_a_killed_agents_successor_goes_on_and_leaves_nothing(
    openstack: Any, tmp_path: Path, kind: str, after: str, delay_s: float
) -> None:
    origin: Origin = openstack.origin(kind, tmp_path)
    staging = tmp_path / "staging"
    await asyncio.to_thread(killed, origin, after, delay_s)
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        try:
            snapshot = await source.create_snapshot(origin.instance, NAME, None)
            for disk, truth in origin.truth.items():
                assert await content(source, snapshot, disk) == truth
        finally:
            await source.delete_snapshot(origin.instance, NAME)
    assert await asyncio.to_thread(left, openstack, staging) == []


@full
async def test_the_clean_up_alone_finds_what_a_killed_agent_left(openstack: Any, tmp_path: Path) -> None:
    """No successor made it whole before."""
    for kind, moment in (("volumes", ("connected", 0.6)), ("volumes", ("reading", 0.0)), ("image", ("reading", 0.0))):
        origin: Origin = openstack.origin(kind, tmp_path)
        await asyncio.to_thread(killed, origin, *moment)
        async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
            source = source_of(connection)
            for _ in range(3):  # Nova may finish what it was asked for after the first look
                await source.delete_change_base(origin.instance, NAME)
                await asyncio.sleep(2)
            assert await source.find_snapshots(origin.instance) == []
    assert await asyncio.to_thread(left, openstack, tmp_path / "staging") == []


async def test_a_server_comes_with_the_configuration_that_it_uses(openstack: Any, tmp_path: Path) -> None:
    origin: Origin = openstack.origin("volumes", tmp_path)
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        found = (await connection.inventory.get_instance(origin.instance)).configuration
    assert isinstance(found, CloudConfiguration)
    assert [(one.name, one.subnets[0].cidr) for one in found.networks] == [("private", "10.0.0.0/24")]
    assert [one.name for one in found.security_groups] == ["default"]
    assert msgspec.json.decode(msgspec.json.encode(found), type=CloudConfiguration) == found
