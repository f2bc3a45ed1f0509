"""Who a peer is: the SPIFFE identity in its certificate.

The identity is a URI SAN ``spiffe://<trust-domain>/<role>/<id>``. gRPC clients in Python cannot look at a
server's certificate, but gRPC's own hostname check can be told which DNS SAN to demand. So each certificate
also carries DNS names derived from its identity; demanding ``identity_dns_name`` makes the TLS handshake
itself refuse everyone else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

from coriolis.errors import InvalidInput, Unauthenticated

Role = Literal["coordinator", "agent", "gateway", "client", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)

MESH_DNS_NAME = "coriolis-mesh"
MAX_IDENTITY_CHARS = 255

_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")
_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}")
_SAN_PROPERTY = "x509_subject_alternative_name"


class PeerContext(Protocol):
    """The part of a gRPC servicer context that is read here."""

    def auth_context(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """``id`` has one path segment, except for clients: ``<project_id>/<name>``."""

    trust_domain: str
    role: Role
    id: str

    def __post_init__(self) -> None:
        segments = self.id.split("/")
        if _TRUST_DOMAIN.fullmatch(self.trust_domain) is None:
            raise InvalidInput(f"trust domain {self.trust_domain!r} is not a lower-case DNS name")
        if self.role not in ROLES:
            raise InvalidInput(f"role {self.role!r} is not one of {', '.join(ROLES)}")
        if len(segments) != (2 if self.role == "client" else 1):
            raise InvalidInput(f"id {self.id!r} has the wrong number of parts for role {self.role}")
        if not all(_SEGMENT.fullmatch(segment) for segment in segments):
            raise InvalidInput(f"id {self.id!r} holds other characters than letters, digits, '.', '_' and '-'")
        if len(str(self)) > MAX_IDENTITY_CHARS:
            raise InvalidInput(f"identity is longer than {MAX_IDENTITY_CHARS} characters")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.role}/{self.id}"

    @property
    def project_id(self) -> str:
        """The project of a client; empty for every other role."""
        return self.id.split("/")[0] if self.role == "client" else ""

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """The identity that ``uri`` spells; InvalidInput for anything else."""
        scheme, _, rest = uri.partition("://")
        parts = rest.split("/", 2)
        if scheme != "spiffe" or len(parts) != 3:
            raise InvalidInput(f"{uri[:MAX_IDENTITY_CHARS]!r} is not spiffe://<trust-domain>/<role>/<id>")
        return cls(parts[0], cast(Role, parts[1]), parts[2])


def identity_dns_name(identity: Identity | str) -> str:
    """The DNS SAN that only the certificate of exactly this identity carries."""
    return f"{hashlib.sha256(str(identity).encode()).hexdigest()[:32]}.id.{MESH_DNS_NAME}"


def role_dns_name(role: Role) -> str:
    """The DNS SAN that every certificate of this role carries, and no other."""
    return f"{role}.role.{MESH_DNS_NAME}"


def peer_identity(context: PeerContext) -> Identity:
    """The caller's verified identity; Unauthenticated without exactly one SPIFFE URI in a client
    certificate.
    """
    names = context.auth_context().get(_SAN_PROPERTY, ())
    uris = [name.decode("utf-8", "replace") for name in names if name.startswith(b"spiffe://")]
    if len(uris) != 1:
        raise Unauthenticated("the call came without a client certificate of this mesh")
    try:
        return Identity.parse(uris[0])
    except InvalidInput as error:
        raise Unauthenticated("the client certificate carries a malformed identity") from error
