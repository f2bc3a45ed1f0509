"""What every provider declares of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from coriolis.errors import InvalidInput, NotFound, Unavailable
from coriolis.providers.base import Provider
from coriolis.providers.image.provider import ImageProvider
from coriolis.providers.libvirt.provider import LibvirtProvider
from coriolis.providers.openstack.provider import OpenstackProvider
from coriolis.providers.vmware_vsphere.provider import VsphereProvider
from tests.contract.case import Destination, Origin

PROVIDERS: list[Provider] = [ImageProvider(), LibvirtProvider(), VsphereProvider(), OpenstackProvider()]
_SECRET = re.compile(r"password|secret|token|credential|private_key|api_key", re.IGNORECASE)


def properties(schema: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found = []
    for name, rule in schema.get("properties", {}).items():
        found.append((name, rule))
        found += properties(rule)
    return found


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda p: p.name)
def test_schemas(provider: Provider) -> None:
    for schema in (
        provider.connection_schema,
        provider.source_environment_schema,
        provider.destination_environment_schema,
    ):
        jsonschema.Draft202012Validator.check_schema(dict(schema))
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is False
        for name, rule in properties(schema):
            if _SECRET.search(name):
                assert rule.get("writeOnly") is True, name


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda p: p.name)
async def test_wrong_connection_info(provider: Provider) -> None:
    for wrong in ({}, {"no-such-field": 1}):
        with pytest.raises(InvalidInput):
            async with provider.connect(wrong):
                pass


async def test_unreachable() -> None:
    with pytest.raises(NotFound, match="does not exist"):
        async with ImageProvider().connect({"path": "/no/such/directory"}):
            pass
    with pytest.raises(Unavailable, match="no-such-socket"):
        async with LibvirtProvider().connect({"uri": "qemu+unix:///system?socket=/no-such-socket"}):
            pass


async def test_an_openstack_out_of_reach() -> None:
    login = {"auth_url": "http://127.0.0.1:1", "username": "u", "password": "p", "project_name": "t"}
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        async with OpenstackProvider().connect(login):
            pass


@pytest.mark.parametrize(
    "uri",
    [
        "qemu+ssh://host/system",
        "qemu+ext:///system?command=/bin/id",
        "qemu+unix:///system?socket=/s&command=/bin/id",
        "test:///default",
        "qemu+tcp://169.254.169.254/system",
        "qemu:///system\n",
    ],
)
async def test_libvirt_uri_stays_on_the_host(uri: str) -> None:
    with pytest.raises(InvalidInput):
        async with LibvirtProvider().connect({"uri": uri}):
            pass


def test_no_sdk_until_connected() -> None:
    code = (
        "import sys\n"
        "from coriolis.providers.registry import load_provider\n"
        "[load_provider(n) for n in ('image', 'libvirt', 'vmware_vsphere', 'openstack')]\n"
        "bad = {'libvirt', 'nbd', 'oslo_utils', 'pyVmomi', 'isal', 'keystoneauth1', 'openstack'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_origin_members(origin: Origin) -> None:
    capabilities = origin.provider.capabilities
    assert capabilities.origin
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        assert connection.snapshots is not None
        assert (connection.power is not None) == capabilities.power_control
    assert capabilities.live_source or not origin.live
    assert capabilities.change_log or not origin.change_log


async def test_destination_members(destination: Destination) -> None:
    assert destination.provider.capabilities.destination
    async with destination.provider.connect(destination.connection_info) as connection:
        assert connection.volumes is not None
        assert connection.instances is not None
