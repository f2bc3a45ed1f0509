"""Calls of OpenStack's services through the SDK's adapters, and creates that happen once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from openstack import exceptions as sdk

from coriolis.errors import NotFound, TimedOut, Unavailable
from coriolis.providers.openstack.session import MAX_WAIT_S, Session
from coriolis.providers.openstack.session import Cloud as Cloud

T = TypeVar("T")

NOVA = "2.67"
"""Nova of Stein: server tags at creation, the flavor within a server, no file injection."""
CINDER = "3.44"
"""Cinder of Rocky: the attachments API with its completion."""
ATTEMPTS = 3
PAGE = 500
MAX_PAGES = 200
_SERVICES = {"compute": NOVA, "block_storage": CINDER, "image": None, "network": None}


def ask(
    cloud: Cloud,
    service: str,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Any:
    """The JSON document of the answer, {} when it has none. Blocking; raises the SDK's exceptions.

    ``service``: ``compute``, ``block_storage``, ``image`` or ``network``; ``path`` is below its versioned root.
    """
    options: dict[str, Any] = {"params": dict(params)} if params else {}
    if body is not None:
        options["json"] = body
    answer = getattr(cloud, service).request(path, method, microversion=_SERVICES[service], **options)
    sdk.raise_from_response(answer)
    return answer.json() if answer.content else {}


def ask_or_none(cloud: Cloud, service: str, path: str) -> Any:
    """As ``ask`` with GET; None when there is no such thing."""
    try:
        return ask(cloud, service, "GET", path)
    except sdk.NotFoundException:
        return None


def listed(cloud: Cloud, service: str, path: str, key: str, params: Mapping[str, Any] | None = None) -> list[Any]:
    """All items, in pages. Blocking."""
    found: list[Any] = []
    marker: dict[str, Any] = {}
    for _ in range(MAX_PAGES):
        document = ask(cloud, service, "GET", path, params={**(params or {}), "limit": PAGE, **marker})
        page = document[key]
        found += page
        if not goes_on(document, page, PAGE):
            break
        marker = {"marker": page[-1]["id"]}
    return found


def goes_on(document: Mapping[str, Any], page: list[Any], wanted: int) -> bool:
    """Whether there may be more after ``page`` of an answer to a request with limit ``wanted``.

    A short page is not the last one where the operator caps pages below it (Nova's and Cinder's max_limit, Glance's
    api_limit_max, Neutron's pagination_max_limit): then the answer has a link to the next.
    """
    links = (one for name, value in document.items() if name.endswith("_links") for one in value)
    linked = bool(document.get("next")) or any(one.get("rel") == "next" for one in links)
    return bool(page) and (linked or len(page) >= wanted)


async def make_once(session: Session, look: Callable[[Cloud], T | None], make: Callable[[Cloud], T]) -> T:
    """What ``look`` finds, else what ``make`` makes. A create whose answer was lost is looked for before it is
    repeated; after three lost answers the error passes."""
    for left in range(ATTEMPTS - 1, -1, -1):
        found = await session.read(look)
        if found is not None:
            return found
        try:
            return await session.change(make)
        except (Unavailable, TimedOut) as lost:
            if not left:
                raise
            await asyncio.sleep(min(lost.retry_after_s or 1.0, MAX_WAIT_S))
    raise AssertionError("unreachable")


async def remove(session: Session, service: str, path: str, gone: str = "", timeout_s: float = 120.0) -> None:
    """DELETE, success when it is absent; with ``gone`` (a path, or the same when "=") wait until that is not found."""

    def delete(cloud: Cloud) -> None:
        try:
            ask(cloud, service, "DELETE", path)
        except sdk.NotFoundException:
            return

    for left in range(ATTEMPTS - 1, -1, -1):
        try:
            await session.change(delete)
            break
        except NotFound:
            break
        except (Unavailable, TimedOut) as lost:
            if not left:
                raise
            await asyncio.sleep(min(lost.retry_after_s or 1.0, MAX_WAIT_S))
    if gone:
        where = path if gone == "=" else gone
        await session.until(
            lambda cloud: True if ask_or_none(cloud, service, where) is None else None, timeout_s, f"the end of {where}"
        )
