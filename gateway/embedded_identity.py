"""The built-in identity: users of a file, passwords, tokens. Stands behind the seam of ``identity``."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from coriolis.clock import Clock, SystemClock
from coriolis.errors import InvalidInput, Throttled, Unauthenticated
from gateway.identity import Caller
from gateway.tokens import Claims, TokenSigner, new_audit_id
from gateway.users_file import Project, User, Users, check_password, hash_password, load_users

log = structlog.get_logger(__name__)

MAX_FAILURES = 10
FAILURE_WINDOW_S = 60.0
MAX_WATCHED_USERS = 10_000
MAX_PARALLEL_HASHES = 2
"""scrypt takes 16 MiB and a core each; more would let logins starve the API."""
MAX_WAITING_LOGINS = 64
REFUSED = "The request you have made requires authentication."


@dataclass(frozen=True, slots=True)
class Login:
    """A new or validated token and all that answers say about it. ``project`` is None when unscoped."""

    token: str
    claims: Claims
    user: User
    project: Project | None

    @property
    def roles(self) -> list[str]:
        return self.user.roles.get(self.project.id, []) if self.project else []


@dataclass(frozen=True, slots=True)
class Scope:
    """The wanted project by id or by name; neither means an unscoped token."""

    project_id: str = ""
    project_name: str = ""

    @property
    def wanted(self) -> bool:
        return bool(self.project_id or self.project_name)


@dataclass(slots=True)
class _Failures:
    count: int = 0
    since: float = 0.0


@dataclass
class _Attempts:
    """Failed logins per user name, a bounded number of names, oldest forgotten first."""

    clock: Clock
    users: OrderedDict[str, _Failures] = field(default_factory=OrderedDict)

    def check(self, name: str) -> None:
        """Raises Throttled for a name with 10 failures in the last minute, whether such a user exists or not."""
        failures = self.users.get(name)
        if failures is None:
            return
        left_s = failures.since + FAILURE_WINDOW_S - self.clock.monotonic()
        if left_s <= 0:
            del self.users[name]
        elif failures.count >= MAX_FAILURES:
            raise Throttled("too many failed logins of this user", retry_after_s=left_s)

    def failed(self, name: str) -> None:
        failures = self.users.setdefault(name, _Failures(since=self.clock.monotonic()))
        failures.count += 1
        self.users.move_to_end(name)
        while len(self.users) > MAX_WATCHED_USERS:
            self.users.popitem(last=False)

    def succeeded(self, name: str) -> None:
        self.users.pop(name, None)


class EmbeddedIdentity:
    """Reads the users file again when it changes; a broken new version is refused and the last good one stays."""

    def __init__(self, users_file: Path, signer: TokenSigner, ttl_s: int, *, clock: Clock | None = None) -> None:
        """Raises InvalidInput for a broken file."""
        self._path = users_file
        self._signer = signer
        self._ttl_s = ttl_s
        self._clock = clock or SystemClock()
        self._stamp = _stamp(users_file)
        self._users = load_users(users_file)
        self._attempts = _Attempts(self._clock)
        self._hashing = asyncio.Semaphore(MAX_PARALLEL_HASHES)
        self._waiting = 0
        self._nobody = hash_password("nobody")

    async def validate(self, token: str) -> Caller:
        """See TokenValidator."""
        login = self.inspect(token)
        if login.project is None:
            raise Unauthenticated("the token is not scoped to a project")
        return Caller(
            user_id=login.user.id,
            user_name=login.user.name,
            project_id=login.project.id,
            roles=frozenset(login.roles),
            expires_at=datetime.fromtimestamp(login.claims.expires_at, UTC),
        )

    def inspect(self, token: str) -> Login:
        """All about a valid token. Raises Unauthenticated, also when user, project or password are no more."""
        claims = self._signer.open(token, self._now())
        users = self._current()
        user = users.user(id=claims.user_id)
        if user is None or not user.enabled or not hmac.compare_digest(_mark(user), claims.password_mark):
            raise Unauthenticated("the token's user is gone or has another password")
        return Login(token, claims, user, self._project(user, Scope(project_id=claims.project_id)))

    async def log_in(self, password: str, scope: Scope, *, user_id: str = "", user_name: str = "") -> Login:
        """Raises Unauthenticated, the same for each reason; Throttled after 10 failures in a minute."""
        users = self._current()
        user = users.user(id=user_id) if user_id else users.user(name=user_name)
        name = user.name if user else user_id or user_name
        self._attempts.check(name)
        right = await self._verify(password, user)
        if user is None or not right or not user.enabled:
            self._attempts.failed(name)
            raise Unauthenticated(REFUSED)
        self._attempts.succeeded(name)
        project = self._project(user, scope)
        return self._issue(user, project, ("password",), self._now() + self._ttl_s, ())

    def rescope(self, token: str, scope: Scope) -> Login:
        """A token for another project of the same user; it ends when the first one ends."""
        login = self.inspect(token)
        project = self._project(login.user, scope)
        methods = tuple(dict.fromkeys((*login.claims.methods, "token")))
        first = login.claims.audit_ids[-1]
        return self._issue(login.user, project, methods, login.claims.expires_at, (first,))

    def revoke(self, token: str) -> None:
        """Raises Unauthenticated for a token that is none (any more)."""
        self._signer.revoke(self.inspect(token).claims, self._now())

    def projects_of(self, user: User) -> list[Project]:
        """The enabled projects in which the user has a role."""
        return [one for one in self._current().projects if one.enabled and user.roles.get(one.id)]

    def _project(self, user: User, scope: Scope) -> Project | None:
        if not scope.wanted:
            return None
        project = self._current().project(id=scope.project_id, name=scope.project_name)
        if project is None or not project.enabled or not user.roles.get(project.id):
            raise Unauthenticated(REFUSED)
        return project

    def _issue(
        self, user: User, project: Project | None, methods: tuple[str, ...], end: float, parents: tuple[str, ...]
    ) -> Login:
        claims = Claims(
            user_id=user.id,
            project_id=project.id if project else "",
            issued_at=int(self._now()),
            expires_at=int(end),
            audit_ids=(new_audit_id(), *parents),
            methods=methods,
            password_mark=_mark(user),
        )
        return Login(self._signer.sign(claims), claims, user, project)

    async def _verify(self, password: str, user: User | None) -> bool:
        """An unknown user costs the same time as a known one."""
        if self._waiting >= MAX_WAITING_LOGINS:
            raise Throttled("too many logins at the same time", retry_after_s=1)
        self._waiting += 1
        try:
            async with self._hashing:
                return await asyncio.to_thread(check_password, password, user.password_hash if user else self._nobody)
        finally:
            self._waiting -= 1

    def _current(self) -> Users:
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._users = load_users(self._path)
            except InvalidInput as broken:
                log.error("users file not taken over, the last good one stays", reason=broken.message)
        return self._users

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _mark(user: User) -> str:
    """Changes with the password and says nothing about it."""
    return hashlib.sha256(user.password_hash.encode()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
