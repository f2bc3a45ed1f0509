"""JSON Schema of the OpenStack provider's ``connection_info``.

Members are called as in clouds.yaml (openstacksdk, "Configuring OpenStack SDK Applications"), flat or below ``auth``.
"""

from __future__ import annotations

from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAME = {"type": "string", "minLength": 1, "maxLength": 255}
_SECRET = {"type": "string", "minLength": 1, "maxLength": 4096, "writeOnly": True}

AUTH: dict[str, Any] = {
    "auth_url": {
        "type": "string",
        "maxLength": 1024,
        "pattern": r"^https?://[^\s/?#@]+(/[^\s?#]*)?$(?!\n)",
        "description": "Keystone's address, with or without /v3.",
    },
    "username": _NAME,
    "user_id": _NAME,
    "password": _SECRET,
    "user_domain_name": _NAME,
    "user_domain_id": _NAME,
    "project_name": _NAME,
    "project_id": _NAME,
    "project_domain_name": _NAME,
    "project_domain_id": _NAME,
    "application_credential_id": {**_NAME, "writeOnly": True},
    "application_credential_name": {**_NAME, "writeOnly": True},
    "application_credential_secret": _SECRET,
}

CEPH: dict[str, Any] = {
    "type": "object",
    "properties": {
        "mon_host": {
            "type": "string",
            "minLength": 1,
            "maxLength": 1024,
            "pattern": r"^[\w.:,;/ \[\]-]+$(?!\n)",
            "description": "Addresses of monitors, as in a ceph.conf.",
        },
        "user": {**_NAME, "default": "coriolis", "description": "With or without client."},
        "key": {**_SECRET, "description": "As in the user's keyring."},
        "pools": {
            "type": "array",
            "items": {**_NAME, "pattern": r"^[\w.-]+$(?!\n)"},
            "minItems": 1,
            "maxItems": 16,
            "default": ["volumes"],
            "description": "Where Cinder's volumes are looked for.",
        },
    },
    "required": ["mon_host", "key"],
    "additionalProperties": False,
    "description": "The Ceph behind Cinder: as origin, volumes there are read without copies, and only what changed.",
}

CONNECTION: dict[str, Any] = {
    "$schema": DIALECT,
    "type": "object",
    "properties": {
        **AUTH,
        "auth": {
            "type": "object",
            "properties": AUTH,
            "additionalProperties": False,
            "description": "The same as in a clouds.yaml; what stands beside it goes before.",
        },
        "identity_api_version": {"enum": [3, "3"], "description": "There is no other any more."},
        "region_name": {**_NAME, "description": "Needed when the catalog has several regions."},
        "interface": {"enum": ["public", "internal", "admin"], "default": "public"},
        "allow_untrusted": {
            "type": "boolean",
            "default": False,
            "description": "Accept any certificate. Who sits on the way can read the password.",
        },
        "verify": {"type": "boolean", "description": "As in clouds.yaml; false is allow_untrusted."},
        "ca": {
            "type": "string",
            "maxLength": 65536,
            "pattern": "^-----BEGIN CERTIFICATE-----",
            "description": "Certificates (PEM) to trust instead of the system's.",
        },
        "ceph": CEPH,
        "token": {**_SECRET, "maxLength": 16384, "description": "Of the caller's own cloud; the mesh fills it in."},
        "token_expires_at": {"type": "string", "maxLength": 64, "writeOnly": True},
    },
    "additionalProperties": False,
}
"""With nothing, or ``region_name`` alone, the job's trust serves: the mesh adds ``auth_url``, ``token``,
``token_expires_at`` and ``project_id``."""
