"""Secrets at rest: sealed with AES-256-GCM, kept per project, returned only to whoever names the right
project.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coriolis.clock import Clock, SystemClock
from coriolis.durable_file import replace_file
from coriolis.errors import Corrupt, InvalidInput, NotFound, QuotaExceeded
from coriolis.ids import is_id, new_id

KEY_BYTES = 32
NONCE_BYTES = 12
HEADER = b"CSB1"
"""Format 1: header, nonce, AES-256-GCM text with its tag."""

MAX_PAYLOAD_BYTES = 64 * 1024
MAX_NAME_CHARS = 255
MAX_SECRETS_PER_PROJECT = 1000
MAX_FILE_BYTES = 2 * MAX_PAYLOAD_BYTES

_SYSTEM_CLOCK = SystemClock()


class SecretBox:
    """Seals bytes so that they open only with the same key and the same associated data."""

    def __init__(self, key: bytes) -> None:
        """``key`` is 32 random bytes."""
        if len(key) != KEY_BYTES:
            raise InvalidInput(f"a secret box key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = AESGCM(key)
        self._derivation = hmac.digest(key, b"coriolis derived keys", "sha256")

    @classmethod
    def from_key_file(cls, path: Path, *, create: bool = False) -> SecretBox:
        """The box of a key file (32 raw bytes, mode 0600); ``create`` makes it once, whoever comes first."""
        if create and not path.exists():
            _create_exclusively(path, secrets.token_bytes(KEY_BYTES))
        try:
            mode = path.stat().st_mode
            key = path.read_bytes()
        except OSError as error:
            raise InvalidInput(f"secret key file {path} cannot be read: {error.strerror}") from error
        if mode & 0o077:
            raise InvalidInput(f"secret key file {path} may be read by others; set its mode to 0600")
        return cls(key)

    def derive(self, purpose: str) -> bytes:
        """32 bytes that only holders of the key can compute; the same for the same purpose, independent of others."""
        return hmac.digest(self._derivation, purpose.encode(), "sha256")

    def seal(self, plain: bytes, associated_data: bytes) -> bytes:
        """``associated_data`` is not stored; ``open`` needs the same."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return HEADER + nonce + self._cipher.encrypt(nonce, plain, HEADER + associated_data)

    def open(self, sealed: bytes, associated_data: bytes) -> bytes:
        """Corrupt if anything differs: key, associated data, or one bit of the text."""
        start = len(HEADER) + NONCE_BYTES
        if len(sealed) < start or sealed[: len(HEADER)] != HEADER:
            raise Corrupt("a sealed secret has an unknown format")
        try:
            return self._cipher.decrypt(sealed[len(HEADER) : start], sealed[start:], HEADER + associated_data)
        except InvalidTag as error:
            raise Corrupt("a sealed secret was changed, or belongs to another key or owner") from error


@dataclass(frozen=True, slots=True)
class SecretRecord:
    """What may be shown of a secret."""

    id: str
    name: str
    created_at: datetime


class SecretStore(Protocol):
    """Secrets of projects. A foreign secret and an absent one are the same NotFound."""

    async def put(self, project_id: str, name: str, payload: bytes) -> SecretRecord:
        """Keep at most 64 KiB under a new id."""
        ...

    async def get(self, project_id: str, secret_id: str) -> bytes:
        """The payload."""
        ...

    async def list(self, project_id: str) -> Sequence[SecretRecord]:
        """All of the project, oldest first."""
        ...

    async def delete(self, project_id: str, secret_id: str) -> None:
        """Remove it for good."""
        ...


class FileSecretStore:
    """A SecretStore in a directory: one sealed file (0600) per secret, names sealed too."""

    def __init__(self, directory: Path, box: SecretBox, *, clock: Clock = _SYSTEM_CLOCK) -> None:
        self._directory = directory
        self._box = box
        self._clock = clock
        self._writing = asyncio.Lock()

    async def put(self, project_id: str, name: str, payload: bytes) -> SecretRecord:
        """See SecretStore; QuotaExceeded above 1000 secrets of a project."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise InvalidInput(f"a secret holds at most {MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise InvalidInput(f"a secret's name has 1 to {MAX_NAME_CHARS} characters")
        record = SecretRecord(new_id(), name, self._clock.now())
        # Locked, so that two at once cannot both be the thousandth.
        async with self._writing:
            await asyncio.to_thread(self._write, project_id, record, payload)
        return record

    async def get(self, project_id: str, secret_id: str) -> bytes:
        """See SecretStore."""
        return (await asyncio.to_thread(self._read, project_id, secret_id))[1]

    async def list(self, project_id: str) -> Sequence[SecretRecord]:
        """See SecretStore."""
        return await asyncio.to_thread(self._list, project_id)

    async def delete(self, project_id: str, secret_id: str) -> None:
        """See SecretStore."""
        path = self._path(project_id, secret_id)
        try:
            await asyncio.to_thread(path.unlink)
        except FileNotFoundError as error:
            raise _absent(secret_id) from error

    def _folder(self, project_id: str) -> Path:
        # Hashed: a project id comes from outside and must not become a path.
        return self._directory / hashlib.sha256(project_id.encode()).hexdigest()

    def _path(self, project_id: str, secret_id: str) -> Path:
        if not is_id(secret_id):
            raise _absent(secret_id)
        return self._folder(project_id) / f"{secret_id}.sealed"

    def _write(self, project_id: str, record: SecretRecord, payload: bytes) -> None:
        folder = self._folder(project_id)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if sum(1 for _ in folder.glob("*.sealed")) >= MAX_SECRETS_PER_PROJECT:
            raise QuotaExceeded(f"a project keeps at most {MAX_SECRETS_PER_PROJECT} secrets")
        document = {
            "name": record.name,
            "created_at": record.created_at.isoformat(),
            "payload": base64.b64encode(payload).decode(),
        }
        sealed = self._box.seal(json.dumps(document).encode(), _owner(project_id, record.id))
        replace_file(folder / f"{record.id}.sealed", sealed, mode=0o600)

    def _read(self, project_id: str, secret_id: str) -> tuple[SecretRecord, bytes]:
        try:
            with self._path(project_id, secret_id).open("rb") as file:
                sealed = file.read(MAX_FILE_BYTES)
        except FileNotFoundError as error:
            raise _absent(secret_id) from error
        plain = self._box.open(sealed, _owner(project_id, secret_id))
        try:
            document = json.loads(plain)
            record = SecretRecord(secret_id, document["name"], datetime.fromisoformat(document["created_at"]))
            return record, base64.b64decode(document["payload"], validate=True)
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise Corrupt(f"secret {secret_id} has an unknown form") from error

    def _list(self, project_id: str) -> Sequence[SecretRecord]:
        records: list[SecretRecord] = []
        for path in self._folder(project_id).glob("*.sealed"):
            try:
                records.append(self._read(project_id, path.stem)[0])
            except NotFound:
                continue  # deleted meanwhile
        return sorted(records, key=lambda record: (record.created_at, record.id))


def _owner(project_id: str, secret_id: str) -> bytes:
    """A file moved to another project or id does not open."""
    return f"{secret_id}\x1f{project_id}".encode()


def _absent(secret_id: str) -> NotFound:
    return NotFound(f"there is no secret {secret_id[:64]!r} in this project")


def _create_exclusively(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{new_id()}")
    replace_file(temporary, content, mode=0o600)
    try:
        os.link(temporary, path)  # unlike a rename this fails if somebody else was first
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
