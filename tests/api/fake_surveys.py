"""Surveys of a mesh that has none: what the fake coordinator answers at once."""

from __future__ import annotations

import json
from typing import Any

from coriolis.errors import InvalidInput, NotFound
from coriolis.ids import new_id
from coriolis.model.machine import Devices, Disk, MachineSpec, Nic, to_document
from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.api.fake_records import now

PROVIDERS = ("image", "libvirt")
LAN = {"name": "VM Network", "id": "n-1", "subnets": [{"name": "a", "cidr": "10.0.0.0/24"}]}


def sample_survey(side: str, type_: str, instances: list[str]) -> job_pb2.Survey:
    """An origin whose machines have a NIC in VM Network, a destination that has the networks lan and default."""
    if side == "origin":
        found: dict[str, Any] = {"detail": "full", "networks": [LAN], "takes": None}
    else:
        lan = {"name": "lan", "id": "n-2", "subnets": LAN["subnets"], "kind": "bridge", "vlan": "12", "bridge": "br0"}
        networks = [{"name": "default"}, lan]
        storage = [{"name": "fast", "kind": "dir", "capacity_bytes": 4 << 30, "free_bytes": 512 << 20}]
        members = ["create_missing_networks", "network_map", "storage_map"]
        takes = {"members": members, "free_networks": ["bridge:*"], "storage_member": "", "storage_required": False}
        found = {"detail": "full", "networks": networks, "storage_types": storage, "takes": takes}
    devices = Devices(
        disks=(Disk("vda", 1 << 30, storage_backend_identifier="fast"),),
        nics=(Nic("VM Network", None, network_id="n-1"), Nic("DMZ", None)),
    )
    described = [
        job_pb2.SurveyedMachine(instance=name, message="NotFound: there is no such machine")
        if name == "absent"
        else job_pb2.SurveyedMachine(
            instance=name, export_info_json=json.dumps(to_document(MachineSpec("1", name, 1, 512, devices=devices)))
        )
        for name in instances
    ]
    return job_pb2.Survey(
        id=new_id(), side=side, type=type_, status="COMPLETED", created_at=now(), found_json=json.dumps(found),
        machines=described, events=["1 networks"],
    )  # fmt: skip


class FakeSurveys:
    """The part of the fake JobService that makes and finds them."""

    _me: Any

    async def StartSurvey(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("StartSurvey")
        side = "origin" if request.HasField("origin") else "destination"
        endpoint = getattr(request, side)
        if endpoint.type not in PROVIDERS:
            raise InvalidInput(f"{side}.type {endpoint.type[:60]!r} is not served by any agent")
        made = sample_survey(side, endpoint.type, list(request.instances))
        mesh.surveys[request.project_id, made.id] = made
        begun = job_pb2.Survey(id=made.id, side=side, type=made.type, status="RUNNING", created_at=made.created_at)
        return job_pb2.StartSurveyResponse(survey=begun)

    async def GetSurvey(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("GetSurvey")
        found = mesh.surveys.get((request.project_id, request.survey_id))
        if found is None:
            raise NotFound(f'Survey with ID "{request.survey_id[:64]}" not found.')
        return job_pb2.GetSurveyResponse(survey=found)
