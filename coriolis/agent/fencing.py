"""Fence 2: an agent obeys no epoch and no generation lower than one it has obeyed. Pure."""

from __future__ import annotations

import msgspec

from coriolis.errors import StaleEpoch, StaleGeneration

MAX_REMEMBERED_TASKS = 10_000


class Fence(msgspec.Struct, frozen=True):
    """``generations`` maps task id and role to the highest generation obeyed, oldest task first."""

    epoch: int = 0
    generations: dict[str, int] = {}


def admit_leader(fence: Fence, epoch: int) -> Fence:
    """The fence after obeying a leader. Raises StaleEpoch for a lower epoch."""
    if epoch < fence.epoch:
        raise StaleEpoch(f"epoch {epoch} is lower than {fence.epoch}, which this agent has obeyed")
    return msgspec.structs.replace(fence, epoch=epoch)


def admit_task(fence: Fence, epoch: int, key: str, generation: int) -> Fence:
    """The fence after obeying an assignment. Raises StaleEpoch, StaleGeneration; equal generations are repetitions."""
    fence = admit_leader(fence, epoch)
    if generation < fence.generations.get(key, 0):
        raise StaleGeneration(f"generation {generation} of {key} is lower than {fence.generations[key]}")
    generations = {k: v for k, v in fence.generations.items() if k != key}
    while len(generations) >= MAX_REMEMBERED_TASKS:
        del generations[next(iter(generations))]
    return msgspec.structs.replace(fence, generations={**generations, key: generation})
