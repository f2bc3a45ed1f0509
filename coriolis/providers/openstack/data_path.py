"""How disks get into a project: attached where the agent runs, or uploaded as images. Probed, then decided."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from coriolis.errors import InvalidInput
from coriolis.ids import is_id
from coriolis.providers.openstack.attachment import Attacher, BrickAttacher, NovaAttacher
from coriolis.providers.openstack.brick import Brick
from coriolis.providers.openstack.rest import ask_or_none
from coriolis.providers.openstack.session import Session
from coriolis.providers.surroundings import Surroundings

ATTACH, UPLOAD = "attach", "upload"
PRODUCT_UUID = Path("/sys/class/dmi/id/product_uuid")
"""In a server of Nova: its id."""


class Ways(msgspec.Struct, frozen=True):
    """What this agent can do; a reason where it cannot, "" where it can."""

    attach: str
    upload: str


def choose(wanted: str, ways: Ways) -> str:
    """``attach`` or ``upload``; ``auto`` prefers to attach. Raises InvalidInput with the reasons."""
    reasons = {ATTACH: ways.attach, UPLOAD: ways.upload}
    if wanted in reasons:
        if reasons[wanted]:
            raise InvalidInput(f"data_path {wanted} does not work on this agent: {reasons[wanted]}")
        return wanted
    for way, reason in reasons.items():
        if not reason:
            return way
    raise InvalidInput(f"no disk can be brought to this project from this agent: {ways.attach}; {ways.upload}")


async def attacher_here(
    session: Session, surroundings: Surroundings, product_uuid: Path = PRODUCT_UUID
) -> Attacher | None:
    """What the operator configured, else Nova when this host is a server of the project, else None."""
    if surroundings.cinder is not None:
        return BrickAttacher(session, Brick(surroundings.cinder))
    server = await asyncio.to_thread(_own_uuid, product_uuid)
    if not server:
        return None
    found = await session.read(lambda cloud: ask_or_none(cloud, "compute", f"/servers/{server}"))
    return NovaAttacher(session, server) if found is not None else None


def _own_uuid(path: Path) -> str:
    try:
        text = path.read_text("ascii").strip().lower()
    except (OSError, ValueError):
        return ""
    return text if is_id(text) else ""


def ways(attacher: Attacher | None, staging_dir: Path | None) -> Ways:
    """Of this agent."""
    return Ways(
        attach=""
        if attacher is not None
        else "it is no server of the project, and its configuration names no cinder_drivers",
        upload="" if staging_dir is not None else "its configuration names no staging_dir for images",
    )
