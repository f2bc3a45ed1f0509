"""Waiting for one's turn at a Pace: the clock, and sleep in slices so that a new rate counts at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from coriolis.transfer.pace import Pace

RECHECK_S = 0.25
"""Longest time until a sender that waits notices another rate."""


async def pass_pace(pace: Pace, nbytes: int, waiting: Callable[[], None] = lambda: None) -> None:
    """Return when ``nbytes`` may be sent. ``waiting`` is called each quarter of a second: this is no stall."""
    turn = pace.take_turn(nbytes, time.monotonic())
    while (wait_s := pace.wait_s(turn, time.monotonic())) > 0:
        await asyncio.sleep(min(wait_s, RECHECK_S))
        waiting()


def pass_pace_blocking(pace: Pace, nbytes: int, waiting: Callable[[], None] = lambda: None) -> None:
    """``pass_pace`` for a thread. ``waiting`` may raise to give up."""
    turn = pace.take_turn(nbytes, time.monotonic())
    while (wait_s := pace.wait_s(turn, time.monotonic())) > 0:
        time.sleep(min(wait_s, RECHECK_S))
        waiting()
