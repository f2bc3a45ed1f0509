"""JSON Schemas of the vSphere provider's documents."""

from __future__ import annotations

from typing import Any

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_THUMBPRINT = r"^([0-9A-Fa-f]{2}:){19}[0-9A-Fa-f]{2}$|^([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}$"

CONNECTION: dict[str, Any] = {
    "$schema": _DIALECT,
    "type": "object",
    "properties": {
        "host": {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "pattern": r"^[A-Za-z0-9._:-]+$(?!\n)",
            "description": "Name or address of a vCenter, or of one ESXi host.",
        },
        "port": {"type": "integer", "minimum": 1, "maximum": 65535, "default": 443},
        "username": {"type": "string", "minLength": 1, "maxLength": 255},
        "password": {"type": "string", "minLength": 1, "maxLength": 1024, "writeOnly": True},
        "allow_untrusted": {
            "type": "boolean",
            "default": False,
            "description": "Accept any certificate. Who sits on the way can read the password.",
        },
        "ca": {
            "type": "string",
            "maxLength": 65536,
            "pattern": "^-----BEGIN CERTIFICATE-----",
            "description": "Certificates (PEM) to trust instead of the system's; a vCenter offers its own at /certs.",
        },
        "thumbprint": {
            "type": "string",
            "pattern": _THUMBPRINT,
            "description": "SHA-1 or SHA-256 of the one certificate to accept, in pairs with colons.",
        },
        "max_connections": {
            "type": "integer",
            "minimum": 1,
            "maximum": 500,
            "default": 48,
            "description": "Connections for disk data that one agent opens to this endpoint; a vCenter bears about 52.",
        },
        "max_connections_per_host": {
            "type": "integer",
            "minimum": 1,
            "maximum": 200,
            "default": 24,
            "description": "The same to one ESXi host.",
        },
    },
    "required": ["host", "username", "password"],
    "additionalProperties": False,
}

SOURCE_ENVIRONMENT: dict[str, Any] = {
    "$schema": _DIALECT,
    "type": "object",
    "properties": {
        "disk_transport": {
            "enum": ["auto", "vddk", "datastore", "export"],
            "default": "auto",
            "description": "How disks are read; auto takes the first of the others that works.",
        },
        "change_tracking": {
            "enum": ["auto", "as_is"],
            "default": "auto",
            "description": "auto turns changed block tracking on where it is off and safe; as_is leaves it.",
        },
    },
    "additionalProperties": False,
}

DESTINATION_ENVIRONMENT: dict[str, Any] = {
    "$schema": _DIALECT,
    "type": "object",
    "properties": {
        "folder": {
            "type": "string",
            "minLength": 1,
            "description": "Of machines: an inventory path, or relative to the datacenter's root folder (the default).",
        },
        "cluster": {"type": "string", "minLength": 1, "description": "Name or inventory path."},
        "host": {"type": "string", "minLength": 1, "description": "An ESXi host, alone or of the cluster."},
        "resource_pool": {"type": "string", "minLength": 1, "description": "Name or inventory path."},
        "datastore": {"type": "string", "minLength": 1},
        "storage_map": {
            "type": "object",
            "additionalProperties": {"type": "string", "minLength": 1},
            "description": "Origin storage -> datastore; disks of other storages go to datastore.",
        },
        "network_map": {
            "type": "object",
            "additionalProperties": {"type": "string", "minLength": 1},
            "description": "Origin network -> network, distributed port group or opaque network, by name or id.",
        },
        "guest_id": {"type": "string", "minLength": 1, "maxLength": 80},
        "hardware_version": {"type": "string", "pattern": r"^vmx-[0-9]{2}$(?!\n)"},
        "cores_per_socket": {"type": "integer", "minimum": 1, "maximum": 256},
        "disk_controller": {"enum": ["pvscsi", "lsilogic-sas", "sata", "nvme"]},
        "disk_allocation": {"enum": ["thin", "thick", "eager"], "default": "thin"},
        "nic_type": {"enum": ["vmxnet3", "e1000e", "e1000"]},
        "keep_mac": {"type": "boolean", "default": True},
        "as_template": {"type": "boolean", "description": "Default: whether the origin is a template."},
        "allow_overcommit": {
            "type": "boolean",
            "default": False,
            "description": "Let staged disks be larger in sum than what the agent's staging_dir has left.",
        },
    },
    "additionalProperties": False,
}
