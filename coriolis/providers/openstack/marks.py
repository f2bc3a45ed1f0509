"""How our resources are marked in a project, so that a repeat, a clean-up or another agent finds them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coriolis.model.resource import Tag

TAG = "coriolis_tag"
"""Metadata (volumes, servers) or property (images): ``coriolis:<job>:<role>``."""
JOB = "coriolis_job"
INSTANCE = "coriolis_instance"
"""Metadata or property: the derived id of the machine that the thing belongs to."""
INSTANCE_TAG = "coriolis_instance_tag"
SIZE = "coriolis_size"
"""Of a volume: the disk's bytes; Cinder counts in GiB."""
DRIVER, FORMAT = "coriolis_driver", "coriolis_format"
"""Of a volume: how it was attached when it was made, and the format that Cinder stated."""
STAGED = "coriolis_staged"
"""Of a volume or image: the staged disk that it was made of. It goes with the machine."""
PLAN = "coriolis_plan_"
"""Prefix of the keys that hold a machine's plan, cut to what a metadata value may hold."""
MAX_VALUE = 255
"""Characters of a metadata value (Nova, Cinder)."""
MAX_PARTS = 64


def of_volume(tag: Tag, size: int) -> dict[str, str]:
    """Metadata of a volume for a disk."""
    return {TAG: str(tag), JOB: tag.job_id, SIZE: str(size)}


def tag_of(metadata: Mapping[str, Any]) -> Tag | None:
    """The tag, or None for somebody else's thing."""
    return Tag.parse(str(metadata.get(TAG, "")))


def server_tags(job_id: str, instance_id: str) -> list[str]:
    """Nova's tags, by which servers are looked up: of the job and of the machine."""
    return [job_mark(job_id), instance_mark(instance_id)]


def job_mark(job_id: str) -> str:
    return f"coriolis-job-{job_id}"[:60]


def instance_mark(instance_id: str) -> str:
    return f"coriolis-{instance_id}"[:60]


def port_name(instance_id: str, number: int) -> str:
    """Deterministic name of the port of NIC ``number``."""
    return f"coriolis-{instance_id}-nic-{number}"


def cut(text: str) -> dict[str, str]:
    """``text`` as metadata items. Raises ValueError beyond 64 of them."""
    parts = [text[at : at + MAX_VALUE] for at in range(0, len(text), MAX_VALUE)]
    if len(parts) > MAX_PARTS:
        raise ValueError("the plan is too long for metadata")
    return {f"{PLAN}{number:02}": part for number, part in enumerate(parts)}


def joined(metadata: Mapping[str, str]) -> str:
    """The inverse of ``cut``; "" when there is none."""
    return "".join(metadata[key] for key in sorted(metadata) if key.startswith(PLAN))
