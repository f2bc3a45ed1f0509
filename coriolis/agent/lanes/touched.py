"""Which cells were ever written, a byte each, in memory that a task and its lane processes share (memfd_create(2))."""

from __future__ import annotations

import mmap
import os

import numpy as np
import numpy.typing as npt


def touched_bytes(initial: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], int]:
    """A shared copy of ``initial`` and its descriptor. An empty disk shares one unused byte."""
    descriptor = os.memfd_create("touched", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, max(1, len(initial)))
    shared = map_touched(descriptor)[: len(initial)]
    if initial.any():
        shared[:] = initial
    return shared, descriptor


def map_touched(descriptor: int) -> npt.NDArray[np.uint8]:
    """The shared bytes behind a descriptor."""
    return np.frombuffer(mmap.mmap(descriptor, 0), dtype=np.uint8)
