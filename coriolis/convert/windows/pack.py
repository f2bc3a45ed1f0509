"""The driver pack as the worker finds it: a directory that ``coriolis.convert.driver_pack`` made, with its manifest.

``manifest.json``: ``{"format": 1, "source": ..., "drivers": [{"driver", "folder", "architecture", "version",
"embedded_signature", "files": {name: {"sha256", "size"}}}], "agents": {architecture: {"path", "sha256", "size"}}}``.
Files lie at ``driver/folder/architecture/name``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coriolis.errors import Corrupt, InvalidInput

MANIFEST = "manifest.json"
FORMAT = 1
MAX_MANIFEST_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class PackFile:
    """``path``: below the pack. ``size`` in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class PackedDriver:
    """One driver for one Windows. ``files`` by name; ``embedded_signature``: its .sys carry their signatures."""

    driver: str
    folder: str
    architecture: str
    version: str
    embedded_signature: bool
    files: Mapping[str, PackFile]


class Pack:
    """Raises InvalidInput when the directory holds no pack of this format."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            with open(directory / MANIFEST, "rb") as file:
                document = json.loads(file.read(MAX_MANIFEST_BYTES))
            if document["format"] != FORMAT:
                raise InvalidInput(f"the driver pack in {directory} has format {document['format']}, not {FORMAT}")
            self.source = str(document["source"])
            self.drivers = tuple(_driver(one) for one in document["drivers"])
            self._agents = {name: PackFile(**one) for name, one in document["agents"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{directory} holds no driver pack: {error!r}") from error

    def find(self, driver: str, folder: str, architecture: str) -> PackedDriver | None:
        wanted = (driver.lower(), folder.lower(), architecture)
        return next(
            (one for one in self.drivers if (one.driver.lower(), one.folder.lower(), one.architecture) == wanted), None
        )

    def agent(self, architecture: str) -> PackFile | None:
        """The installer of qemu-guest-agent."""
        return self._agents.get(architecture)

    def read(self, file: PackFile) -> bytes:
        """Raises Corrupt when the file is not what the manifest says."""
        path = self._directory / file.path
        try:
            with open(path, "rb") as stream:
                data = stream.read(file.size + 1)
        except OSError as error:
            raise Corrupt(f"the driver pack lost {file.path}: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise Corrupt(f"{file.path} of the driver pack is not what its manifest says; give the ISO again")
        return data


def _driver(document: dict[str, Any]) -> PackedDriver:
    where = f"{document['driver']}/{document['folder']}/{document['architecture']}"
    files = {
        str(name): PackFile(f"{where}/{name}", one["sha256"], one["size"]) for name, one in document["files"].items()
    }
    return PackedDriver(**{**document, "files": files})
