"""One file per family of distributions; each defines ``FAMILY``. Adding a file here is all it takes to add one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from coriolis.convert.linux.family import LinuxFamily


@cache
def families() -> tuple[LinuxFamily, ...]:
    """All families, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}").FAMILY for name in names)
