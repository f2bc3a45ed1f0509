"""Which module files a kernel needs for a set of drivers, from the guest's own ``modules.dep``."""

from __future__ import annotations

import posixpath
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coriolis.convert.text import shown
from coriolis.errors import Corrupt

MAX_CLOSURE = 200
_SUFFIX = re.compile(r"\.ko(\.(gz|xz|zst|bz2))?$")
_SAFE_PATH = re.compile(r"[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*")


@dataclass(frozen=True, slots=True)
class Closure:
    """``paths``: files below ``/lib/modules/V``, dependents first.

    ``absent``: wanted, neither file nor built in.
    """

    paths: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(module_name(path) for path in self.paths))

    @property
    def compressed(self) -> bool:
        return any(not path.endswith(".ko") for path in self.paths)


def module_name(path: str) -> str:
    """The name by which the kernel knows a module file: ``a/virtio-rng.ko.xz`` is ``virtio_rng``."""
    return _SUFFIX.sub("", posixpath.basename(path)).replace("-", "_")


def parse_dep(text: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """``modules.dep`` as name -> (path, paths it depends on).

    Raises Corrupt for a path that leaves the tree.
    """
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for line in text.splitlines():
        path, colon, rest = line.partition(":")
        if not colon:
            continue
        for one in (path, *rest.split()):
            if not _SAFE_PATH.fullmatch(one) or ".." in one.split("/"):
                raise Corrupt(f"modules.dep names an impossible file: {shown(one)}")
        found[module_name(path)] = (path, tuple(rest.split()))
    return found


def parse_builtin(text: str) -> frozenset[str]:
    """Names in ``modules.builtin``."""
    return frozenset(module_name(line.strip()) for line in text.splitlines() if line.strip())


def closure(dep: Mapping[str, tuple[str, tuple[str, ...]]], builtin: frozenset[str], wanted: Iterable[str]) -> Closure:
    """``wanted`` and all they depend on, without what is built in. Raises Corrupt beyond 200 modules."""
    paths: list[str] = []
    absent: list[str] = []
    queue = deque(wanted)
    while queue:
        name = queue.popleft()
        if name in builtin:
            continue
        if name not in dep:
            absent.append(name)
            continue
        path, needs = dep[name]
        if path in paths:
            continue
        paths.append(path)
        queue += [module_name(one) for one in needs]
        if len(paths) > MAX_CLOSURE:
            raise Corrupt(f"modules.dep makes the drivers need more than {MAX_CLOSURE} modules")
    return Closure(tuple(paths), tuple(dict.fromkeys(absent)))


def plain_path(path: str) -> str:
    """Where a module lies once it is unpacked: ``a/b.ko.xz`` is ``a/b.ko``."""
    return _SUFFIX.sub(".ko", path)
