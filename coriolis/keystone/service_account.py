"""The service's own account at Keystone: sessions, calls in threads, Keystone's failures as errors of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

from coriolis.config import KeystoneConfig
from coriolis.errors import Conflict, Denied, InvalidInput, NotFound, Throttled, Unauthenticated, Unavailable
from coriolis.keystone.bounded_http import bounded_session

TIMEOUT_S = 10.0
"""Of one request to Keystone or Barbican."""
THREADS = 16
MAX_WAITING = 256
RETRY_AFTER_S = 5.0
MAX_PASSWORD_BYTES = 4096
MAX_SAID_CHARS = 300

T = TypeVar("T")


def printable(text: object) -> str:
    """What a service said, bounded and fit for a message of ours."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:MAX_SAID_CHARS]


@contextmanager
def failures_of(service: str) -> Iterator[None]:
    """Failures of keystoneauth become errors of ours; ``service`` is named in the message."""
    try:
        yield
    except exceptions.Unauthorized as refused:
        raise Unauthenticated(f"{service} refused the credentials: {printable(refused)}") from refused
    except exceptions.Forbidden as refused:
        raise Denied(f"{service} does not allow it: {printable(refused)}") from refused
    except exceptions.NotFound as absent:
        raise NotFound(f"{service} has no such thing: {printable(absent)}") from absent
    except exceptions.Conflict as conflict:
        raise Conflict(f"{service}: {printable(conflict)}") from conflict
    except exceptions.HttpError as failed:
        said = printable(failed)
        if failed.http_status == 429:
            raise Throttled(f"{service} is asked too often: {said}", retry_after_s=RETRY_AFTER_S) from failed
        if failed.http_status >= 500:
            raise Unavailable(f"{service} fails: {said}", retry_after_s=RETRY_AFTER_S) from failed
        raise InvalidInput(f"{service} refused the request: {said}") from failed
    except exceptions.EndpointNotFound as absent:
        raise Unavailable(f"the catalog names no {service}: {printable(absent)}") from absent
    except exceptions.ClientException as failed:
        raise Unavailable(f"{service} cannot be reached: {printable(failed)}", retry_after_s=RETRY_AFTER_S) from failed


class ServiceAccount:
    """One per process. Nothing is asked before the first call."""

    def __init__(self, config: KeystoneConfig) -> None:
        """Raises InvalidInput when the password cannot be read."""
        self.config = config
        self._password = _read_password(config.password_file)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="keystone")
        self._waiting = 0
        self.session = self.session_with(
            v3.Password(
                config.auth_url,
                username=config.username,
                password=self._password,
                user_domain_name=config.user_domain_name,
                project_name=config.project_name,
                project_domain_name=config.project_domain_name,
            )
        )

    def session_with(self, auth: Any) -> session.Session:
        """A session with another plugin, same connections' rules."""
        return session.Session(
            auth=auth,
            session=bounded_session(),
            verify=self.config.ca_file or True,
            timeout=TIMEOUT_S,
            user_agent="coriolis",
            redirect=False,
        )

    def trust_session(self, trust_id: str) -> session.Session:
        """Acts as the user that made the trust, with the roles that it names. Nothing is asked yet."""
        config = self.config
        return self.session_with(
            v3.Password(
                config.auth_url,
                username=config.username,
                password=self._password,
                user_domain_name=config.user_domain_name,
                trust_id=trust_id,
            )
        )

    def request(self, used: session.Session, method: str, path: str, **options: Any) -> Any:
        """A call of the identity API (blocking); its JSON object, {} for none. Raises errors of ours."""
        with failures_of("Keystone"):
            answer = used.request(f"{self.config.auth_url.rstrip('/')}{path}", method, **options)
        if not answer.content:
            return {}
        try:
            return answer.json()
        except ValueError as broken:
            raise Unavailable(
                f"Keystone answered {method} {path.split('/')[1]} with something that is no JSON"
            ) from broken

    async def run(self, function: Callable[[], T]) -> T:
        """``function`` in a thread. Throttled when too many wait already."""
        if self._waiting >= MAX_WAITING:
            raise Throttled("too many questions to Keystone at once", retry_after_s=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function)
        finally:
            self._waiting -= 1

    async def user_id(self) -> str:
        """Of this account: the trustee of every trust."""

        def ask() -> str:
            with failures_of("Keystone"):
                return str(self.session.get_user_id())

        try:
            return await self.run(ask)
        except (Unauthenticated, Denied) as refused:
            raise own_account_refused(refused.message) from refused

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def own_account_refused(said: str) -> Unavailable:
    """Keystone refuses our own account: the caller can do nothing about that."""
    return Unavailable(
        f"Keystone refuses the service's own account; its operator must look at [keystone]: {said}",
        retry_after_s=RETRY_AFTER_S,
    )


def _read_password(file: str) -> str:
    path = Path(file)
    try:
        if path.stat().st_mode & 0o077:
            raise InvalidInput(f"keystone.password_file {path} may be read by others; set its mode to 0600")
        with path.open("rb") as opened:
            raw = opened.read(MAX_PASSWORD_BYTES)
    except OSError as failed:
        raise InvalidInput(f"keystone.password_file {path} cannot be read: {failed.strerror}") from failed
    try:
        return raw.decode().rstrip("\n")
    except UnicodeDecodeError as broken:
        raise InvalidInput(f"keystone.password_file {path} is not text") from broken
