"""Small JSON records beside staged volumes: whose they are, and their stated size and format."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import msgspec

from coriolis.durable_file import replace_file
from coriolis.errors import Conflict, Corrupt, InvalidInput
from coriolis.model.resource import Tag
from coriolis.providers.block.os_errors import from_os_error

FOLDER = ".coriolis"
"""Hidden folder inside a storage directory that holds our records and partial files."""
MAX_RECORD_BYTES = 64 * 1024
MAX_RECORDS = 100_000
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")


class VolumeRecord(msgspec.Struct, frozen=True):
    """What we stated when we made a volume; the volume's own content is never asked."""

    name: str
    size_bytes: int
    format: str
    job_id: str
    role: str

    @property
    def tag(self) -> Tag:
        return Tag(self.job_id, self.role)


def check_name(name: str, field: str) -> str:
    """``name`` when it can safely be part of a file name, else InvalidInput."""
    if not _NAME.match(name):
        raise InvalidInput(f"{field} {name!r} must be 1 to 128 letters, digits, dots, dashes or underscores")
    return name


def folder(directory: str) -> str:
    """Path of our hidden folder in ``directory``, made when absent."""
    path = os.path.join(directory, FOLDER)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, f"create {path}", directory) from error
    return path


def write_atomically(path: str, data: bytes) -> None:
    """Replace ``path`` so that after a crash it holds either the old or the new content, durably."""
    try:
        replace_file(Path(path), data)
    except OSError as error:
        raise from_os_error(error, f"write {path}", os.path.dirname(path)) from error


def read_bounded(path: str, limit: int = MAX_RECORD_BYTES) -> bytes | None:
    """Content of a small file, None when absent. Raises Corrupt beyond ``limit``."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, f"read {path}") from error
    if len(data) > limit:
        raise Corrupt(f"{path} is larger than {limit} bytes")
    return data


def _record_path(directory: str, name: str) -> str:
    return os.path.join(directory, FOLDER, f"{check_name(name, 'volume name')}.json")


def load(directory: str, name: str) -> VolumeRecord | None:
    """The record of volume ``name``, or None."""
    path = _record_path(directory, name)
    data = read_bounded(path)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=VolumeRecord)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"{path} is not a volume record: {error}") from error


def store(directory: str, record: VolumeRecord) -> None:
    """Write the record; before the volume itself, so that a volume without an owner cannot exist."""
    folder(directory)
    write_atomically(_record_path(directory, record.name), msgspec.json.encode(record))


def remove(directory: str, name: str) -> None:
    """Forget the record; fine when absent."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_record_path(directory, name))


def all_records(directory: str) -> list[VolumeRecord]:
    """Every record in ``directory``, by name."""
    try:
        names = sorted(os.listdir(os.path.join(directory, FOLDER)))[:MAX_RECORDS]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise from_os_error(error, f"list {directory}") from error
    found = (load(directory, name.removesuffix(".json")) for name in names if name.endswith(".json"))
    return [record for record in found if record is not None]


def check_same(existing: VolumeRecord, wanted: VolumeRecord) -> None:
    """A repeated create must ask for the same volume, else Conflict."""
    if existing != wanted:
        raise Conflict(
            f"volume {wanted.name!r} exists with {existing.size_bytes} bytes, format {existing.format}, tag"
            f" {existing.tag}, but {wanted.size_bytes} bytes, format {wanted.format}, tag {wanted.tag} was asked:"
            " delete it first"
        )
