"""Which storage of the destination a disk goes to, as the target environment maps it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coriolis.model.machine import Disk

STORAGE_MAP: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Origin storage -> storage of the destination.",
}
_PAIR = {"type": "string", "minLength": 1, "maxLength": 1024}
STORAGE_MAPPINGS: dict[str, Any] = {
    "type": ["object", "null"],
    "properties": {
        "default": {"type": ["string", "null"]},
        "backend_mappings": {
            "type": "array",
            "items": {"type": "object", "properties": {"source": _PAIR, "destination": _PAIR}},
        },
        "disk_mappings": {
            "type": "array",
            "items": {"type": "object", "properties": {"disk_id": _PAIR, "destination": _PAIR}},
        },
    },
    "additionalProperties": False,
    "description": "As other clients of the REST API send it: by disk, by origin storage, and for the rest.",
}


def storage_of(disk: Disk, environment: Mapping[str, Any]) -> str:
    """Name or id; "" when the environment does not say. The disk goes before its storage, that before the default."""
    mappings: Mapping[str, Any] = environment.get("storage_mappings") or {}
    by_disk = {one.get("disk_id"): one.get("destination") for one in mappings.get("disk_mappings") or ()}
    by_storage = {one.get("source"): one.get("destination") for one in mappings.get("backend_mappings") or ()}
    storage = disk.storage_backend_identifier
    found = (
        by_disk.get(disk.id)
        or by_storage.get(storage)
        or (environment.get("storage_map") or {}).get(storage)
        or mappings.get("default")
        or environment.get("storage")
    )
    return str(found or "")
