"""Surveys between REST and the mesh."""

from __future__ import annotations

from coriolis.rpc.gen.coriolis.v1 import job_pb2
from gateway.identity import Caller
from gateway.schemas import SurveyIn
from gateway.translate import Document, endpoint_message, json_object


def request_message(caller: Caller, body: SurveyIn, trust_id: str = "") -> job_pb2.StartSurveyRequest:
    """The survey that ``body`` asks for, in the caller's project."""
    request = job_pb2.StartSurveyRequest(
        project_id=caller.project_id, user_id=caller.user_id, instances=body.instances or (), trust_id=trust_id
    )
    if body.origin is not None:
        one = body.origin
        request.origin.CopyFrom(endpoint_message(one.type, one.connection_info, one.source_environment))
    if body.destination is not None:
        other = body.destination
        request.destination.CopyFrom(endpoint_message(other.type, other.connection_info, other.target_environment))
    return request


def document(message: job_pb2.Survey) -> Document:
    """A survey; what it found is empty before its end."""
    found = json_object(message.found_json)
    return {
        "id": message.id,
        "side": message.side,
        "type": message.type,
        "status": message.status,
        "message": message.message or None,
        "detail": found.get("detail"),
        "networks": found.get("networks", []),
        "security_groups": found.get("security_groups", []),
        "storage_types": found.get("storage_types", []),
        "left_out": found.get("left_out", 0),
        "takes": found.get("takes"),
        "machines": [
            {
                "instance": one.instance,
                "machine": json_object(one.export_info_json) or None,
                "message": one.message or None,
            }
            for one in message.machines
        ],
        "events": list(message.events),
        "created_at": message.created_at,
    }
