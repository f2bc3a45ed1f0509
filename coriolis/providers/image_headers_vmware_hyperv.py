"""Reads the headers of VMDK and VHDX images and refuses parents, further files, flat extents and false sizes.

Pure, like ``image_headers``. Layouts: VMware "Virtual Disk Format 5.0"; Microsoft MS-VHDX.
"""

from __future__ import annotations

import re
import struct
import uuid

from coriolis.errors import HostileImage, Unsupported
from coriolis.providers.image_headers import View

SECTOR = 512

# --- VMDK ------------------------------------------------------------------------------------------------------

VMDK_MAX_DESCRIPTOR_BYTES = 1 << 20
VMDK_MAX_DIRECTORY_BYTES = 64 << 20
VMDK_KINDS = frozenset({"monolithicsparse", "streamoptimized"})
_VMDK_HEADER = struct.Struct("<4sIIQQQQIQQ")
_GD_AT_END = 0xFFFFFFFFFFFFFFFF
_FOOTER_FROM_END = 1024
_EXTENT = re.compile(r'^(rw|rdonly|noaccess)\s+(\d+)\s+(\w+)\s+"([^"]*)"(\s+\d+)?$')


def check_vmdk(view: View) -> int:
    """Virtual size of a monolithicSparse or streamOptimized VMDK that is one file without a parent."""
    raw = view.exact(0, SECTOR, "VMDK header")
    if raw[:4] != b"KDMV":
        raise HostileImage("the VMDK is a text descriptor or an old format that refers to other files")
    head = _VMDK_HEADER.unpack_from(raw)
    _, version, _, capacity, grain, descriptor_at, descriptor_sectors, entries, _, directory_at = head
    if version not in (1, 2, 3):
        raise Unsupported(f"VMDK version {version} is not supported")
    if descriptor_sectors * SECTOR > VMDK_MAX_DESCRIPTOR_BYTES:
        raise HostileImage(f"the VMDK states a descriptor of {descriptor_sectors * SECTOR} bytes")
    if descriptor_at != 1 or descriptor_sectors == 0:
        raise Unsupported("the VMDK has no embedded descriptor right after its header")
    if directory_at == _GD_AT_END:
        directory_at = _check_vmdk_footer(view, head)
    if not 1 <= entries <= 512 or not 8 <= grain <= 1 << 16 or grain & (grain - 1):
        raise HostileImage(f"the VMDK states grains of {grain} sectors and tables of {entries} entries")
    directory_bytes = -(-capacity // (entries * grain)) * 4
    if directory_bytes > VMDK_MAX_DIRECTORY_BYTES or directory_at * SECTOR + directory_bytes > view.length:
        raise HostileImage(f"the VMDK declares {capacity * SECTOR} bytes but its directory cannot address them")
    text = view.exact(SECTOR, descriptor_sectors * SECTOR, "VMDK descriptor")
    check_vmdk_descriptor(text.split(b"\0", 1)[0].decode("latin-1"), capacity)
    return int(capacity) * SECTOR


def _check_vmdk_footer(view: View, head: tuple[int, ...]) -> int:
    """Grain directory sector that the footer states. qemu believes the footer, so it must repeat the header."""
    raw = view.exact(view.length - _FOOTER_FROM_END, SECTOR, "VMDK footer")
    foot = _VMDK_HEADER.unpack_from(raw)
    if foot[:8] != head[:8] or foot[9] == _GD_AT_END:
        raise HostileImage("header and footer of the VMDK disagree")
    return int(foot[9])


def check_vmdk_descriptor(text: str, capacity: int) -> None:
    """Raise HostileImage unless the descriptor describes this one file without a parent. ``capacity`` in sectors."""
    fields: dict[str, str] = {}
    extents: list[re.Match[str]] = []
    for line in (part.strip().lower() for part in text.splitlines()):
        if not line or line.startswith(("#", "ddb.")):
            continue
        extent = _EXTENT.match(line)
        if extent:
            extents.append(extent)
        elif re.match(r"^\w+\s*=", line):
            key, value = line.split("=", 1)
            fields[key.strip()] = value.strip().strip('"')
        else:
            raise HostileImage("the VMDK descriptor has a line that is neither a field nor an extent")
    if fields.get("createtype") not in VMDK_KINDS:
        kind = fields.get("createtype", "")[:40]
        raise HostileImage(f"VMDK type {kind!r} keeps its data in other files or is unknown")
    if fields.get("parentcid", "ffffffff") != "ffffffff" or "parentfilenamehint" in fields:
        raise HostileImage("the VMDK has a parent: consolidate its snapshots before migration")
    if len(extents) != 1 or extents[0][3] != "sparse" or re.search(r"[/\\]", extents[0][4]):
        raise HostileImage("the VMDK must have exactly one sparse extent, in its own file")
    if int(extents[0][2]) != capacity:
        raise HostileImage("header and descriptor of the VMDK state different sizes")


# --- VHDX ------------------------------------------------------------------------------------------------------

VHDX_MAX_REGIONS = 16
VHDX_MAX_METADATA_ITEMS = 64
VHDX_MAX_TABLE_BYTES = 64 << 20
_REGION_TABLES = (192 << 10, 256 << 10)
_REGION_TABLE_BYTES = 64 << 10


def _guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


_BAT = _guid("2DC27766-F623-4200-9D64-115E9BFD4A08")
_METADATA = _guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")
_FILE_PARAMETERS = _guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
_DISK_SIZE = _guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
_PARENT_LOCATOR = _guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
_HAS_PARENT = 2


def _regions(view: View) -> dict[bytes, tuple[int, int]]:
    """Offset and length of each region, from the region table."""
    first, second = (view.exact(at, _REGION_TABLE_BYTES, "VHDX region table") for at in _REGION_TABLES)
    if first[:4] != b"regi":
        raise HostileImage("the VHDX has no region table")
    if second != first:
        raise HostileImage("the two region tables of the VHDX disagree")
    (count,) = struct.unpack_from("<I", first, 8)
    if count > VHDX_MAX_REGIONS:
        raise HostileImage(f"the VHDX states {count} regions")
    found: dict[bytes, tuple[int, int]] = {}
    for index in range(count):
        kind, offset, length, required = struct.unpack_from("<16sQII", first, 16 + 32 * index)
        if kind in found or (kind not in (_BAT, _METADATA) and required & 1):
            raise HostileImage("the VHDX has a region that is repeated, or required but unknown")
        found[kind] = (offset, length)
    if _BAT not in found or _METADATA not in found:
        raise HostileImage("the VHDX lacks its allocation or metadata region")
    return found


def metadata_end(view: View) -> int:
    """Where the metadata region of a VHDX ends, in bytes."""
    offset, length = _regions(view)[_METADATA]
    return offset + length


def check_vhdx(view: View) -> int:
    """Virtual size of a VHDX without a parent."""
    regions = _regions(view)
    offset, length = regions[_METADATA]
    table = view.exact(offset, min(length, _REGION_TABLE_BYTES), "VHDX metadata")
    if table[:8] != b"metadata":
        raise HostileImage("the VHDX has no metadata table")
    (count,) = struct.unpack_from("<H", table, 10)
    if count > VHDX_MAX_METADATA_ITEMS:
        raise HostileImage(f"the VHDX states {count} metadata items")
    items: dict[bytes, tuple[int, int]] = {}
    for index in range(count):
        kind, item_at, item_length = struct.unpack_from("<16sII", table, 32 + 32 * index)
        items[kind] = (offset + item_at, item_length)
    if _FILE_PARAMETERS not in items or _DISK_SIZE not in items:
        raise HostileImage("the VHDX does not state its size")
    block, flags = struct.unpack("<II", view.exact(items[_FILE_PARAMETERS][0], 8, "VHDX parameters"))
    if flags & _HAS_PARENT or _PARENT_LOCATOR in items:
        raise HostileImage("the VHDX is a differencing disk: merge it into its parent before migration")
    (size,) = struct.unpack("<Q", view.exact(items[_DISK_SIZE][0], 8, "VHDX size"))
    _check_vhdx_table(view, regions[_BAT], block, size)
    return int(size)


def _check_vhdx_table(view: View, table: tuple[int, int], block: int, size: int) -> None:
    if block & (block - 1) or not 1 << 20 <= block <= 256 << 20:
        raise HostileImage(f"the VHDX states blocks of {block} bytes")
    offset, length = table
    if length > VHDX_MAX_TABLE_BYTES or offset + length > view.length or -(-size // block) * 8 > length:
        raise HostileImage(f"the VHDX declares {size} bytes but its allocation table cannot address them")
