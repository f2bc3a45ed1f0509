"""The image provider with a password: what it is given must never be seen again. Test-only, by entry point."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog

from coriolis.errors import Denied
from coriolis.providers.base import Connection, JsonSchema
from coriolis.providers.image.provider import ImageProvider
from coriolis.providers.image.schemas import CONNECTION
from coriolis.providers.surroundings import NOTHING, Surroundings

log = structlog.get_logger(__name__)


class CanaryProvider(ImageProvider):
    """Behaves badly with its secrets on purpose: logs them, prints them, and fails with them as ``fail`` says."""

    name = "canary"

    @property
    def connection_schema(self) -> JsonSchema:
        members = {
            **CONNECTION["properties"],
            "password": {"type": "string", "writeOnly": True},
            # a secret by the schema alone, not by its name
            "phrase": {"type": "string", "writeOnly": True},
            "fail": {"enum": ["", "denied", "crash"]},
        }
        return {**CONNECTION, "properties": members, "required": ["path", "password", "phrase"]}

    def connect(
        self, connection_info: Mapping[str, Any], surroundings: Surroundings = NOTHING
    ) -> AbstractAsyncContextManager[Connection]:
        password, phrase = connection_info["password"], connection_info["phrase"]
        log.info("connecting", url=f"https://user:{password}@cloud/", info=dict(connection_info), phrase=phrase)
        logging.getLogger("some.sdk").warning("request body: %s", json.dumps({"auth": [password, phrase]}))
        match connection_info.get("fail"):
            case "denied":
                raise Denied(f"login as user with {password} and {phrase} was refused")
            case "crash":
                raise RuntimeError(f"unexpected answer to {password} and {phrase}")
        return super().connect({"path": connection_info["path"]}, surroundings)
