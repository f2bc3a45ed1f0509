"""What a gateway is told at its start."""

from __future__ import annotations

from typing import Literal

import msgspec

from coriolis.config import KeystoneConfig
from coriolis.errors import InvalidInput

MAX_TOKEN_TTL_S = 24 * 3600


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``coordinators``: host:port of some or all of them. ``tls_dir`` holds ca.pem, cert.pem, key.pem of a gateway.

    ``users_file`` and ``token_key_file`` belong to the embedded identity; gateways that share both accept each
    other's tokens; ``auth = "keystone"`` needs the table ``keystone`` instead.
    ``public_url`` is what clients are told to dial (default: http and the address of ``listen``).
    """

    listen: str = "127.0.0.1:7667"
    coordinators: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:7668"])
    tls_dir: str = "tls"
    users_file: str = "users.json"
    token_key_file: str = "token.key"
    public_url: str = ""
    token_ttl_s: int = 3600
    auth: Literal["embedded", "keystone"] = "embedded"
    keystone: KeystoneConfig | None = None

    def __post_init__(self) -> None:
        self.address()
        if self.auth == "keystone" and self.keystone is None:
            raise InvalidInput('auth = "keystone" needs the table [keystone]')
        if not 60 <= self.token_ttl_s <= MAX_TOKEN_TTL_S:
            raise InvalidInput(f"token_ttl_s is {self.token_ttl_s}; 60 to {MAX_TOKEN_TTL_S} are possible")

    def address(self) -> tuple[str, int]:
        """Host and port of ``listen``. Raises InvalidInput."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise InvalidInput(f"listen is {self.listen!r}; it must be host:port")
        return host.strip("[]"), int(port)

    def base_url(self) -> str:
        """The URL before ``/v1`` and ``/v3``, without a slash at its end."""
        return (self.public_url or f"http://{self.listen}").rstrip("/")
