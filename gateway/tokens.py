"""Signed tokens: they survive a restart of the gateway and are good at every gateway with the same key file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from pathlib import Path

import msgspec

from coriolis.errors import InvalidInput, Throttled, Unauthenticated

KEY_BYTES = 32
MAX_TOKEN_CHARS = 2048
MAX_REVOKED = 10_000
VERSION = "c1"


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a token says. Times in seconds since 1970, UTC.

    ``audit_ids`` holds the token's own id and, after rescoping, that of the first token of the chain.
    ``password_mark`` changes with the user's password. ``project_id`` is empty in an unscoped token.
    """

    user_id: str
    project_id: str
    issued_at: int
    expires_at: int
    audit_ids: tuple[str, ...]
    methods: tuple[str, ...]
    password_mark: str


class TokenSigner:
    """Signs and opens tokens; keeps in memory which were revoked before their end."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self._key = key
        self._revoked: dict[str, int] = {}

    @classmethod
    def from_key_file(cls, path: Path) -> TokenSigner:
        """The key in ``path`` (32 bytes), made with mode 0600 when there is none. Raises InvalidInput."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        except OSError as failed:
            raise InvalidInput(f"token key file {path} cannot be made: {failed.strerror}") from failed
        else:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
        try:
            with path.open("rb") as file:
                key = file.read(KEY_BYTES + 1)
        except OSError as failed:
            raise InvalidInput(f"token key file {path} cannot be read: {failed.strerror}") from failed
        if len(key) != KEY_BYTES:
            raise InvalidInput(f"token key file {path} does not hold {KEY_BYTES} bytes")
        return cls(key)

    def sign(self, claims: Claims) -> str:
        """The token."""
        body = f"{VERSION}.{_encode(msgspec.json.encode(claims))}"
        return f"{body}.{_encode(self._mac(body))}"

    def open(self, token: str, now: float) -> Claims:
        """The claims of a token that is ours, not expired and not revoked. Raises Unauthenticated."""
        body, _, signature = token.rpartition(".")
        version, _, payload = body.partition(".")
        if len(token) > MAX_TOKEN_CHARS or version != VERSION or not token.isascii():
            raise Unauthenticated("this is no token of this gateway")
        if not hmac.compare_digest(_encode(self._mac(body)), signature):
            raise Unauthenticated("the token's signature is wrong")
        try:
            claims = msgspec.json.decode(_decode(payload), type=Claims)
        except (msgspec.DecodeError, binascii.Error, ValueError) as older:
            raise Unauthenticated("the token was made by another version") from older
        if now >= claims.expires_at:
            raise Unauthenticated("the token has expired")
        if any(audit_id in self._revoked for audit_id in claims.audit_ids):
            raise Unauthenticated("the token was revoked")
        return claims

    def revoke(self, claims: Claims, now: float) -> None:
        """Refuse this token, and those made from it, from now on. Throttled when 10,000 are remembered already."""
        self._revoked = {audit_id: end for audit_id, end in self._revoked.items() if end > now}
        if len(self._revoked) >= MAX_REVOKED:
            raise Throttled("too many tokens were revoked lately", retry_after_s=60)
        self._revoked[claims.audit_ids[0]] = claims.expires_at

    def _mac(self, body: str) -> bytes:
        return hmac.digest(self._key, body.encode(), hashlib.sha256)


def new_audit_id() -> str:
    return secrets.token_urlsafe(16)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
