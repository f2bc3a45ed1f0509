"""The disks of a guest by every name that the guest may give them. Pure.

libguestfs calls disks ``/dev/sda``, ``/dev/sdb``, ... in boot order; a guest names them by bus, path, maker, UUID,
label, or by what device-mapper and md make of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from coriolis.convert.linux import bootfiles, detect

MAX_NAME_CHARS = 1024
_TAGS = ("UUID", "LABEL", "PARTUUID", "PARTLABEL")
_BY_NAME = {f"/dev/disk/by-{tag.lower()}/": tag for tag in _TAGS}
_PART_OF_DISK = re.compile(
    r"/dev/disk/by-(?:path|id)/.*?(?:-part(\d{1,3}))?|/dev/mapper/mpath[a-z]+(?:(?:p|-part)?(\d{1,3}))?"
)
_UUID = re.compile(r"[0-9A-Za-z-]{1,64}")


@dataclass(slots=True)
class Devices:
    """``tags``: appliance device -> its TYPE, UUID, LABEL, PARTUUID, PARTLABEL, those it has.

    ``aliases``: names that the guest's own files give to an appliance device. ``disks``: how many whole disks.
    """

    tags: Mapping[str, Mapping[str, str]]
    disks: int
    aliases: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> str | None:
        """The appliance's device for a guest's name; None when no disk or more than one has it."""
        if len(name) > MAX_NAME_CHARS:
            return None
        name = name.strip("\"'")
        tag, value = self._tagged(name)
        if tag:
            found = [device for device, has in self.tags.items() if same_tag(tag, has.get(tag, ""), value)]
            spread = all(self.tags[device].get("TYPE") == "btrfs" for device in found)  # one file system, many devices
            return found[0] if found and (len(found) == 1 or spread) else None
        if name in self.aliases:
            return self.aliases[name]
        part = _PART_OF_DISK.fullmatch(name) if re.fullmatch(bootfiles.BUS_NAME, name) else None
        if part and self.disks == 1:  # with one disk, every path and every maker's name means that one
            name = f"/dev/sda{part[1] or part[2] or ''}"
        for device in (name, detect.appliance_device(name), detect.same_lvm(name)):
            if device in self.tags:
                return device
        return None

    def uuid_of(self, name: str) -> str | None:
        """UUID of what ``name`` means; None when unknown, or when another device claims it too."""
        device = self.find(name)
        uuid = self.tags[device].get("UUID", "") if device else ""
        if not _UUID.fullmatch(uuid) or uuid in self.doubled():
            return None
        return uuid

    def doubled(self) -> list[str]:
        """UUIDs that more than one device claims: the kernel would take either, so they are nobody's."""
        members = ("linux_raid_member", "LVM2_member", "btrfs")  # several devices of one array share its UUID
        claims = [has["UUID"] for has in self.tags.values() if has.get("UUID") and has.get("TYPE") not in members]
        return sorted(uuid for uuid, count in Counter(claims).items() if count > 1)

    @staticmethod
    def _tagged(name: str) -> tuple[str, str]:
        for prefix, tag in (*((f"{tag}=", tag) for tag in _TAGS), *_BY_NAME.items()):
            if name.startswith(prefix):
                value = name.removeprefix(prefix).strip("\"'")
                return tag, re.sub(r"\\x([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), value)
        return "", ""


def same_tag(tag: str, one: str, other: str) -> bool:
    """Whether two values mean the same; UUIDs do whatever their case."""
    return bool(one) and (one.lower() == other.lower() if tag.endswith("UUID") else one == other)


def mapped_names(crypttab: str, opened: Mapping[str, str], find: detect.Resolve) -> dict[str, str]:
    """``/dev/mapper/NAME`` of each line of crypttab -> the appliance's device of the opened one.

    ``opened``: encrypted device -> what it became when it was opened.
    """
    found = {}
    for line in crypttab.splitlines():
        fields = line.split("#", 1)[0].split()
        device = find(fields[1]) if len(fields) > 1 else None
        if device is not None and device in opened:
            found[f"/dev/mapper/{fields[0]}"] = opened[device]
    return found


def array_names(mdadm_conf: str, arrays: Mapping[str, str]) -> dict[str, str]:
    """The guest's name of each array of ``mdadm.conf`` -> the appliance's. ``arrays``: UUID -> appliance device."""
    found = {}
    for match in re.finditer(r"(?mi)^[ \t]*ARRAY[ \t]+(\S+)([^\n]*(?:\n[ \t]+[^\n]*)*)", mdadm_conf):
        uuid = re.search(r"(?i)\buuid=([0-9a-f:]+)", match[2])
        device = arrays.get(uuid[1].lower().replace(":", "")) if uuid else None
        if device:
            found[match[1]] = device
            number = re.fullmatch(r"/dev/md/?(\d+)", match[1])
            if number:
                found |= {f"/dev/md{number[1]}": device, f"/dev/md/{number[1]}": device}
    return found
