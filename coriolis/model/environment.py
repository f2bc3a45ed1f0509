"""Members that environments and connection infos have for every provider; the mesh reads them, providers never do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COMMON_SOURCE: dict[str, Any] = {
    "shutdown_grace_s": {"type": "number", "minimum": 0, "maximum": 3600},
    "allow_power_off": {"type": "boolean"},
    "transport": {"enum": ["auto", "grpc", "direct"]},
}
"""Members of every source_environment: how the origin is stopped for the last pass, and how disk data travels."""
COMMON_DESTINATION: dict[str, Any] = {
    "start_instance": {"type": "boolean"},
    "instance_name": {"type": "string", "minLength": 1, "maxLength": 255},
    "conversion": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "way": {"enum": ["auto", "fast", "full"]},
            "addressing": {"enum": ["keep", "dhcp"]},
            "nics": {
                "type": "object",
                "propertyNames": {"pattern": "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$"},
                "additionalProperties": {"enum": ["keep", "dhcp"]},
                "maxProperties": 32,
            },
            "platform": {"type": "string", "maxLength": 40},
            "package_network": {"type": "boolean"},
            "proof_of_boot": {"type": "boolean"},
        },
    },
}
"""Members of every target_environment: whether the new machine is started, its name, and how its guest is converted
(``docs/design/conversion-v1.md``)."""

COMMON_CONNECTION: dict[str, Any] = {
    "encrypted_disks_passphrase": {"type": "string", "minLength": 1, "maxLength": 512, "writeOnly": True},
}
"""Members of every connection_info: what opens encrypted disks of guests, on the side that looks into them."""


def of_provider(environment: Mapping[str, Any]) -> dict[str, Any]:
    """An environment without the members that are not the provider's: a provider refuses what it does not know."""
    return {name: value for name, value in environment.items() if name not in {**COMMON_SOURCE, **COMMON_DESTINATION}}
