"""Surveys through a whole mesh: an agent asks the provider, the leader keeps what it found."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from coriolis.errors import InvalidInput, NotFound
from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.fault.mesh import PROJECT, Mesh, endpoint
from tests.integration.mesh_calls import ABSENT, FOREIGN, Sites
from tests.lab.vcsim import vcsim

WAIT_S = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path_factory.mktemp("surveys") / "mesh", sites=("site-a",)) as running:
        yield running


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def survey(mesh: Mesh, request: job_pb2.StartSurveyRequest) -> job_pb2.Survey:
    """Its end."""
    found = (await mesh.call("StartSurvey", request)).survey
    deadline = time.monotonic() + WAIT_S
    while found.status == "RUNNING":
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.2)
        asked = job_pb2.GetSurveyRequest(project_id=PROJECT, survey_id=found.id)
        found = (await mesh.call("GetSurvey", asked)).survey
    return found


async def test_an_origin_and_its_machines_one_of_them_absent(mesh: Mesh, tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    request = job_pb2.StartSurveyRequest(
        project_id=PROJECT, origin=endpoint("image", {"path": str(sites.origin)}), instances=["vm", "absent"]
    )
    done = await survey(mesh, request)
    assert (done.side, done.type, done.status) == ("origin", "image", "COMPLETED"), done
    found = json.loads(done.found_json)
    assert (found["detail"], found["takes"], found["left_out"]) == ("names", None, 0)
    there, absent = done.machines
    assert json.loads(there.export_info_json)["devices"]["disks"][0]["size_bytes"] == sites.size
    assert absent.export_info_json == ""
    assert "absent" in absent.message
    with pytest.raises(NotFound):
        await mesh.call("GetSurvey", job_pb2.GetSurveyRequest(project_id=FOREIGN, survey_id=done.id))
    with pytest.raises(NotFound):
        await mesh.call("GetSurvey", job_pb2.GetSurveyRequest(project_id=PROJECT, survey_id=ABSENT))


async def test_a_destination_says_what_it_takes_and_an_unreachable_one_why_not(mesh: Mesh, tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    good = endpoint("image", {"path": str(sites.destination)}, {"network_map": {"a": "b"}, "format": "qcow2"})
    done = await survey(mesh, job_pb2.StartSurveyRequest(project_id=PROJECT, destination=good))
    found = json.loads(done.found_json)
    takes, (folder,) = found["takes"], found["storage_types"]
    assert (folder["kind"], folder["id"]) == ("folder", str(sites.destination))
    assert 0 < folder["free_bytes"] <= folder["capacity_bytes"]
    assert takes["free_networks"] == ["*"]
    assert {"network_map", "start_instance", "format"} <= set(takes["members"])
    assert "storage_map" not in takes["members"]
    gone = endpoint("image", {"path": str(tmp_path / "gone")})
    failed = await survey(mesh, job_pb2.StartSurveyRequest(project_id=PROJECT, destination=gone))
    assert (failed.status, failed.found_json) == ("ERROR", "")
    assert "gone" in failed.message


async def test_vsphere_tells_kinds_and_sizes_and_wants_to_be_told_where_disks_go(mesh: Mesh) -> None:
    pytest.importorskip("pyVmomi")
    with vcsim("-machines", "2") as simulator:
        here = endpoint("vmware_vsphere", {k: v for k, v in simulator.connection_info().items() if v is not None})
        origin = job_pb2.StartSurveyRequest(project_id=PROJECT, origin=here, instances=["DC0_H0_VM0"])
        there = job_pb2.StartSurveyRequest(project_id=PROJECT, destination=here)
        first, second = await survey(mesh, origin), await survey(mesh, there)
    (machine,) = first.machines
    (nic,) = json.loads(machine.export_info_json)["devices"]["nics"]
    found = json.loads(second.found_json)
    assert nic["network_name"] in [one["name"] for one in found["networks"]]
    assert found["detail"] == "names", "it knows no subnets"
    networks = {one["name"]: (one.get("kind"), one.get("vlan")) for one in found["networks"]}
    assert networks["VM Network"] == ("standard", "none")
    assert networks["DC0_DVPG0"] == ("distributed", "none")
    (store,) = found["storage_types"]
    assert (store["name"], store["kind"]) == ("LocalDS_0", "OTHER")
    assert 0 < store["free_bytes"] <= store["capacity_bytes"]
    assert (found["takes"]["storage_member"], found["takes"]["storage_required"]) == ("datastore", True)


async def test_what_cannot_be_asked_is_refused_at_once(mesh: Mesh, tmp_path: Path) -> None:
    good = endpoint("image", {"path": str(tmp_path)})
    for request, words in (
        (job_pb2.StartSurveyRequest(project_id=PROJECT), "exactly one"),
        (job_pb2.StartSurveyRequest(project_id=PROJECT, origin=good, destination=good), "exactly one"),
        (job_pb2.StartSurveyRequest(project_id=PROJECT, destination=good, instances=["vm"]), "machines of an origin"),
        (job_pb2.StartSurveyRequest(project_id=PROJECT, origin=good, instances=["vm", "vm"]), "twice"),
        (job_pb2.StartSurveyRequest(project_id=PROJECT, origin=endpoint("cloud", {})), "origin.type"),
    ):
        with pytest.raises(InvalidInput, match=words):
            await mesh.call("StartSurvey", request)
