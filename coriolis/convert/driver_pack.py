"""The operator's virtio-win ISO -> a private directory with the drivers that Windows guests need, checked.

Runs in the agent, once for an ISO: the result is kept under the ISO's digest. ``bsdtar`` (libarchive) unpacks only the
files that were chosen from its listing. An image that shares content between folders shows the second file as a link to
the first, which need not be among the chosen: links are resolved here, and only contents are unpacked.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from coriolis.convert.driver_files import Inf, is_catalogue, parse_inf, program
from coriolis.convert.text import shown
from coriolis.convert.windows.pack import FORMAT, MANIFEST
from coriolis.convert.windows.platform_needs import VIRTIO_DRIVERS
from coriolis.durable_file import replace_file, sync_directory
from coriolis.errors import Corrupt, InvalidInput, QuotaExceeded, TimedOut, Unavailable

MAX_ISO_BYTES = 4 << 30
MAX_ENTRIES = 100_000
MAX_LISTING_BYTES = 32 << 20
MAX_FILE_BYTES = 256 << 20
MAX_PACK_BYTES = 1 << 30
TIMEOUT_S = 300.0
ARCHITECTURES = ("amd64", "x86")
LEFT_OUT = (".pdb", ".DVL.XML")
AGENTS = {"guest-agent/qemu-ga-x86_64.msi": "amd64", "guest-agent/qemu-ga-i386.msi": "x86"}
_NAME = r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,120}"
_MEMBER = re.compile(rf"(?:\./)?({_NAME}(?:/{_NAME})*)")
_LINE = re.compile(r"(?P<type>[-h])[rwxsStT-]{9}\S*\s+\d+\s+\S+\s+\S+\s+(?P<size>\d+)\s+\S+\s+\S+\s+\S+\s(?P<name>.+)")


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the ISO. ``source``: the member that holds its content, itself unless it is a link."""

    name: str
    source: str
    size: int


def prepare_driver_pack(iso: Path, state_dir: Path) -> Path:
    """The directory for ``ConversionSettings.drivers_dir``. Blocking: seconds for a new ISO, else its digest's time.

    Two callers at once wait for each other. Raises InvalidInput (no readable ISO, or no usable driver in it),
    QuotaExceeded, Unavailable (no bsdtar), TimedOut, Corrupt.
    """
    digest = _digest(iso)
    packs = state_dir / "driver-packs"
    packs.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(packs):
        target = packs / digest
        if (target / MANIFEST).exists():
            return target
        shutil.rmtree(target, ignore_errors=True)  # of a run that was killed
        part = Path(tempfile.mkdtemp(prefix="part-", dir=packs))
        try:
            manifest = _unpack(iso, digest, part)
            replace_file(part / MANIFEST, json.dumps(manifest, indent=1).encode())
            part.rename(target)
            sync_directory(packs)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def parse_listing(text: str) -> list[Member]:
    """Regular files and links of ``bsdtar -tv``; names with other than plain characters are left out.

    Raises QuotaExceeded beyond 100,000 lines.
    """
    lines = text.splitlines()
    if len(lines) > MAX_ENTRIES:
        raise QuotaExceeded(f"the ISO holds more than {MAX_ENTRIES} files")
    sizes: dict[str, int] = {}
    links: dict[str, str] = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        name, _, target = match["name"].partition(" link to ")
        if not _MEMBER.fullmatch(name) or (target and not _MEMBER.fullmatch(target)):
            continue
        if target:
            links[name] = target
        else:
            sizes[name] = int(match["size"])
    found = [Member(_plain(name), name, size) for name, size in sizes.items()]
    for name, target in links.items():
        source = links.get(target, target)
        if source in sizes:
            found.append(Member(_plain(name), source, sizes[source]))
    return found


def chosen(members: Sequence[Member]) -> list[Member]:
    """Drivers for every Windows and architecture, and the guest agent's installers. Raises QuotaExceeded."""
    wanted = {name.lower() for name in VIRTIO_DRIVERS}
    agents = {name.lower() for name in AGENTS}
    found = []
    for member in members:
        parts = member.name.split("/")
        is_driver = len(parts) == 4 and parts[0].lower() in wanted and parts[2].lower() in ARCHITECTURES
        left_out = member.name.lower().endswith(tuple(end.lower() for end in LEFT_OUT))
        if (is_driver and not left_out) or member.name.lower() in agents:
            found.append(member)
    total = sum(member.size for member in found)
    if total > MAX_PACK_BYTES or any(member.size > MAX_FILE_BYTES for member in found):
        raise QuotaExceeded(
            f"the drivers of the ISO have {total} bytes: at most {MAX_PACK_BYTES}, a file {MAX_FILE_BYTES}"
        )
    return found


def checked_driver(name: str, architecture: str, files: Mapping[str, bytes]) -> tuple[str, bool]:
    """(version, whether its programs carry signatures of their own) of one driver's folder.

    Raises Corrupt with the reason why it is not used: no INF, a file that an INF names is absent, a .sys for another
    processor, or one that neither carries a signature nor is in a catalogue. Newer folders hold a second INF (beside
    NetKVM's that of a protocol); the version is that of the driver's own.
    """
    by_lower = {one.lower(): data for one, data in files.items()}
    infs: dict[str, Inf] = {one: parse_inf(data) for one, data in by_lower.items() if one.endswith(".inf")}
    if not infs:
        raise Corrupt("it has no INF file")
    named = {one for inf in infs.values() for one in (*inf.files, *inf.catalogues)}
    absent = sorted(named - set(by_lower))
    if absent:
        raise Corrupt(f"its INF names {shown(absent[0])}, which is not there")
    catalogues = [by_lower[one] for inf in infs.values() for one in inf.catalogues]
    if not all(is_catalogue(data) for data in catalogues):
        raise Corrupt("its catalogue is not signed data")
    programs = [program(data) for one, data in by_lower.items() if one.endswith(".sys")]
    if not programs:
        raise Corrupt("it has no .sys file")
    for one in programs:
        if one.architecture != architecture:
            raise Corrupt(f"its .sys is built for {one.architecture}")
        if not one.signed and not any(digest in data for data in catalogues for digest in one.digests):
            raise Corrupt("neither its .sys nor its catalogue signs it")
    own = min(infs, key=lambda one: (not name.lower().startswith(one.removesuffix(".inf")), one))
    return infs[own].version, all(one.signed for one in programs)


def _unpack(iso: Path, digest: str, directory: Path) -> dict[str, Any]:
    """Fill ``directory``; the manifest."""
    members = chosen(parse_listing(_bsdtar(["-tvf", str(iso)], MAX_LISTING_BYTES).decode("utf-8", "replace")))
    with tempfile.TemporaryDirectory(prefix="content-", dir=directory.parent) as content:
        names = sorted({member.source for member in members})
        if names:
            list_file = Path(content, "names")
            list_file.write_text("".join(f"{name}\n" for name in names))
            top = Path(content, "files")
            top.mkdir(mode=0o700)
            options = ["--no-same-owner", "--no-same-permissions", "-xf", str(iso), "-C", str(top)]
            _bsdtar([*options, "-T", str(list_file)], MAX_LISTING_BYTES)
            for member in members:
                _place(top / member.source, directory / _stored_path(member.name))
    manifest = _manifest(directory, {_stored_path(member.name) for member in members})
    if not manifest["drivers"]:
        raise InvalidInput(f"{iso} holds no usable virtio driver for Windows{_why(manifest['refused'])}")
    return {"format": FORMAT, "source": f"{iso.name}, sha256 {digest[:16]}", **manifest}


def _stored_path(name: str) -> str:
    """Where a member lies in the pack: known folders in the case that this code uses."""
    parts = name.split("/")
    if len(parts) != 4:
        return name.lower()
    driver = next(one for one in VIRTIO_DRIVERS if one.lower() == parts[0].lower())
    return "/".join((driver, parts[1], parts[2].lower(), parts[3]))


def _manifest(directory: Path, paths: set[str]) -> dict[str, Any]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for path in sorted(paths):
        if path.count("/") == 3:
            groups.setdefault(tuple(path.split("/")[:3]), []).append(path.rpartition("/")[2])
    drivers, refused = [], []
    for (driver, folder, architecture), names in groups.items():
        where = directory / driver / folder / architecture
        files = {name: (where / name).read_bytes() for name in names}
        try:
            version, signed = checked_driver(driver, architecture, files)
        except Corrupt as error:
            refused.append({"where": f"{driver}/{folder}/{architecture}", "reason": error.message})
            shutil.rmtree(where)
            continue
        described = {name: _described(data) for name, data in files.items()}
        drivers.append(
            {
                "driver": driver,
                "folder": folder,
                "architecture": architecture,
                "version": version,
                "embedded_signature": signed,
                "files": described,
            }
        )
    agents = {
        architecture: {"path": path, **_described((directory / path).read_bytes())}
        for path, architecture in AGENTS.items()
        if path in paths
    }
    return {"drivers": drivers, "agents": agents, "refused": refused}


def _described(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def _place(source: Path, target: Path) -> None:
    """A copy of a regular file; hard links of the image share it."""
    if source.is_symlink() or not source.is_file():
        raise Corrupt(f"the ISO's {shown(source.name)} is no regular file")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(source, target)
    target.chmod(0o600)


def _why(refused: Sequence[Mapping[str, str]]) -> str:
    return f": {refused[0]['where']}: {refused[0]['reason']}" if refused else ""


def _plain(name: str) -> str:
    return PurePosixPath(name).as_posix()


def _digest(iso: Path) -> str:
    try:
        if iso.stat().st_size > MAX_ISO_BYTES:
            raise QuotaExceeded(f"{iso} has more than {MAX_ISO_BYTES} bytes")
        if not iso.is_file():
            raise InvalidInput(f"{iso} is no file")
        with open(iso, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidInput(f"{iso} cannot be read: {error.strerror}") from error


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with open(directory / "lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bsdtar(arguments: Sequence[str], limit: int) -> bytes:
    """Its output. It gets no environment but a UTF-8 locale, so that names are not rewritten."""
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    try:
        done = subprocess.run(
            ["bsdtar", *arguments], capture_output=True, timeout=TIMEOUT_S, env=environment, check=False
        )
    except FileNotFoundError as error:
        raise Unavailable("bsdtar is not installed (Debian: libarchive-tools), virtio-win ISOs need it") from error
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"the ISO was not read within {TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        words = shown(done.stderr.decode("utf-8", "replace").strip())
        raise InvalidInput(f"the virtio-win ISO cannot be read: {words}")
    if len(done.stdout) > limit:
        raise QuotaExceeded("the ISO's listing is too long")
    return done.stdout
