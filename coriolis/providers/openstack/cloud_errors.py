"""What OpenStack's services and the way to them say when they fail, as errors of ours. Pure.

Quotas: Nova answers 403 ("Quota exceeded for ..."), Cinder and Glance 413, Neutron 409 (type OverQuota); a 413 with
``Retry-After`` above 0 was Nova's and Cinder's old rate limit. Seen with the Zed release, except the last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from keystoneauth1 import exceptions as login
from openstack import exceptions as sdk

from coriolis.errors import (
    Conflict,
    CoriolisError,
    CredentialsLost,
    Denied,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    Throttled,
    TimedOut,
    Unavailable,
    Unsupported,
)

MAX_SAID_CHARS = 400
RETRY_AFTER_S = 5.0
"""When a busy service does not say how long."""
MAX_RETRY_AFTER_S = 120.0
_QUOTA = re.compile(r"quota|over ?limit|exceed", re.IGNORECASE)

FAILURES = (login.ClientException, sdk.SDKException)
"""All that openstacksdk and keystoneauth raise."""


def printable(text: object, limit: int = MAX_SAID_CHARS) -> str:
    """What a cloud or a guest said, bounded and fit for a message."""
    return "".join(c if c.isprintable() else " " for c in str(text)[: 4 * limit])[:limit].strip()


def from_failure(failure: Exception, where: str, *, token: bool = False) -> CoriolisError:
    """The error to raise ``from`` it. ``where``: the cloud. ``token``: the job's trust serves, so a 401 is its end."""
    status = getattr(failure, "status_code", None) or getattr(failure, "http_status", None)
    if isinstance(status, int) and status >= 400:
        response = getattr(failure, "response", None)
        headers: Mapping[str, str] = getattr(response, "headers", None) or {}
        said = printable(getattr(failure, "details", None) or getattr(failure, "message", None) or failure)
        return from_status(status, f"OpenStack at {where}: {said}", headers, token=token)
    said = printable(failure) or type(failure).__name__
    if isinstance(failure, (login.EndpointNotFound, login.EmptyCatalog)):
        return NotFound(f"OpenStack at {where}: the catalog has no such service or region: {said}")
    if isinstance(failure, (login.RequestTimeout, login.ConnectTimeout)):
        return TimedOut(f"OpenStack at {where} did not answer: {said}")
    if isinstance(failure, login.SSLError):
        return Denied(
            f"the certificate at {where} is not trusted: give its authority in connection_info.ca, or set"
            f" allow_untrusted: {said}"
        )
    if isinstance(failure, login.AuthorizationFailure):
        lost = CredentialsLost if token else Denied
        return lost(f"OpenStack at {where}: {said}")
    if isinstance(failure, (sdk.NotSupported, sdk.MethodNotSupported)):
        return Unsupported(f"OpenStack at {where}: {said}")
    if isinstance(failure, sdk.DuplicateResource):
        return Conflict(f"OpenStack at {where}: {said}")
    return Unavailable(f"OpenStack at {where} cannot be reached: {said}", retry_after_s=RETRY_AFTER_S)


def from_status(status: int, said: str, headers: Mapping[str, str], *, token: bool = False) -> CoriolisError:
    """For an HTTP answer of 400 or more; ``said`` is the whole message."""
    wait = retry_after(headers)
    if status == 401:
        return (CredentialsLost if token else Denied)(f"{said} (401: the login is not accepted any more)")
    if status == 413:
        if wait:
            return Throttled(said, retry_after_s=wait)
        return QuotaExceeded(f"{said}: raise the project's quota, or free some of it")
    if status in (403, 409) and _QUOTA.search(said):
        return QuotaExceeded(f"{said}: raise the project's quota, or free some of it")
    if status == 403:
        return Denied(f"{said} (403: the account's roles do not allow it)")
    if status in (404, 410):
        return NotFound(said)
    if status in (409, 412):
        return Conflict(said)
    if status == 408 or status == 504:
        return TimedOut(said, retry_after_s=wait or RETRY_AFTER_S)
    if status == 429:
        return Throttled(said, retry_after_s=wait or RETRY_AFTER_S)
    if status == 501:
        return Unsupported(said)
    if status >= 500:
        return Unavailable(said, retry_after_s=wait or RETRY_AFTER_S)
    return InvalidInput(said)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds, at most ``MAX_RETRY_AFTER_S``; 0 when the answer does not say, or says a date."""
    text = headers.get("Retry-After", "") or headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return min(seconds, MAX_RETRY_AFTER_S) if seconds > 0 else 0.0  # "nan" is a number too
