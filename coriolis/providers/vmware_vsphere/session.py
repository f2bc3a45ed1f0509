"""One login at a vCenter or ESXi host; blocking calls run on threads, and its faults become our errors."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from coriolis.errors import (
    Conflict,
    CoriolisError,
    Denied,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    TimedOut,
    Unavailable,
    Unsupported,
)
from coriolis.providers.block.calls import MAX_THREADS, Calls
from coriolis.providers.vmware_vsphere.certificate import Trust, checked_trust
from coriolis.providers.vmware_vsphere.properties import some

T = TypeVar("T")

CALL_TIMEOUT_S = 120.0
SOCKET_TIMEOUT_S = 60
MAX_FAULT_CHARS = 400

_CLASSES: tuple[tuple[type[Exception], type[CoriolisError]], ...] = (
    (vim.fault.InvalidLogin, Denied),
    (vim.fault.NoPermission, Denied),
    (vim.fault.RestrictedVersion, Unsupported),
    (vim.fault.NotFound, NotFound),
    (vmodl.fault.ManagedObjectNotFound, NotFound),
    (vim.fault.DuplicateName, Conflict),
    (vim.fault.ConcurrentAccess, Conflict),
    (vim.fault.TaskInProgress, Conflict),
    (vim.fault.InvalidPowerState, Conflict),
    (vim.fault.InvalidState, Conflict),
    (vim.fault.MethodDisabled, Conflict),
    (vim.fault.NoDiskSpace, QuotaExceeded),
    (vim.fault.InsufficientResourcesFault, QuotaExceeded),
    (vim.fault.Timedout, TimedOut),
    (vmodl.fault.NotSupported, Unsupported),
    (vmodl.fault.MethodNotFound, Unsupported),
    (vmodl.fault.InvalidArgument, InvalidInput),
    (vmodl.fault.HostCommunication, Unavailable),
    (vmodl.fault.HostNotConnected, Unavailable),
)


def from_fault(fault: Exception, where: str) -> CoriolisError:
    """The error to raise ``from`` a fault of the API or a failure of its connection."""
    text = str(getattr(fault, "msg", "") or fault)[:MAX_FAULT_CHARS]
    for kind, ours in _CLASSES:
        if isinstance(fault, kind):
            return ours(f"vSphere at {where}: {text}")
    return Unavailable(f"vSphere at {where}: {text or type(fault).__name__}")


class Session:
    """A login that is renewed when the server has forgotten it. ``run`` may be called from several tasks."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self._info = {"port": 443, **info}
        self.host, self.port = str(self._info["host"]), int(self._info["port"])
        self.where = f"{self.host}:{self.port}"
        self._calls = Calls(MAX_THREADS, "vsphere")
        self._lock = threading.Lock()
        self.trust = Trust()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        """Both of every connection to the endpoint; replaced by ``open``."""
        self._instance: Any = None

    async def open(self) -> None:
        """Raises Denied, Unavailable, TimedOut, InvalidInput, each saying what to do."""
        await self._bounded(self._log_in)

    def _log_in(self) -> None:
        info = self._info
        self.trust = checked_trust(info)
        self.context = self.trust.context()
        try:
            self._instance = SmartConnect(
                host=info["host"],
                port=info["port"],
                user=info["username"],
                pwd=info["password"],
                sslContext=self.context,
                connectionPoolTimeout=SOCKET_TIMEOUT_S,
                httpConnectionTimeout=SOCKET_TIMEOUT_S,
            )
        except vim.fault.InvalidLogin as error:
            raise Denied(
                f"vSphere at {self.where} refuses the login of {info['username']}: check user name and password"
            ) from error

    async def run(self, call: Callable[[Any], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """``call(service instance content)`` on a thread; once more after a new login when the session has expired."""
        return await self._bounded(lambda: self._with_login(call), timeout_s)

    def _with_login(self, call: Callable[[Any], T]) -> T:
        used = self._instance
        try:
            return call(used.RetrieveContent())
        except vim.fault.NotAuthenticated:
            with self._lock:
                if self._instance is used:
                    self._log_in()
            return call(self._instance.RetrieveContent())

    def cookie(self, stale: str = "") -> str:
        """Of the login, for HTTP beside the API; of another login when the current one's is ``stale`` and the endpoint
        has forgotten it: a refusal has other reasons too, and each login takes one of its sessions. Blocking.

        Raises Denied, Unavailable.
        """
        try:
            with self._lock:
                if stale and stale == self._current_cookie() and not self._is_logged_in():
                    self._log_in()
                return self._current_cookie()
        except (vmodl.MethodFault, http.client.HTTPException, OSError) as error:
            raise from_fault(error, self.where) from error

    def _is_logged_in(self) -> bool:
        content = self._instance.RetrieveContent()
        try:
            values = next(some(content, [content.sessionManager], ["currentSession"]), (None, {}))[1]
        except vim.fault.NotAuthenticated:
            return False
        return values.get("currentSession") is not None

    def _current_cookie(self) -> str:
        return str(self._instance._stub.cookie or "").split(";")[0]

    async def _bounded(self, call: Callable[[], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._calls.run(call)
        except TimeoutError as error:
            raise TimedOut(f"vSphere at {self.where} did not answer within {timeout_s:.0f} s") from error
        except (vmodl.MethodFault, http.client.HTTPException, OSError) as error:
            raise from_fault(error, self.where) from error

    async def close(self) -> None:
        def release() -> None:
            if self._instance is not None:
                with contextlib.suppress(vmodl.MethodFault, http.client.HTTPException, OSError):
                    Disconnect(self._instance)

        await self._calls.close(release)
