"""Connection infos of jobs: stored sealed or by reference, opened only for the agent that works on them now."""

from __future__ import annotations

import base64
import json
from typing import Any, Protocol

from coriolis.errors import Denied, InvalidInput, NotFound, Unsupported
from coriolis.ids import is_id
from coriolis.model.job import Endpoint, Migration
from coriolis.model.task import Side
from coriolis.security.secrets import SecretBox, SecretStore

MASK = "***"
BY_REFERENCE = frozenset({"secret_id", "secret_ref"})


class Delegations(Protocol):
    """Keystone's trusts (``coriolis.keystone.trusts.Delegations``). All raise CredentialsLost, Unavailable."""

    async def connection_info(self, trust_id: str) -> dict[str, Any]:
        """With a token that acts for the trust's owner in its project; ``project_id`` is one of its members."""
        ...

    async def secret(self, trust_id: str, secret: str) -> bytes:
        """The payload of a Barbican secret, as the trust's owner may read it."""
        ...

    def forget(self, trust_id: str) -> None:
        """Hand out no token of the trust that was made before now."""
        ...


class Vault:
    """Opens what ``seal`` closed; resolves ``secret_id`` through the secret store, or through Barbican."""

    def __init__(
        self, box: SecretBox, store: SecretStore, delegations: Delegations | None = None, *, barbican: bool = False
    ) -> None:
        """``barbican``: it holds the secrets, not ``store``."""
        self._box = box
        self._store = store
        self._delegations = delegations
        self._barbican = barbican

    def seal(self, execution_id: str, connection_info: dict[str, Any]) -> str:
        """Text that may be stored; opens only for jobs with the same execution id."""
        sealed = self._box.seal(json.dumps(connection_info).encode(), execution_id.encode())
        return base64.b64encode(sealed).decode()

    def _open(self, execution_id: str, sealed: str) -> dict[str, Any]:
        opened: dict[str, Any] = json.loads(self._box.open(base64.b64decode(sealed), execution_id.encode()))
        return opened

    def relay_key(self, task_id: str, generation: int) -> bytes:
        """The key of one attempt of one task: any leader computes the same, and nothing has to be stored."""
        return self._box.derive(f"relay:{task_id}:{generation}")

    # -- trusts ---------------------------------------------------------------------------------------------------

    async def seal_trust(self, project_id: str, execution_id: str, trust_id: str) -> str:
        """The trust as a job keeps it.

        Raises Denied unless it works and is for that project, Unsupported when this coordinator knows no Keystone.
        """
        granted = await self._keystone().connection_info(trust_id)
        if granted["project_id"] != project_id:
            raise Denied("the trust is for another project")
        return self.seal(execution_id, {"trust_id": trust_id})

    def trust_of(self, migration: Migration) -> str:
        """Empty when it has none."""
        if not migration.sealed_trust:
            return ""
        return str(self._open(migration.execution_id, migration.sealed_trust)["trust_id"])

    def refused(self, migration: Migration) -> None:
        """An agent's credentials were refused: hand out newer ones, if there are any."""
        if self._delegations is not None and (trust_id := self.trust_of(migration)):
            self._delegations.forget(trust_id)

    def _keystone(self) -> Delegations:
        if self._delegations is None:
            raise Unsupported("this coordinator has no [keystone] in its configuration")
        return self._delegations

    # -- connection infos -----------------------------------------------------------------------------------------

    def check_reference(self, field: str, connection: dict[str, Any]) -> str:
        """What names the secret in a connection_info that holds such a member. Raises InvalidInput naming the field."""
        (name, *others) = connection
        reference = connection[name]
        if others or not isinstance(reference, str):
            raise InvalidInput(f"{field}.connection_info.{name} must be a text, and the only member")
        if not self._barbican and (name != "secret_id" or not is_id(reference)):
            raise InvalidInput(f"{field}.connection_info.secret_id must be the id of a secret, and the only member")
        return reference

    async def resolve_secret(self, project_id: str, secret_id: str, trust_id: str = "") -> dict[str, Any]:
        """The object a secret stands for.

        Raises NotFound, InvalidInput when it is not a JSON object; with Barbican also Denied, CredentialsLost.
        """
        if not self._barbican:
            payload = await self._store.get(project_id, secret_id)
        elif not trust_id:
            raise InvalidInput("secrets are in Barbican here: the migration must be asked for with a Keystone token")
        else:
            payload = await self._keystone().secret(trust_id, secret_id)
        try:
            info = json.loads(payload)
        except (ValueError, RecursionError) as broken:
            raise InvalidInput(f"secret {secret_id} does not hold JSON") from broken
        if not isinstance(info, dict):
            raise InvalidInput(f"secret {secret_id} does not hold a JSON object")
        return info

    async def delegated(self, trust_id: str, connection: dict[str, Any]) -> dict[str, Any]:
        """The caller's own cloud, with what ``connection`` says besides credentials. Raises InvalidInput."""
        if not trust_id:
            raise InvalidInput("connection_info is empty, and no Keystone token came with the request")
        return {**await self._keystone().connection_info(trust_id), **connection}

    async def connection_info(self, migration: Migration, side: Side) -> dict[str, Any]:
        """The connection info of one side of a migration."""
        endpoint: Endpoint = migration.transfer.origin if side is Side.ORIGIN else migration.transfer.destination
        if endpoint.secret_id:
            return await self.resolve_secret(migration.project_id, endpoint.secret_id, self.trust_of(migration))
        if endpoint.delegated:
            return await self.delegated(self.trust_of(migration), endpoint.shown_connection)
        if not endpoint.sealed_connection:
            raise NotFound(f"migration {migration.id} has no connection info for its {side}")
        return self._open(migration.execution_id, endpoint.sealed_connection)


def masked(connection_info: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """``connection_info`` as answers may show it: members the schema does not show as public read ``***``, at any
    depth."""
    properties = schema.get("properties", {})
    return {name: _masked_member(value, properties.get(name)) for name, value in connection_info.items()}


def _masked_member(value: Any, schema: dict[str, Any] | None) -> Any:
    if schema is None or schema.get("writeOnly"):
        return MASK
    if isinstance(value, list):
        return [_masked_member(one, schema.get("items")) for one in value]
    return masked(value, schema) if isinstance(value, dict) else value
