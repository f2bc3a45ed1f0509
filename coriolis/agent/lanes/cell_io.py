"""Blocking access of a lane to a disk, by a descriptor of its own."""

from __future__ import annotations

import os
from typing import Protocol

from coriolis.errors import Corrupt
from coriolis.providers.block.os_errors import from_os_error
from coriolis.providers.block.raw_io import FileIdentity, check_unchanged, identity_from_text, write_exact, zero_range


class LaneReader(Protocol):
    """A disk as one lane reads it."""

    def expect(self, offset: int, length: int) -> None:
        """The lane will read this range from front to back, after what it was told before."""
        ...

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` from ``offset``; only our errors."""
        ...

    def close(self) -> None:
        """The lane is over."""
        ...


class CellReader(Protocol):
    def for_lane(self) -> LaneReader: ...


class CellWriter(Protocol):
    def write(self, offset: int, data: bytes | memoryview) -> None: ...

    def write_zeroes(self, offset: int, length: int) -> None: ...


class DescriptorReader:
    """Reads a raw disk by its descriptor; with ``expected``, proves after each read that the file did not change.

    The kernel reads ahead.
    """

    def __init__(self, descriptor: int, label: str, expected: FileIdentity | None = None) -> None:
        self._descriptor, self._label, self._expected = descriptor, label, expected

    def for_lane(self) -> DescriptorReader:
        return self

    def expect(self, offset: int, length: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do: the host closes its descriptors."""

    def read_into(self, offset: int, view: memoryview) -> None:
        done = 0
        try:
            while done < len(view):
                got = os.preadv(self._descriptor, [view[done:]], offset + done)
                if not got:
                    raise Corrupt(f"{self._label} ended {len(view) - done} bytes early: was it cut?")
                done += got
        except OSError as failed:
            raise from_os_error(failed, f"read {self._label}", self._descriptor) from failed
        check_unchanged(self._descriptor, self._label, self._expected)


class DescriptorWriter:
    """Writes a raw disk by its descriptor. Whoever flushes does it through another descriptor of the same file."""

    def __init__(self, descriptor: int, label: str) -> None:
        self._descriptor, self._label = descriptor, label

    def write(self, offset: int, data: bytes | memoryview) -> None:
        try:
            write_exact(self._descriptor, offset, data)
        except OSError as failed:
            raise from_os_error(failed, f"write {self._label}", self._descriptor) from failed

    def write_zeroes(self, offset: int, length: int) -> None:
        try:
            zero_range(self._descriptor, offset, length)
        except OSError as failed:
            raise from_os_error(failed, f"zero {self._label}", self._descriptor) from failed


def attached_reader(descriptor: int, label: str, identity: str) -> DescriptorReader:
    """The reader of a disk that came with an ``AttachDisk``."""
    return DescriptorReader(descriptor, label, identity_from_text(identity) if identity else None)
