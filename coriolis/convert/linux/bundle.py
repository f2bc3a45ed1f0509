"""The operator's packages: a directory of this agent, keyed by distribution and version. See ``find``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MAX_FILES = 64
MAX_FILE_BYTES = 128 << 20
MAX_TOTAL_BYTES = 256 << 20
_KEY = re.compile(r"[a-z0-9][a-z0-9_-]*(?:\.[a-z0-9_-]+)*")
_DEB = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]*)_(?P<version>[^_/]+)_(?:amd64|all)\.deb")
_RPM = re.compile(r"(?P<name>[A-Za-z0-9][\w+.-]*)-(?P<version>[^-/]+-[^-/]+)\.(?:x86_64|noarch)\.rpm")


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file of the bundle. ``name``: of the package."""

    name: str
    version: str
    path: Path


def find(bundle: str, distribution: str, version: str, package: str) -> list[PackageFile]:
    """The files with which ``package`` is installed, empty when the bundle does not have it.

    ``<bundle>/<distribution>/<version>/`` holds either the package as a file, when it needs no other, or a directory
    of its name with it and all that it needs. ``version`` as in os-release, else its part before the first dot. Of
    several versions of a package the newest counts. Links, and what is beyond 64 files of 128 MiB or 256 MiB in all,
    are not taken.
    """
    for key in dict.fromkeys((version, version.partition(".")[0])):
        if not _KEY.fullmatch(distribution) or not _KEY.fullmatch(key) or not _is_plain(package):
            continue
        top = Path(bundle) / distribution / key
        found = _newest(_packages(top / package)) or [one for one in _newest(_packages(top)) if one.name == package]
        if any(one.name == package for one in found) and _fits(found):
            return found
    return []


def version_key(text: str) -> list[tuple[int, int, str]]:
    """Sorts versions as dpkg and rpm mostly do: numbers as numbers, ``~`` before everything, epoch first."""
    epoch, colon, rest = text.partition(":")
    parts = re.findall(r"\d+|~|[^\d~]+", rest if colon else text)
    key = [(1, int(epoch), "")] if colon and epoch.isdigit() else [(1, 0, "")]
    key += [(1, int(one), "") if one.isdigit() else (-1, 0, "") if one == "~" else (0, 1, one) for one in parts]
    return [*key, (0, 0, "")]


def _is_plain(package: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w+.-]*", package) is not None


def _packages(directory: Path) -> list[PackageFile]:
    if not directory.is_dir():
        return []
    found = []
    for path in sorted(directory.iterdir()):
        match = _DEB.fullmatch(path.name) or _RPM.fullmatch(path.name)
        if match and path.is_file() and not path.is_symlink():
            found.append(PackageFile(match["name"], match["version"], path))
    return found


def _newest(files: Iterable[PackageFile]) -> list[PackageFile]:
    best: dict[str, PackageFile] = {}
    for one in files:
        former = best.get(one.name)
        if former is None or version_key(one.version) > version_key(former.version):
            best[one.name] = one
    return list(best.values())


def _fits(files: list[PackageFile]) -> bool:
    sizes = [one.path.stat().st_size for one in files]
    return len(files) <= MAX_FILES and max(sizes) <= MAX_FILE_BYTES and sum(sizes) <= MAX_TOTAL_BYTES
