"""JSON Schema of the OpenStack provider's source environment."""

from __future__ import annotations

from typing import Any

from coriolis.providers.openstack.connection_schema import DIALECT

SOURCE_ENVIRONMENT: dict[str, Any] = {
    "$schema": DIALECT,
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
