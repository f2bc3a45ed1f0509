"""Backup jobs and checkpoints as libvirt's XML, and the names that make a job recognisable as ours. Pure.

libvirt keeps no name for a backup job. The scratch file names carry the snapshot's name and a nonce, so that a child
process that replaces a killed one finds the same job, and a job that was lost and made again differs.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET

import msgspec

PREFIX = "coriolis-"
_SEPARATOR = "@"
SCRATCH_SUFFIX = ".scratch"
BITMAP_FORMATS = frozenset({"qcow2"})
"""Formats that can keep a persistent dirty bitmap, thus a change log."""


class JobDisk(msgspec.Struct, frozen=True):
    """A disk in a running job. ``incremental`` and ``bitmap`` are empty for a full backup."""

    target: str
    export: str
    incremental: str = ""
    bitmap: str = ""
    scratch: str = ""


class Job(msgspec.Struct, frozen=True):
    """A running pull-mode backup job. ``name`` is empty when it is not ours."""

    name: str
    nonce: str
    socket: str
    disks: tuple[JobDisk, ...]

    def disk(self, target: str) -> JobDisk | None:
        return next((disk for disk in self.disks if disk.target == target), None)


def scratch_name(uuid: str, name: str, nonce: str, target: str) -> str:
    """File name of a disk's scratch file."""
    return _SEPARATOR.join((uuid, name, nonce, target)) + SCRATCH_SUFFIX


def parse_scratch_name(path: str) -> tuple[str, str, str, str] | None:
    """(domain uuid, snapshot name, nonce, target), or None for a foreign file."""
    name = os.path.basename(path)
    parts = name.removesuffix(SCRATCH_SUFFIX).split(_SEPARATOR)
    if not name.endswith(SCRATCH_SUFFIX) or len(parts) != 4 or not parts[1].startswith(PREFIX):
        return None
    return parts[0], parts[1], parts[2], parts[3]


def socket_path(folder: str, nonce: str) -> str:
    """Unix socket of a job; short, since the kernel allows 107 bytes."""
    return os.path.join(folder, f"{nonce}.sock")


def backup_xml(
    folder: str, uuid: str, name: str, nonce: str, disks: dict[str, bool], others: tuple[str, ...], base: str
) -> str:
    """``disks`` maps each target to whether it keeps bitmaps; with ``base`` those are backed up incrementally."""
    root = ET.Element("domainbackup", mode="pull")
    if base:
        ET.SubElement(root, "incremental").text = base
    ET.SubElement(root, "server", transport="unix", socket=socket_path(folder, nonce))
    listed = ET.SubElement(root, "disks")
    for target, keeps_bitmaps in disks.items():
        attributes = {"name": target, "backup": "yes", "type": "file", "exportname": target}
        if base and keeps_bitmaps:
            attributes |= {"backupmode": "incremental", "incremental": base, "exportbitmap": f"coriolis-{target}"}
        else:
            attributes["backupmode"] = "full"
        disk = ET.SubElement(listed, "disk", attributes)
        ET.SubElement(disk, "scratch", file=os.path.join(folder, scratch_name(uuid, name, nonce, target)))
    for target in others:
        ET.SubElement(listed, "disk", name=target, backup="no")
    return ET.tostring(root, encoding="unicode")


def checkpoint_xml(name: str, disks: dict[str, bool], others: tuple[str, ...]) -> str:
    """A checkpoint on the disks that keep bitmaps; empty when none does."""
    if not any(disks.values()):
        return ""
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = name
    listed = ET.SubElement(root, "disks")
    for target, keeps_bitmaps in [*disks.items(), *((target, False) for target in others)]:
        ET.SubElement(listed, "disk", name=target, checkpoint="bitmap" if keeps_bitmaps else "no")
    return ET.tostring(root, encoding="unicode")


def parse_backup(text: str) -> Job:
    """The job that ``virDomainBackupGetXMLDesc`` describes."""
    root = ET.fromstring(text)
    server = root.find("server")
    disks, name, nonce = [], "", ""
    for element in root.findall("disks/disk"):
        if element.get("backup") != "yes":
            continue
        scratch = element.find("scratch")
        path = "" if scratch is None else scratch.get("file", "")
        known = parse_scratch_name(path)
        if known is not None:
            _, name, nonce, _ = known
        disks.append(
            JobDisk(
                element.get("name", ""),
                element.get("exportname", ""),
                element.get("incremental", ""),
                element.get("exportbitmap", ""),
                path,
            )
        )
    return Job(name, nonce, "" if server is None else server.get("socket", ""), tuple(disks))


def parse_checkpoint(text: str) -> dict[str, str]:
    """Disk target -> bitmap name of a checkpoint."""
    root = ET.fromstring(text)
    return {
        disk.get("name", ""): disk.get("bitmap", "") or root.findtext("name", "")
        for disk in root.findall("disks/disk")
        if disk.get("checkpoint") == "bitmap"
    }
