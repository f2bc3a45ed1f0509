"""Secrets of Barbican. Only the id of a reference counts: tokens go to the Barbican of the catalog alone."""

from __future__ import annotations

import re
from typing import Any

from barbicanclient import exceptions as barbican_exceptions
from barbicanclient.client import Client
from keystoneauth1 import exceptions, session

from coriolis.errors import CredentialsLost, Denied, InvalidInput, NotFound, Unavailable
from coriolis.keystone.service_account import failures_of, printable

MAX_PAYLOAD_BYTES = 64 * 1024
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_REF = re.compile(rf"(?:https?://[^\s?#]{{1,255}}/v1/secrets/)?({_UUID})/?")


def secret_id_of(reference: str) -> str:
    """The id in a ``secret_id`` or ``secret_ref``. Raises InvalidInput."""
    found = _REF.fullmatch(reference)
    if found is None:
        raise InvalidInput("a secret is named by its id (a UUID) or by its URL in Barbican, .../v1/secrets/<id>")
    return found.group(1)


def read_secret(used: session.Session, reference: str, region: str, interface: str) -> bytes:
    """The payload, at most 64 KiB (blocking).

    Raises NotFound for a wrong id, Denied where the session may not read it, InvalidInput for a payload that is absent
    or too large, CredentialsLost when the session itself is refused.
    """
    secret_id = secret_id_of(reference)
    where: dict[str, Any] = {"region_name": region or None, "interface": interface}
    with failures_of("Barbican"):
        endpoint = used.get_endpoint(service_type="key-manager", **where)
        if not endpoint:
            raise Unavailable("the catalog names no Barbican (key-manager), so no secret can be read")
        try:
            barbican = Client("v1", session=used, **where)
            payload = barbican.secrets.get(f"{endpoint.rstrip('/').removesuffix('/v1')}/v1/secrets/{secret_id}").payload
        except (barbican_exceptions.HTTPAuthError, exceptions.Unauthorized) as refused:  # a 401 is no HTTPClientError
            raise CredentialsLost("Barbican refuses the job's credentials; renew them") from refused
        except barbican_exceptions.HTTPClientError as refused:
            match refused.status_code:
                case 403:
                    raise Denied(
                        f"secret {secret_id} may not be read with the roles of the migration's owner (Barbican asks "
                        "for creator, observer or admin in the secret's project, or its access list)"
                    ) from refused
                case 404:
                    raise NotFound(f"Barbican has no secret {secret_id} in this project") from refused
            raise InvalidInput(f"Barbican refused to give secret {secret_id}: {printable(refused)}") from refused
        except barbican_exceptions.HTTPServerError as failed:
            raise Unavailable(f"Barbican fails: {printable(failed)}", retry_after_s=5) from failed
        except (barbican_exceptions.HTTPError, barbican_exceptions.PayloadException, ValueError) as failed:
            raise InvalidInput(f"secret {secret_id} has no payload that can be read") from failed
    if payload is None:
        raise InvalidInput(f"secret {secret_id} has no payload")
    content = payload.encode() if isinstance(payload, str) else bytes(payload)
    if len(content) > MAX_PAYLOAD_BYTES:
        raise InvalidInput(f"secret {secret_id} holds more than {MAX_PAYLOAD_BYTES} bytes")
    return content
