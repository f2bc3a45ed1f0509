"""Identifiers. Job ids are UUID4; names of cloud resources derive from them and never change."""

from __future__ import annotations

import re
import uuid

UUID_RE = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
_NAMESPACE = uuid.UUID("6f1c9c1e-6d0b-5a53-9a3e-0c5b2f6f7a11")


def new_id() -> str:
    """A random UUID4, 36 characters."""
    return str(uuid.uuid4())


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of one of our ids (lower-case UUID)."""
    return UUID_RE.match(text) is not None


def derived_id(*parts: str) -> str:
    """A UUID5 that is the same for the same parts: a repeated create finds its first result."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(parts)))


def resource_name(job_id: str, instance_index: int, role: str) -> str:
    """Deterministic name of a cloud resource of a job, at most 63 characters.

    ``role`` is like ``disk-0`` or ``pass-2``.
    """
    return f"coriolis-{job_id}-{instance_index}-{role}"[:63]
