"""One libvirt connection whose blocking calls run on one thread, and its errors as ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

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
from coriolis.providers.block.calls import Calls

T = TypeVar("T")

CALL_TIMEOUT_S = 120.0
"""Longest wait for one libvirt call; libvirt itself gives up on a busy domain after 30 s."""

_CLASSES: dict[int, type[CoriolisError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: NotFound,
    libvirt.VIR_ERR_NO_NETWORK: NotFound,
    libvirt.VIR_ERR_NO_STORAGE_POOL: NotFound,
    libvirt.VIR_ERR_NO_STORAGE_VOL: NotFound,
    libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT: NotFound,
    libvirt.VIR_ERR_NO_DOMAIN_BACKUP: NotFound,
    libvirt.VIR_ERR_AUTH_FAILED: Denied,
    libvirt.VIR_ERR_AUTH_CANCELLED: Denied,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: Denied,
    libvirt.VIR_ERR_ACCESS_DENIED: Denied,
    libvirt.VIR_ERR_OPERATION_DENIED: Denied,
    libvirt.VIR_ERR_OPERATION_INVALID: Conflict,
    libvirt.VIR_ERR_DOM_EXIST: Conflict,
    libvirt.VIR_ERR_STORAGE_VOL_EXIST: Conflict,
    libvirt.VIR_ERR_RESOURCE_BUSY: Conflict,
    libvirt.VIR_ERR_NO_SUPPORT: Unsupported,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_XML_ERROR: InvalidInput,
    libvirt.VIR_ERR_XML_DETAIL: InvalidInput,
    libvirt.VIR_ERR_XML_INVALID_SCHEMA: InvalidInput,
    libvirt.VIR_ERR_INVALID_ARG: InvalidInput,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: TimedOut,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: TimedOut,
    libvirt.VIR_ERR_NO_CONNECT: Unavailable,
    libvirt.VIR_ERR_INVALID_CONN: Unavailable,
    libvirt.VIR_ERR_RPC: Unavailable,
    libvirt.VIR_ERR_SYSTEM_ERROR: Unavailable,
}

# Errors are raised as exceptions; the default handler would print each of them to stderr as well.
libvirt.registerErrorHandler(lambda _context, _error: None, None)


def from_libvirt(error: libvirt.libvirtError, endpoint: str) -> CoriolisError:
    """The error to raise ``from`` a libvirt error."""
    code = error.get_error_code()
    text = str(error.get_error_message() or error)
    lowered = text.lower()
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and "permission denied" in lowered:
        return Denied(f"libvirt at {endpoint}: {text}; add the agent's user to the libvirt group")
    if "no space left" in lowered:
        return QuotaExceeded(f"libvirt at {endpoint}: {text}; free space on its storage")
    return _CLASSES.get(code or 0, CoriolisError)(f"libvirt at {endpoint}: {text}")


class Session:
    """An open connection. ``run`` is the only way in, so libvirt objects never leave their thread in use."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._calls = Calls(1, "libvirt")
        self._connection: Any = None

    async def open(self) -> None:
        """Raises Unavailable or Denied naming the endpoint."""

        def connect() -> None:
            self._connection = libvirt.open(self.uri)

        await self._bounded(connect)

    async def run(self, call: Callable[[Any], T]) -> T:
        """``call(connection)`` on the connection's thread."""
        return await self._bounded(lambda: call(self._connection))

    async def _bounded(self, call: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await self._calls.run(call)
        except TimeoutError as error:
            raise TimedOut(f"libvirt at {self.uri} did not answer within {CALL_TIMEOUT_S:g} s") from error
        except libvirt.libvirtError as error:
            raise from_libvirt(error, self.uri) from error

    async def close(self) -> None:
        def release() -> None:
            if self._connection is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    self._connection.close()

        await self._calls.close(release)


def find_domain(connection: Any, instance: str) -> Any:
    """The domain of that UUID or name, or None."""
    for look_up in (connection.lookupByUUIDString, connection.lookupByName):
        try:
            return look_up(instance)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG):
                raise
    return None


def get_domain(connection: Any, instance: str) -> Any:
    """As ``find_domain``; raises NotFound."""
    domain = find_domain(connection, instance)
    if domain is None:
        raise NotFound(f"there is no domain {instance[:100]!r}: see virsh list --all")
    return domain
