"""A finished conversion as it lies in the work directory: deltas, and a manifest written last.

The manifest is the commit point. From then on the conversion is only ever applied, never computed again for
that replica: a volume may hold half of the delta, and what is computed over such a volume is wrong.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from blake3 import blake3

from coriolis.convert.delta import Delta, load
from coriolis.convert.request import ConversionRequest, ConversionSummary
from coriolis.durable_file import replace_file, sync_directory
from coriolis.errors import Conflict, Corrupt

_MANIFEST = "conversion.json"
_APPLYING = "applying"
_LOCK = "lock"


class Manifest(msgspec.Struct, frozen=True):
    """``request_digest`` covers the whole request; ``deltas``: digests by disk index."""

    request_digest: str
    replica_identity: str
    deltas: tuple[str, ...]
    summary: ConversionSummary
    messages: tuple[str, ...]


class Saved(msgspec.Struct, frozen=True):
    manifest: Manifest
    deltas: tuple[Delta, ...]


def delta_path(work_dir: Path, disk_index: int) -> Path:
    return work_dir / f"disk-{disk_index}.delta"


def request_digest(request: ConversionRequest) -> str:
    return blake3(msgspec.json.encode(request, order="deterministic")).hexdigest()


@contextmanager
def locked(work_dir: Path) -> Iterator[None]:
    """Hold the directory alone. Raises Conflict when another process converts in it."""
    work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(work_dir / _LOCK, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another conversion is running in {work_dir}") from error
        yield


def find(work_dir: Path, request: ConversionRequest) -> Saved | None:
    """The complete conversion for exactly this request and replica; None when it must be computed. Blocking.

    Raises Conflict when writing back another conversion of the same replica has begun, Corrupt when the saved
    one was committed but is damaged: the volume must then be made anew from the replica.
    """
    try:
        raw = (work_dir / _MANIFEST).read_bytes()
    except FileNotFoundError:
        return None
    applying = (work_dir / _APPLYING).exists()
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
        if manifest.request_digest == request_digest(request):
            return Saved(manifest, _load_deltas(work_dir, manifest))
    except (msgspec.MsgspecError, Corrupt) as error:
        if applying:
            raise Corrupt(
                f"the saved conversion in {work_dir} is damaged and partly written back; copy the volume anew"
            ) from error
        return None
    if applying and manifest.replica_identity == request.replica_identity:
        raise Conflict(
            "another conversion of this replica was partly written to the volume; copy the volume anew first"
        )
    return None


def commit(work_dir: Path, saved: Saved) -> None:
    """Make the conversion the one to apply. Blocking."""
    replace_file(work_dir / _MANIFEST, msgspec.json.encode(saved.manifest))


def mark_applying(work_dir: Path) -> None:
    """Note, before the first write to a volume, that writing begins. Blocking."""
    replace_file(work_dir / _APPLYING, b"")


def discard(work_dir: Path) -> None:
    """Remove what former runs left, manifest first. Blocking."""
    (work_dir / _MANIFEST).unlink(missing_ok=True)
    sync_directory(work_dir)
    for pattern in (_APPLYING, "*.delta", "*.part", "*.qcow2"):
        for path in work_dir.glob(pattern):
            path.unlink(missing_ok=True)


def _load_deltas(work_dir: Path, manifest: Manifest) -> tuple[Delta, ...]:
    deltas = tuple(load(delta_path(work_dir, index)) for index in range(len(manifest.deltas)))
    for index, delta in enumerate(deltas):
        wanted = (manifest.deltas[index], index, manifest.replica_identity)
        if (delta.digest, delta.header.disk_index, delta.header.replica_identity) != wanted:
            raise Corrupt(f"{delta.path} belongs to another conversion")
    return deltas
