"""What a server will be, decided and kept in the cloud before it exists: Nova runs what it creates. Pure."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from coriolis.errors import Corrupt
from coriolis.providers.openstack import marks


class ServerPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that a start needs. ``volumes`` in boot order; with ``image`` they are the disks after the first."""

    instance_id: str
    job_id: str
    tag: str
    name: str
    flavor: str
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    image: str = ""
    template: bool = False
    key: str = ""
    zone: str = ""
    group: str = ""
    config_drive: bool = False
    pool: str = ""
    origin: str = ""


def encode(plan: ServerPlan) -> str:
    """As text for metadata: ASCII, so that its length in characters and bytes is one."""
    return json.dumps(msgspec.to_builtins(plan), separators=(",", ":"))


def decode(text: str) -> ServerPlan:
    """Raises Corrupt."""
    try:
        return msgspec.json.decode(text, type=ServerPlan)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"the plan of a machine that is kept in its root volume cannot be read: {error}") from error


def server_body(plan: ServerPlan) -> dict[str, Any]:
    """The body of POST /servers, microversion 2.67."""
    first = 1 if plan.image else 0
    disks: list[dict[str, Any]] = [
        {
            "boot_index": number,
            "uuid": volume,
            "source_type": "volume",
            "destination_type": "volume",
            "delete_on_termination": False,
        }
        for number, volume in enumerate(plan.volumes, first)
    ]
    if plan.image:
        image = {"boot_index": 0, "uuid": plan.image, "source_type": "image", "destination_type": "local"}
        disks.insert(0, {**image, "delete_on_termination": True})
    server: dict[str, Any] = {
        "name": plan.name,
        "flavorRef": plan.flavor,
        "imageRef": plan.image,
        "block_device_mapping_v2": disks,
        "networks": [{"port": port} for port in plan.ports] or "none",
        "metadata": {
            marks.TAG: plan.tag,
            marks.JOB: plan.job_id,
            marks.INSTANCE: plan.instance_id,
            "coriolis_origin": plan.origin[: marks.MAX_VALUE],
        },
        "tags": marks.server_tags(plan.job_id, plan.instance_id),
    }
    for key, value in (("key_name", plan.key), ("availability_zone", plan.zone), ("config_drive", plan.config_drive)):
        if value:
            server[key] = value
    body: dict[str, Any] = {"server": server}
    if plan.group:
        body["os:scheduler_hints"] = {"group": plan.group}
    return body
