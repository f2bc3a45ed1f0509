"""Reads the headers of qcow2 and VHD images and refuses what could reach outside the file or lie about its size.

Pure: each check takes a bounded reader and gives the virtual size. VMDK and VHDX: ``image_headers_vmware_hyperv``.
Layouts: qemu docs/interop/qcow2.txt; Microsoft "Virtual Hard Disk Image Format Specification" 1.0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from coriolis.errors import Corrupt, HostileImage, Unsupported


class View(msgspec.Struct, frozen=True):
    """The image's bytes: ``read(offset, length)`` gives at most ``length`` bytes, fewer at the end."""

    read: Callable[[int, int], bytes]
    length: int

    def exact(self, offset: int, length: int, what: str) -> bytes:
        """``length`` bytes at ``offset``; an image that is too short for its own header raises HostileImage."""
        if offset < 0 or offset + length > self.length:
            raise HostileImage(f"the {what} lies outside the image file of {self.length} bytes")
        data = self.read(offset, length)
        if len(data) != length:
            raise Corrupt(f"the image file ended inside its {what}")
        return data


_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\x00", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"conectix", "vpc"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
)
HEAD_BYTES = 512
VHD_FOOTER_BYTES = 512


def detect(view: View) -> str:
    """Name of the format that the content shows; ``raw`` when it shows none."""
    head = view.read(0, HEAD_BYTES)
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    if b"# disk descriptorfile" in head.lower():
        return "vmdk"
    if view.length >= VHD_FOOTER_BYTES and view.read(view.length - VHD_FOOTER_BYTES, 8) == b"conectix":
        return "vpc"
    return "raw"


# --- qcow2 -----------------------------------------------------------------------------------------------------

QCOW2_MAX_L1_BYTES = 32 << 20
QCOW2_MAX_REFCOUNT_TABLE_BYTES = 8 << 20
QCOW2_MAX_SNAPSHOTS = 1024
QCOW2_MAX_EXTENSIONS = 32
_QCOW2_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_QCOW2_V3 = struct.Struct(">QQQII")
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_EXT_END, _EXT_DATA_FILE, _EXT_ENCRYPTION = 0x00000000, 0x44415441, 0x0537BE77


class _Qcow2(msgspec.Struct, frozen=True):
    version: int
    backing_offset: int
    backing_length: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_size: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    incompatible: int
    header_length: int


def _parse_qcow2(view: View) -> _Qcow2:
    v2 = _QCOW2_V2.unpack(view.exact(0, _QCOW2_V2.size, "qcow2 header"))
    (
        _,
        version,
        backing,
        backing_length,
        bits,
        size,
        crypt,
        l1_size,
        l1_offset,
        rc_offset,
        rc_clusters,
        snaps,
        _,
    ) = v2
    if version not in (2, 3):
        raise Unsupported(f"qcow version {version} is not supported: convert it to qcow2 with compat=1.1")
    incompatible, header_length = 0, _QCOW2_V2.size
    if version == 3:
        v3 = _QCOW2_V3.unpack(view.exact(_QCOW2_V2.size, _QCOW2_V3.size, "qcow2 header"))
        incompatible, header_length = v3[0], v3[4]
    return _Qcow2(
        version, backing, backing_length, bits, size, crypt, l1_size, l1_offset, rc_offset, rc_clusters, snaps,
        incompatible, header_length,
    )  # fmt: skip


def _refuse_qcow2_references(head: _Qcow2) -> None:
    if head.backing_offset or head.backing_length:
        raise HostileImage("the qcow2 image names a backing file: flatten it (qemu-img convert) before migration")
    if head.incompatible & _DATA_FILE:
        raise HostileImage("the qcow2 image keeps its data in another file: flatten it before migration")
    if head.crypt_method:
        raise Unsupported("the qcow2 image is encrypted: decrypt it before migration")
    if head.incompatible & _CORRUPT:
        raise Corrupt("the qcow2 image is marked corrupt: repair it with qemu-img check -r all")
    unknown = head.incompatible & ~(_DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2)
    if unknown:
        raise HostileImage(f"the qcow2 image needs unknown features {unknown:#x}")


def _refuse_qcow2_extensions(view: View, head: _Qcow2, cluster: int) -> None:
    position = head.header_length
    if not _QCOW2_V2.size <= position <= cluster:
        raise HostileImage(f"the qcow2 header states a length of {position} bytes")
    for _ in range(QCOW2_MAX_EXTENSIONS):
        if position + 8 > min(cluster, view.length):
            return
        kind, length = struct.unpack(">II", view.exact(position, 8, "qcow2 header extension"))
        if kind == _EXT_END:
            return
        if kind == _EXT_DATA_FILE:
            raise HostileImage("the qcow2 image names an external data file")
        if kind == _EXT_ENCRYPTION:
            raise Unsupported("the qcow2 image is encrypted: decrypt it before migration")
        if length > cluster - position - 8:
            raise HostileImage(f"a qcow2 header extension states {length} bytes, more than the header holds")
        position += 8 + (length + 7) // 8 * 8
    raise HostileImage(f"the qcow2 image has more than {QCOW2_MAX_EXTENSIONS} header extensions")


def check_qcow2(view: View) -> int:
    """Virtual size of a self-contained, unencrypted qcow2 v2 or v3 image whose tables lie inside the file."""
    head = _parse_qcow2(view)
    _refuse_qcow2_references(head)
    if not 9 <= head.cluster_bits <= 21:
        raise HostileImage(f"the qcow2 image states clusters of 2^{head.cluster_bits} bytes")
    cluster = 1 << head.cluster_bits
    if head.version == 3:
        _refuse_qcow2_extensions(view, head, cluster)
    if head.l1_size * 8 > QCOW2_MAX_L1_BYTES or head.l1_offset + head.l1_size * 8 > view.length:
        raise HostileImage(f"the qcow2 image states a first-level table of {head.l1_size} entries")
    refcount_bytes = head.refcount_clusters << head.cluster_bits
    if refcount_bytes > QCOW2_MAX_REFCOUNT_TABLE_BYTES or head.refcount_offset > view.length:
        raise HostileImage(f"the qcow2 image states a reference-count table of {refcount_bytes} bytes")
    if head.snapshots > QCOW2_MAX_SNAPSHOTS:
        raise HostileImage(f"the qcow2 image states {head.snapshots} internal snapshots")
    per_entry = cluster * (cluster // (16 if head.incompatible & _EXTENDED_L2 else 8))
    if head.size > head.l1_size * per_entry:
        raise HostileImage(f"the qcow2 image declares {head.size} bytes but its tables cannot address them")
    return head.size


# --- VHD -------------------------------------------------------------------------------------------------------

_VHD_FIXED, _VHD_DYNAMIC, _VHD_DIFFERENCING = 2, 3, 4
_VHD_MAX_TABLE_BYTES = 64 << 20


def _vhd_footer(data: bytes) -> tuple[int, int, int]:
    """(disk type, current size, offset of the dynamic header) of a checked footer."""
    (checksum,) = struct.unpack_from(">I", data, 64)
    if (~(sum(data) - sum(data[64:68]))) & 0xFFFFFFFF != checksum:
        raise Corrupt("the VHD footer fails its checksum")
    (kind,) = struct.unpack_from(">I", data, 60)
    (size,) = struct.unpack_from(">Q", data, 48)
    (header,) = struct.unpack_from(">Q", data, 16)
    return kind, size, header


def check_vhd(view: View) -> int:
    """Virtual size of a fixed or dynamic VHD. A differencing one (type 4) is refused: its parent would be ignored."""
    tail = view.exact(view.length - VHD_FOOTER_BYTES, VHD_FOOTER_BYTES, "VHD footer")
    head = view.read(0, VHD_FOOTER_BYTES)
    leading = head if head[:8] == b"conectix" else tail
    if leading[:8] != b"conectix":
        raise HostileImage("the image is stated to be a VHD but has no VHD footer")
    kind, size, header_at = _vhd_footer(leading)
    if kind == _VHD_DIFFERENCING:
        raise HostileImage("the VHD is a differencing disk: merge it into its parent before migration")
    if kind == _VHD_FIXED:
        if size + VHD_FOOTER_BYTES > view.length:
            raise HostileImage(f"the fixed VHD declares {size} bytes but the file holds {view.length}")
        return size
    if kind != _VHD_DYNAMIC:
        raise Unsupported(f"VHD type {kind} is not supported")
    if leading is tail or (tail[:8] == b"conectix" and _vhd_footer(tail)[:2] != (kind, size)):
        raise HostileImage("the two footers of the VHD disagree")
    _check_vhd_table(view, view.exact(header_at, 1024, "VHD dynamic header"), size)
    return size


def _check_vhd_table(view: View, header: bytes, size: int) -> None:
    if header[:8] != b"cxsparse":
        raise HostileImage("the dynamic VHD has no dynamic header")
    if any(header[40:56]):
        raise HostileImage("the VHD names a parent disk: merge it before migration")
    table_at, _, entries, block = struct.unpack_from(">QIII", header, 16)
    if block < 512 or block & (block - 1) or block > 1 << 30:
        raise HostileImage(f"the VHD states blocks of {block} bytes")
    if entries * 4 > _VHD_MAX_TABLE_BYTES or table_at + entries * 4 > view.length:
        raise HostileImage(f"the VHD states an allocation table of {entries} entries")
    if entries * block < size:
        raise HostileImage(f"the VHD declares {size} bytes but its table cannot address them")
