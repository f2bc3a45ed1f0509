"""JSON Schemas of the libvirt provider's documents."""

from __future__ import annotations

from typing import Any

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

# Only sockets of this host: qemu+ext runs a command of the caller's choice, others dial hosts.
URI_PATTERN = r"^qemu(\+unix)?:///(system|session)(\?socket=/[^?&#\s]*)?$(?!\n)"

CONNECTION: dict[str, Any] = {
    "$schema": _DIALECT,
    "type": "object",
    "properties": {
        "uri": {"type": "string", "pattern": URI_PATTERN, "description": "libvirt URI on the agent's own host."},
        "storage_pool": {"type": "string", "minLength": 1, "default": "default"},
        "scratch_dir": {
            "type": "string",
            "pattern": "^/",
            "default": "/var/lib/libvirt/qemu/coriolis",
            "description": "Where qemu keeps overwritten blocks and the NBD socket during a live snapshot.",
        },
        "console_dir": {"type": "string", "pattern": "^/", "default": "/var/log/libvirt/qemu"},
        "min_scratch_free_bytes": {"type": "integer", "minimum": 0, "default": 1 << 30},
        "max_disk_bytes": {"type": "integer", "minimum": 1},
    },
    "required": ["uri"],
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
        "storage_pool": {"type": "string", "minLength": 1},
        "volume_format": {"enum": ["raw", "qcow2"], "default": "raw"},
        "allow_overcommit": {"type": "boolean", "default": False},
        "domain_type": {"enum": ["auto", "kvm", "qemu"], "default": "auto"},
        "machine": {"enum": ["q35", "pc"], "default": "q35"},
        "disk_bus": {"enum": ["virtio", "sata", "scsi"], "default": "virtio"},
        "nic_model": {"enum": ["virtio", "e1000", "e1000e", "rtl8139"], "default": "virtio"},
        "network_map": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Origin network -> network name, network:<name>, bridge:<name>, user or none.",
        },
    },
    "additionalProperties": False,
}
