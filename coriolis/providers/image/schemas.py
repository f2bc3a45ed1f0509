"""JSON Schemas of the image provider's documents."""

from __future__ import annotations

from typing import Any

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

CONNECTION: dict[str, Any] = {
    "$schema": _DIALECT,
    "type": "object",
    "properties": {
        "path": {"type": "string", "minLength": 1, "description": "Directory of images on the agent's host."},
        "max_disk_bytes": {
            "type": "integer",
            "minimum": 1,
            "description": "Largest virtual disk accepted; default 64 TiB.",
        },
    },
    "required": ["path"],
    "additionalProperties": False,
}

SOURCE_ENVIRONMENT: dict[str, Any] = {
    "$schema": _DIALECT,
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}

DESTINATION_ENVIRONMENT: dict[str, Any] = {
    "$schema": _DIALECT,
    "type": "object",
    "properties": {
        "format": {"enum": ["raw", "qcow2", "vmdk", "vhd", "vhdx"], "default": "raw"},
        "network_map": {"type": "object", "additionalProperties": {"type": "string"}},
        "max_disk_bytes": {"type": "integer", "minimum": 1},
        "allow_overcommit": {
            "type": "boolean",
            "default": False,
            "description": "Accept sparse disks larger than the free space.",
        },
    },
    "additionalProperties": False,
}
