"""What an agent lends a provider besides the user's credentials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec


def _say_nothing(message: str, level: str = "INFO") -> None:
    """For callers without a task, such as tests."""


class CinderAccess(msgspec.Struct, frozen=True):
    """The operator's word that this host may attach Cinder volumes itself: what it is told to attach, the cloud says.

    ``drivers``: driver volume types, such as ``nfs`` or ``iscsi``. ``mount_dir``: below it shares are mounted.
    ``python``: the interpreter that has os-brick.
    """

    drivers: tuple[str, ...]
    mount_dir: Path
    python: str = "/usr/bin/python3"


class Surroundings(msgspec.Struct, frozen=True):
    """All of it is optional; a provider says in its error what it would have needed.

    ``environment``: the source or target environment without the members that the mesh itself reads. ``state_dir``:
    the agent's own directory, for locks that its tasks share. ``staging_dir``: for disks on their way to a cloud that
    takes only whole images. ``cinder``: how volumes are attached here. ``vddk_dir``: the operator's VMware Virtual
    Disk Development Kit. ``tell(message, level)``: an event of the current task. ``renew()``: connection_info anew,
    with a token that has time left; it blocks, so call it in a thread; raises errors of ours, CredentialsLost among
    them.
    """

    environment: Mapping[str, Any] = {}
    state_dir: Path | None = None
    staging_dir: Path | None = None
    vddk_dir: Path | None = None
    cinder: CinderAccess | None = None
    tell: Callable[..., None] = _say_nothing
    renew: Callable[[], Mapping[str, Any]] | None = None


NOTHING = Surroundings()
