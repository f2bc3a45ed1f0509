"""glibc's malloc, told to keep what it has: a lane allocates and frees buffers of a megabyte a thousand times a second.

By default each goes to mmap and back, and every page of it is faulted in anew; measured, that costs about a fifth of a
transfer's CPU time. Source of the parameters: mallopt(3).
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
KEPT_BYTES = 64 << 20
"""Freed memory up to this stays with the process; RSS stays bounded with it."""


def keep_freed_memory() -> None:
    """Set the thresholds; without effect where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(_M_TOP_PAD, 4 << 20)
    # each arena keeps freed memory of its own
    mallopt(_M_ARENA_MAX, 4)
