"""The users file of the embedded identity: projects, users, roles, scrypt hashes of passwords. JSON or TOML.

```toml
[[projects]]
id = "0123456789abcdef0123456789abcdef"
name = "admin"

[[users]]
id = "fedcba9876543210fedcba9876543210"
name = "admin"
password_hash = "scrypt$16384$8$1$<salt>$<hash>"
roles = { "0123456789abcdef0123456789abcdef" = ["admin"] }
```
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path

import msgspec

from coriolis.durable_file import replace_file
from coriolis.errors import Conflict, InvalidInput, NotFound
from gateway.policy import READERS

MAX_FILE_BYTES = 4 * 1024 * 1024
DOMAIN_ID = "default"
DOMAIN_NAME = "Default"
SCRYPT_COST, SCRYPT_BLOCK, SCRYPT_LANES = 1 << 14, 8, 1
SCRYPT_MAX_COST, SCRYPT_MAX_BLOCK, SCRYPT_MAX_LANES = 1 << 17, 16, 4
SCRYPT_MEMORY_BYTES = 512 * 1024 * 1024
SALT_BYTES, HASH_BYTES = 16, 32
MAX_PASSWORD_BYTES = 1024
PASSWORD_BYTES = 18

_ID = re.compile(r"[0-9a-f]{32}")


class Project(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``id`` is 32 hex digits, as in Keystone."""

    id: str
    name: str
    enabled: bool = True


class User(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``roles``: project id to names of roles."""

    id: str
    name: str
    password_hash: str
    roles: dict[str, list[str]] = {}
    enabled: bool = True


class Users(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. Names and ids are unique."""

    projects: list[Project] = []
    users: list[User] = []

    def user(self, *, id: str = "", name: str = "") -> User | None:
        return next((user for user in self.users if user.id == id or (name and user.name == name)), None)

    def project(self, *, id: str = "", name: str = "") -> Project | None:
        return next((one for one in self.projects if one.id == id or (name and one.name == name)), None)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client needs to log in."""

    username: str
    password: str
    project_name: str
    project_id: str
    user_domain_name: str = DOMAIN_NAME
    project_domain_name: str = DOMAIN_NAME

    def openrc(self, auth_url: str) -> str:
        """Text of a shell file to be sourced; ``auth_url`` is like ``http://127.0.0.1:7667/v3``."""
        values = {
            "OS_AUTH_URL": auth_url,
            "OS_USERNAME": self.username,
            "OS_PASSWORD": self.password,
            "OS_PROJECT_NAME": self.project_name,
            "OS_USER_DOMAIN_NAME": self.user_domain_name,
            "OS_PROJECT_DOMAIN_NAME": self.project_domain_name,
            "OS_IDENTITY_API_VERSION": "3",
        }
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def hash_password(password: str) -> str:
    """``scrypt$N$r$p$salt$hash``; takes about 50 ms. InvalidInput for an empty one or more than 1,024 bytes."""
    if not 1 <= len(password.encode()) <= MAX_PASSWORD_BYTES:
        raise InvalidInput(f"the password must have 1 to {MAX_PASSWORD_BYTES} bytes")
    salt = secrets.token_bytes(SALT_BYTES)
    digest = _scrypt(password, salt, SCRYPT_COST, SCRYPT_BLOCK, SCRYPT_LANES)
    numbers = f"{SCRYPT_COST}${SCRYPT_BLOCK}${SCRYPT_LANES}"
    return f"scrypt${numbers}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def check_password(password: str, password_hash: str) -> bool:
    """Constant-time comparison. InvalidInput when the hash itself is malformed."""
    cost, block, lanes, salt, digest = _parse_hash(password_hash)
    if len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_BYTES:
        return False
    return hmac.compare_digest(_scrypt(password, salt, cost, block, lanes), digest)


def _scrypt(password: str, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=cost,
        r=block,
        p=lanes,
        maxmem=SCRYPT_MEMORY_BYTES,
        dklen=HASH_BYTES,
    )


def _parse_hash(password_hash: str) -> tuple[int, int, int, bytes, bytes]:
    try:
        name, cost, block, lanes, salt, digest = password_hash.split("$")
        numbers = int(cost), int(block), int(lanes)
        raw_salt, raw_digest = base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)
    except (ValueError, binascii.Error) as broken:
        raise InvalidInput("a password_hash is not of the form scrypt$N$r$p$salt$hash") from broken
    most = (SCRYPT_MAX_COST, SCRYPT_MAX_BLOCK, SCRYPT_MAX_LANES)
    if (
        name != "scrypt"
        or len(raw_digest) != HASH_BYTES
        or numbers[0].bit_count() != 1
        or any(not 1 <= number <= bound for number, bound in zip(numbers, most, strict=True))
    ):
        raise InvalidInput("a password_hash has parameters outside of what is allowed")
    return *numbers, raw_salt, raw_digest


def load_users(path: Path) -> Users:
    """Raises InvalidInput naming the file and what is wrong in it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as failed:
        raise InvalidInput(f"users file {path} cannot be read: {failed.strerror}") from failed
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInput(f"users file {path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
        users = decode(content, type=Users)
    except (msgspec.DecodeError, ValueError) as wrong:
        raise InvalidInput(f"users file {path}: {wrong}") from wrong
    _check(path, users)
    return users


def _check(path: Path, users: Users) -> None:
    project_ids = {project.id for project in users.projects}
    for kind, found in (("project", users.projects), ("user", users.users)):
        for field in ("id", "name"):
            values = [getattr(one, field) for one in found]
            if "" in values or len(set(values)) != len(values):
                raise InvalidInput(f"users file {path}: each {kind} needs a {field} of its own")
        wrong = next((one.id for one in found if _ID.fullmatch(one.id) is None), None)
        if wrong is not None:
            raise InvalidInput(f"users file {path}: {kind} id {wrong[:40]!r} is not 32 hex digits")
    for user in users.users:
        unknown = sorted(set(user.roles) - project_ids)
        if unknown:
            where = f"user {user.name!r} has roles in unknown project {unknown[0][:40]!r}"
            raise InvalidInput(f"users file {path}: {where}")
        try:
            _parse_hash(user.password_hash)
        except InvalidInput as broken:
            raise InvalidInput(f"users file {path}: user {user.name!r}: {broken.message}") from broken


def save_users(path: Path, users: Users) -> None:
    """Replace the file in one rename, readable for its owner only. JSON or, by its suffix, TOML."""
    _check(path, users)
    is_toml = path.suffix == ".toml"
    content = msgspec.toml.encode(users) if is_toml else msgspec.json.format(msgspec.json.encode(users)) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)


def write_default_users(
    path: Path, *, password: str | None = None, project_name: str = "admin", username: str = "admin"
) -> Credentials:
    """Make a users file with one administrator in one project, and return how to log in.

    Conflict if the file exists: a password cannot be read back from it.
    """
    if path.exists():
        raise Conflict(f"users file {path} exists; its passwords cannot be read back")
    return add_user(path, username, project_name, ["admin"], password=password)


def add_user(
    path: Path, username: str, project_name: str, roles: list[str], *, password: str | None = None
) -> Credentials:
    """Add a user (and the project, if it is new), or give an existing user roles in one more project.

    A password is made up unless one is given; that of an existing user changes only if one is given.
    """
    unknown = sorted(set(roles) - READERS)
    if unknown or not roles:
        raise InvalidInput(f"roles are {', '.join(sorted(READERS))}, not {', '.join(unknown) or 'none'}")
    users = load_users(path) if path.exists() else Users()
    project = users.project(name=project_name) or Project(secrets.token_hex(16), project_name)
    user = users.user(name=username)
    shown = password or ("" if user else secrets.token_urlsafe(PASSWORD_BYTES))
    if user is None:
        user = User(secrets.token_hex(16), username, hash_password(shown))
    elif password:
        user = msgspec.structs.replace(user, password_hash=hash_password(password))
    user = msgspec.structs.replace(user, roles={**user.roles, project.id: roles})
    projects = [one for one in users.projects if one.id != project.id] + [project]
    save_users(path, Users(projects, [one for one in users.users if one.id != user.id] + [user]))
    return Credentials(username, shown, project.name, project.id)


def remove_user(path: Path, username: str) -> None:
    """Tokens of the user stop working at once. Raises NotFound."""
    users = load_users(path)
    if users.user(name=username) is None:
        raise NotFound(f"user {username[:60]!r} is not in {path}")
    save_users(path, Users(users.projects, [one for one in users.users if one.name != username]))
