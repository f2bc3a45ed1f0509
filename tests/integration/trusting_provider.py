"""A destination in the caller's own cloud, as far as credentials go: it is told nothing but a token, and reads from a
secret of Barbican named ``place`` where its images go, as the caller. Test-only, by entry point.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from keystoneauth1 import exceptions

from coriolis.errors import CredentialsLost
from coriolis.keystone.given_token import given_session
from coriolis.providers.base import Connection, JsonSchema
from coriolis.providers.capabilities import Capabilities
from coriolis.providers.image.provider import ImageProvider
from coriolis.providers.surroundings import NOTHING, Surroundings

MEMBERS = ("auth_url", "token", "token_expires_at", "project_id", "region_name")


class TrustingProvider(ImageProvider):
    name = "trusting"

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, takes_tokens=True)

    @property
    def connection_schema(self) -> JsonSchema:
        members = {name: {"type": "string", "writeOnly": name == "token"} for name in MEMBERS}
        return {"type": "object", "properties": members, "required": ["token"], "additionalProperties": False}

    @asynccontextmanager
    async def connect(
        self, connection_info: Mapping[str, Any], surroundings: Surroundings = NOTHING
    ) -> AsyncIterator[Connection]:
        session = given_session(connection_info, surroundings.renew)

        def place() -> Any:
            barbican = {"service_type": "key-manager", "interface": "public"}
            try:
                listed = session.get("/v1/secrets?name=place", endpoint_filter=barbican).json()["secrets"]
                payload = session.get(
                    f"{listed[0]['secret_ref']}/payload", headers={"Accept": "text/plain"}, endpoint_filter=barbican
                )
            except exceptions.Unauthorized as refused:
                raise CredentialsLost("Barbican refuses the token") from refused
            return {"path": json.loads(payload.text)["path"]}

        async with super().connect(await asyncio.to_thread(place)) as connection:
            yield connection
