"""Connection infos of jobs: stored sealed or by reference, opened only for the agent that works on them now."""

from __future__ import annotations

import base64
import json
from typing import Any

from coriolis.errors import InvalidInput, NotFound
from coriolis.model.job import Endpoint, Migration
from coriolis.model.task import Side
from coriolis.security.secrets import SecretBox, SecretStore

MASK = "***"


class Vault:
    """Opens what ``seal`` closed; resolves ``secret_id`` through the secret store."""

    def __init__(self, box: SecretBox, store: SecretStore) -> None:
        self._box = box
        self._store = store

    def seal(self, execution_id: str, connection_info: dict[str, Any]) -> str:
        """Text that may be stored; opens only for jobs with the same execution id."""
        sealed = self._box.seal(json.dumps(connection_info).encode(), execution_id.encode())
        return base64.b64encode(sealed).decode()

    def relay_key(self, task_id: str, generation: int) -> bytes:
        """The key of one attempt of one task: any leader computes the same, and nothing has to be stored."""
        return self._box.derive(f"relay:{task_id}:{generation}")

    async def resolve_secret(self, project_id: str, secret_id: str) -> dict[str, Any]:
        """The object a secret stands for. Raises NotFound, InvalidInput when it is not a JSON object."""
        payload = await self._store.get(project_id, secret_id)
        try:
            info = json.loads(payload)
        except ValueError as broken:
            raise InvalidInput(f"secret {secret_id} does not hold JSON") from broken
        if not isinstance(info, dict):
            raise InvalidInput(f"secret {secret_id} does not hold a JSON object")
        return info

    async def connection_info(self, migration: Migration, side: Side) -> dict[str, Any]:
        """The connection info of one side of a migration."""
        endpoint: Endpoint = migration.transfer.origin if side is Side.ORIGIN else migration.transfer.destination
        if endpoint.secret_id:
            return await self.resolve_secret(migration.project_id, endpoint.secret_id)
        if not endpoint.sealed_connection:
            raise NotFound(f"migration {migration.id} has no connection info for its {side}")
        sealed = base64.b64decode(endpoint.sealed_connection)
        opened: dict[str, Any] = json.loads(self._box.open(sealed, migration.execution_id.encode()))
        return opened


def masked(connection_info: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """``connection_info`` as answers may show it: members the schema does not show as public read ``***``."""
    properties = schema.get("properties", {})
    return {
        name: MASK if name not in properties or properties[name].get("writeOnly") else value
        for name, value in connection_info.items()
    }
