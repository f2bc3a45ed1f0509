"""How many connections an agent's tasks have open to one ESXi host and to one endpoint: slots that are locked files.

ESXi serves disk data (NFC) from small fixed buffers, and a vCenter passes on about 52 connections in all (VMware,
"Virtual Disk Development Kit Programming Guide", NFC session limits). A slot is a file that its holder locks, so the
kernel gives it back however a task ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from coriolis.errors import CoriolisError
from coriolis.providers.block.os_errors import from_os_error

PER_HOST = 24
PER_ENDPOINT = 48
PATIENCE_S = 45.0
"""A reader that got no slot for so long goes on with one connection: a machine may have more disks than there are
slots, and waiting for itself it would wait for ever."""
POLL_S = 0.2


class Limit(msgspec.Struct, frozen=True):
    """At most ``slots`` at once of what ``name`` names, e.g. the host ``esx-3``."""

    name: str
    slots: int


def take(folder: Path, limit: Limit, wanted: int) -> list[int]:
    """Descriptors of at most ``wanted`` slots that nobody held, in no order."""
    place = folder / hashlib.sha256(limit.name.encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    held: list[int] = []
    for number in range(limit.slots):
        if len(held) == wanted:
            break
        descriptor = os.open(place / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
        else:
            held.append(descriptor)
    return held


def release(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _take_of_all(folder: Path, limits: tuple[Limit, ...], wanted: int) -> tuple[int, list[int]]:
    """(connections, descriptors): as many as every limit grants."""
    granted, held = wanted, []
    for limit in limits:
        slots = take(folder, limit, granted)
        granted = min(granted, len(slots))
        release(slots[granted:])
        held.append(slots[:granted])
    for slots in held:
        release(slots[granted:])
        del slots[granted:]
    return granted, [one for slots in held for one in slots]


@asynccontextmanager
async def connections(
    folder: Path | None, limits: tuple[Limit, ...], wanted: int, tell: Callable[..., None]
) -> AsyncIterator[int]:
    """How many of ``wanted`` connections may be opened while inside: at least one. Without a folder no limit holds."""
    if folder is None:
        yield wanted
        return
    deadline, granted = time.monotonic() + PATIENCE_S, 0
    held: list[int] = []
    try:
        while not granted:
            granted, held = await asyncio.to_thread(_take_of_all, folder, limits, wanted)
            if granted:
                break
            if time.monotonic() >= deadline:
                names = ", ".join(f"{limit.name} ({limit.slots})" for limit in limits)
                tell(f"all connections to {names} are taken; going on with one more", "WARNING")
                granted = 1
                break
            await asyncio.sleep(POLL_S)
        yield granted
    except OSError as error:
        raise _slot_error(error, folder) from error
    finally:
        release(held)


def _slot_error(error: OSError, folder: Path) -> CoriolisError:
    return from_os_error(error, f"lock a connection slot in {folder}")
