"""Files that the operator put into the bundle for Windows guests."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from coriolis.errors import Corrupt, InvalidInput

MAX_FILES = 200
MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class BundleFile:
    path: Path
    name: str
    sha256: str
    size: int

    def read(self) -> bytes:
        """Raises Corrupt when the file changed since it was looked at."""
        data = _content(self.path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise Corrupt(f"{self.path} of the bundle changed during the conversion")
        return data


def bundle_files(bundle: str, below: str) -> list[BundleFile]:
    """Regular files right below a directory of the bundle, by name; empty when it has none.

    Raises InvalidInput beyond 200 files or 256 MiB for one.
    """
    directory = Path(bundle, below) if bundle else None
    if directory is None or not directory.is_dir():
        return []
    paths = sorted(path for path in directory.iterdir() if stat.S_ISREG(path.lstat().st_mode))
    if len(paths) > MAX_FILES:
        raise InvalidInput(f"{directory} of the bundle holds more than {MAX_FILES} files")
    found = []
    for path in paths:
        data = _content(path)
        found.append(BundleFile(path, path.name, hashlib.sha256(data).hexdigest(), len(data)))
    return found


def _content(path: Path) -> bytes:
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput(f"{path} of the bundle has more than {MAX_FILE_BYTES} bytes")
    return data
