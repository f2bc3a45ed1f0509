"""JSON Schema of the OpenStack provider's target environment."""

from __future__ import annotations

from typing import Any

from coriolis.model.storage_choice import STORAGE_MAP, STORAGE_MAPPINGS
from coriolis.providers.openstack.connection_schema import DIALECT

_NAME = {"type": "string", "minLength": 1, "maxLength": 255}

DESTINATION_ENVIRONMENT: dict[str, Any] = {
    "$schema": DIALECT,
    "type": "object",
    "properties": {
        "flavor_name": {**_NAME, "description": "Name or id; without it the smallest with enough CPUs and memory."},
        "network_map": {
            "type": "object",
            "additionalProperties": _NAME,
            "description": "Origin network -> network or subnet, by name or id, or network/subnet.",
        },
        "keep_mac": {"type": "boolean", "description": "Default: wherever the cloud allows it; true: or fail."},
        "keep_ips": {"type": "boolean", "default": False, "description": "Addresses that the mapped subnet has."},
        "create_missing_networks": {
            "type": "boolean",
            "default": False,
            "description": "Networks, subnets and security groups that the origin describes and this project has not.",
        },
        "security_groups": {"type": "array", "items": _NAME, "maxItems": 32},
        "floating_ip_pool": {**_NAME, "description": "External network from which the first NIC gets an address."},
        "keypair_name": _NAME,
        "availability_zone": _NAME,
        "server_group": {**_NAME, "description": "Name or id."},
        "config_drive": {"type": "boolean", "default": False},
        "volume_type": {**_NAME, "description": "For disks that storage_map does not name."},
        "storage_map": {**STORAGE_MAP, "description": "Origin storage -> volume type."},
        "storage_mappings": STORAGE_MAPPINGS,
        "volume_availability_zone": _NAME,
        "data_path": {
            "enum": ["auto", "attach", "upload"],
            "default": "auto",
            "description": "attach: write to Cinder volumes where the agent runs; upload: images through Glance.",
        },
        "boot_from": {"enum": ["volume", "image"], "default": "volume"},
        "disk_bus": {"enum": ["virtio", "scsi", "sata"]},
        "nic_model": {"enum": ["virtio", "e1000", "e1000e", "rtl8139"], "default": "virtio"},
        "machine": {"enum": ["q35", "pc"]},
        "as_template": {"type": "boolean", "description": "Default: whether the origin is a template."},
        "allow_overcommit": {
            "type": "boolean",
            "default": False,
            "description": "Let staged disks be larger in sum than what the agent's staging_dir has left.",
        },
    },
    "additionalProperties": False,
}
