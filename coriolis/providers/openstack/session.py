"""One login at an OpenStack: openstacksdk on threads, its failures as errors of ours, bounded answers and repeats."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import openstack.connection
import structlog
import urllib3
from keystoneauth1 import exceptions
from keystoneauth1 import session as keystone_session
from keystoneauth1.identity import v3
from openstack.config import cloud_region

from coriolis.errors import (
    CoriolisError,
    Denied,
    InvalidInput,
    NotFound,
    Throttled,
    TimedOut,
    Unavailable,
)
from coriolis.keystone.bounded_http import bounded_session
from coriolis.keystone.given_token import given_session
from coriolis.providers.block.calls import Calls
from coriolis.providers.openstack.access import Access
from coriolis.providers.openstack.cloud_errors import FAILURES, from_failure, printable

T = TypeVar("T")
Cloud = openstack.connection.Connection

log = structlog.get_logger(__name__)

THREADS = 8
"""Of one connection: a pass over several disks asks for several volumes at once."""
CALL_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 60.0
REPEATS = 4
"""A read that met a busy or restarting service is asked this often in all."""
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 30.0
POLL_S = 1.0
MAX_PROJECTS_SHOWN = 10
SERVICES = {"compute": "Nova", "block-storage": "Cinder", "image": "Glance", "network": "Neutron"}
"""Without one of them there is no migration."""


class Session:
    """A login that renews itself. ``read`` and ``change`` may be called from several tasks.

    ``where``: for messages. ``project_id``, ``user_id`` ("" with a job's token) are known once it is open.
    """

    def __init__(self, access: Access, renew: Callable[[], Mapping[str, Any]] | None = None) -> None:
        self._access, self._renew = access, renew
        self.where = access.where
        self.project_id, self.user_id = "", ""
        self._calls = Calls(THREADS, "openstack")
        self._ca: Any = None
        self._verify: bool | str = True
        self._keystone: keystone_session.Session | None = None
        self._cloud: Cloud | None = None

    async def open(self) -> None:
        """Log in and look at the catalog. Raises Denied, NotFound, InvalidInput, Unavailable, TimedOut,
        CredentialsLost, each saying what to do."""
        await self._bounded(self._log_in, CALL_TIMEOUT_S)

    # -- calls ---------------------------------------------------------------------------------------------------

    async def read(self, call: Callable[[Cloud], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """``call(connection)`` on a thread. It must change nothing: while the cloud is busy, it is repeated."""
        wait_s = FIRST_WAIT_S
        for left in range(REPEATS - 1, -1, -1):
            try:
                return await self._bounded(lambda: call(self.cloud), timeout_s)
            except (Throttled, Unavailable, TimedOut) as busy:
                # a wait of our own that ran out has no retry_after_s, a gateway's 504 has: only that one was short
                if not left or (isinstance(busy, TimedOut) and busy.retry_after_s is None):
                    raise
                log.info("openstack is asked again", where=self.where, error=busy.message, repeats_left=left)
                await asyncio.sleep(min(busy.retry_after_s or wait_s, MAX_WAIT_S))
                wait_s *= 2
        raise AssertionError("unreachable")

    async def change(self, call: Callable[[Cloud], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """``call(connection)`` on a thread, once; again only after a 429, which changed nothing.

        After Unavailable or TimedOut it may have taken effect: look, by name, before repeating it.
        """
        for left in range(REPEATS - 1, -1, -1):
            try:
                return await self._bounded(lambda: call(self.cloud), timeout_s)
            except Throttled as busy:
                if not left:
                    raise
                await asyncio.sleep(min(busy.retry_after_s or FIRST_WAIT_S, MAX_WAIT_S))
        raise AssertionError("unreachable")

    async def until(self, look: Callable[[Cloud], T | None], timeout_s: float, what: str) -> T:
        """Read every second until ``look`` returns something. Raises TimedOut with ``what`` that did not happen."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = await self.read(look)
                    if found is not None:
                        return found
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise TimedOut(f"OpenStack at {self.where}: {what} did not happen within {timeout_s:.0f} s") from error

    @property
    def cloud(self) -> Cloud:
        if self._cloud is None:
            raise Unavailable(f"the session with {self.where} is not open")
        return self._cloud

    # -- for HTTP beside the SDK, such as ranges of images -------------------------------------------------------

    def endpoint(self, service: str) -> str:
        """Base URL of a service type, e.g. ``image``, without a version. Blocking; raises what calls raise."""
        return self._translated(lambda: str(self._endpoint(service)).rstrip("/"))

    def headers(self, *, anew: bool = False) -> dict[str, str]:
        """With a token that has time left; ``anew``: the last one was refused. Blocking; raises what calls raise."""

        def ask() -> dict[str, str]:
            opened = self._opened()
            if anew:
                opened.invalidate()
            return dict(opened.get_auth_headers() or {})

        return self._translated(ask)

    def tls_context(self) -> ssl.SSLContext:
        """As the login says: checked, by an authority of its own, or not at all."""
        context = ssl.create_default_context(cadata=self._access.ca or None)
        if self._access.allow_untrusted:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    # -- inside --------------------------------------------------------------------------------------------------

    def _translated(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except FAILURES as failure:
            raise from_failure(failure, self.where, token=self._access.kind == "token") from failure

    async def _bounded(self, call: Callable[[], T], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._calls.run(self._translated, call)
        except TimeoutError as error:
            raise TimedOut(f"OpenStack at {self.where} did not answer within {timeout_s:.0f} s") from error

    def _opened(self) -> keystone_session.Session:
        if self._keystone is None:
            raise Unavailable(f"the session with {self.where} is not open")
        return self._keystone

    def _log_in(self) -> None:
        self._keystone = self._new_session()
        try:
            if not self._keystone.get_token():
                raise Denied(f"Keystone at {self.where} gave no token to {self._access.who}")
        except exceptions.Unauthorized as refused:
            if self._access.kind == "token":
                raise
            raise self._why_refused(refused) from refused
        except (exceptions.NotFound, exceptions.InvalidResponse) as strange:
            raise InvalidInput(
                f"auth_url: there is no Keystone v3 at {self._access.auth_url}: {printable(strange)}"
            ) from strange
        self.project_id = str(self._keystone.get_project_id() or "")
        if not self.project_id:
            raise InvalidInput(f"Keystone at {self.where} gave {self._access.who} a token without a project")
        self.user_id = str(self._keystone.get_user_id() or "")
        self._check_catalog()
        region = cloud_region.from_session(
            self._keystone,
            name=self.where,
            region_name=self._access.region or None,
            app_name="coriolis",
            interface=self._access.interface,
        )
        self._cloud = Cloud(config=region)

    def _new_session(self) -> keystone_session.Session:
        access = self._access
        self._verify = not access.allow_untrusted
        if access.allow_untrusted:
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)  # it was asked for
        elif access.ca:
            self._ca = tempfile.NamedTemporaryFile("w", prefix="coriolis-ca-", suffix=".pem")  # noqa: SIM115
            self._ca.write(access.ca)
            self._ca.flush()
            self._verify = str(self._ca.name)
        if access.kind == "token":
            return given_session(access.login, self._renew, verify=self._verify, timeout=REQUEST_TIMEOUT_S)
        plugin = v3.Password if access.kind == "password" else v3.ApplicationCredential
        return self._plain_session(plugin(access.auth_url, **access.login))

    def _plain_session(self, auth: Any) -> keystone_session.Session:
        return keystone_session.Session(
            auth=auth, session=bounded_session(), verify=self._verify, timeout=REQUEST_TIMEOUT_S, user_agent="coriolis"
        )

    def _why_refused(self, refused: Exception) -> CoriolisError:
        """Keystone tells a wrong password from a wrong project only to who asks for no project."""
        access, said = self._access, printable(refused, 120)
        if access.kind == "application_credential":
            return Denied(f"Keystone at {self.where} refuses {access.who}: check its id and secret ({said})")
        project = access.login.get("project_name") or access.login.get("project_id")
        user = {key: value for key, value in access.login.items() if not key.startswith("project_")}
        unscoped = self._plain_session(v3.Password(access.auth_url, **user, unscoped=True))
        try:
            answer = unscoped.get(f"{access.auth_url}/auth/projects")
            known = sorted(printable(one["name"], 64) for one in answer.json()["projects"])
        except exceptions.Unauthorized:
            return Denied(
                f"Keystone at {self.where} refuses the login of {access.who}: check user name, password and"
                " user_domain_name"
            )
        except (*FAILURES, ValueError, KeyError, TypeError):
            return Denied(f"Keystone at {self.where} refuses {access.who} in project {project} ({said})")
        some = ", ".join(known[:MAX_PROJECTS_SHOWN]) or "none"
        return NotFound(
            f"Keystone at {self.where}: {access.who} has no project {project}; check project_name and"
            f" project_domain_name; its projects: {some}"
        )

    def _endpoint(self, service: str) -> str | None:
        access = self._access
        found = self._opened().get_endpoint(
            service_type=service, interface=access.interface, region_name=access.region or None, skip_discovery=True
        )
        return str(found) if found else None

    def _check_catalog(self) -> None:
        catalog = self._opened().auth.get_access(self._opened()).service_catalog.catalog  # type: ignore[union-attr]
        regions = sorted(
            {str(point.get("region_id") or point.get("region")) for one in catalog for point in one["endpoints"]}
        )
        shown = printable(", ".join(regions), 200)
        region = self._access.region
        if region and region not in regions:
            raise InvalidInput(f"region_name: {self.where} has no region {region}; regions: {shown or 'none'}")
        missing = [f"{name} ({service})" for service, name in SERVICES.items() if self._endpoint(service) is None]
        if missing:
            raise NotFound(
                f"the catalog at {self.where} offers no {', '.join(missing)} on the {self._access.interface}"
                f" interface{' in region ' + region if region else ''}; regions: {shown or 'none'}"
            )
        if not region and len(regions) > 1:
            raise InvalidInput(f"region_name is missing: {self.where} has several regions: {shown}")

    async def close(self) -> None:
        def release() -> None:
            if self._cloud is not None:
                self._cloud.close()
            if self._ca is not None:
                self._ca.close()

        await self._calls.close(release)
