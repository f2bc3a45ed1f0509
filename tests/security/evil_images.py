"""Builds hostile disk images from bytes, without any tool. Each names what it tries."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import NamedTuple

CLUSTER = 65536
MIB = 1 << 20


class Evil(NamedTuple):
    """``stated``: the format somebody claims for the bytes that ``build`` gives."""

    name: str
    stated: str
    build: Callable[[], bytes]


def qcow2(
    *,
    size: int = MIB,
    version: int = 3,
    backing: str = "",
    incompatible: int = 0,
    crypt: int = 0,
    l1_size: int = 1,
    l1_offset: int = 3 * CLUSTER,
    refcount_clusters: int = 1,
    cluster_bits: int = 16,
    snapshots: int = 0,
    extensions: bytes = b"",
    magic: bytes = b"QFI\xfb",
) -> bytes:
    """A minimal qcow2 image, correct unless told otherwise."""
    name = backing.encode()
    backing_at = 4096 if backing else 0
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", magic, version, backing_at, len(name), cluster_bits, size & 0xFFFFFFFFFFFFFFFF, crypt,
        l1_size, l1_offset, CLUSTER, refcount_clusters, snapshots, 0,
    )  # fmt: skip
    if version == 3:
        head += struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    image = bytearray(4 * CLUSTER)
    image[: len(head)] = head
    image[len(head) : len(head) + len(extensions)] = extensions
    image[backing_at : backing_at + len(name)] = name if backing else b""
    struct.pack_into(">Q", image, CLUSTER, 2 * CLUSTER)
    struct.pack_into(">4H", image, 2 * CLUSTER, 1, 1, 1, 1)
    return bytes(image)


def _extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


def vmdk(
    *,
    kind: str = "monolithicSparse",
    extents: str = 'RW 2048 SPARSE "disk.vmdk"',
    parent: str = "",
    capacity: int = 2048,
    descriptor_sectors: int = 20,
    entries: int = 512,
    extra: str = "",
) -> bytes:
    """A sparse VMDK with an embedded descriptor."""
    head = struct.pack("<4sIIQQQQIQQ", b"KDMV", 1, 3, capacity, 128, 1, descriptor_sectors, entries, 21, 26)
    text = f'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID={parent or "ffffffff"}\ncreateType="{kind}"\n'
    text += f"{extra}\n{extents}\n# The Disk Data Base\n"
    image = bytearray(128 * 512)
    image[: len(head)] = head
    image[512 : 512 + len(text)] = text.encode()
    return bytes(image)


def vmdk_descriptor(extents: str) -> bytes:
    """A text descriptor, which refers to other files by nature."""
    text = f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n{extents}\n'
    return text.encode().ljust(1024, b"\n")


def vmdk_large_descriptor() -> bytes:
    return vmdk(descriptor_sectors=40960) + bytes(20 * MIB)


def vhd(*, kind: int = 3, size: int = 2 * MIB, parent: bool = False, entries: int = 1, block: int = 2 * MIB) -> bytes:
    """A dynamic VHD: footer, dynamic header, table, footer."""
    footer = bytearray(512)
    header_at = 512 if kind != 2 else 0xFFFFFFFFFFFFFFFF
    struct.pack_into(
        ">8sIIQI4sI4sQQ", footer, 0, b"conectix", 2, 0x10000, header_at, 0, b"win ", 0x60000, b"Wi2k",
        size & 0xFFFFFFFFFFFFFFFF, size & 0xFFFFFFFFFFFFFFFF,
    )  # fmt: skip
    struct.pack_into(">I", footer, 60, kind)
    struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFFFFFF)
    header = bytearray(1024)
    struct.pack_into(">8sQQIII", header, 0, b"cxsparse", 0xFFFFFFFFFFFFFFFF, 1536, 0x10000, entries, block)
    if parent or kind == 4:
        header[40:56] = uuid.NAMESPACE_OID.bytes
    struct.pack_into(">I", header, 36, ~sum(header) & 0xFFFFFFFF)
    return bytes(footer + header + b"\xff" * 512 + footer)


_META = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
_BAT = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
_PARAMETERS = uuid.UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
_SIZE = uuid.UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8").bytes_le
_PARENT = uuid.UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le


def vhdx(*, size: int = 4 * MIB, flags: int = 0, locator: bool = False, regions: int = 2) -> bytes:
    """A VHDX with one metadata and one allocation region."""
    image = bytearray(4 * MIB)
    image[:8] = b"vhdxfile"
    for at in (64 << 10, 128 << 10):
        image[at : at + 4] = b"head"
    for at in (192 << 10, 256 << 10):
        struct.pack_into("<4sII", image, at, b"regi", 0, regions)
        struct.pack_into("<16sQII", image, at + 16, _BAT, 3 * MIB, MIB, 1)
        struct.pack_into("<16sQII", image, at + 48, _META, 2 * MIB, MIB, 1)
        for index in range(2, min(regions, 2047)):
            struct.pack_into("<16sQII", image, at + 16 + 32 * index, uuid.uuid5(uuid.NAMESPACE_OID, str(index)).bytes,
                             3 * MIB, MIB, 0)  # fmt: skip
    items = [(_PARAMETERS, 65536, 8), (_SIZE, 65544, 8)] + ([(_PARENT, 65552, 64)] if locator else [])
    struct.pack_into("<8sHH", image, 2 * MIB, b"metadata", 0, len(items))
    for index, (kind, at, length) in enumerate(items):
        struct.pack_into("<16sIII", image, 2 * MIB + 32 + 32 * index, kind, at, length, 6)
    struct.pack_into("<II", image, 2 * MIB + 65536, MIB, flags)
    struct.pack_into("<Q", image, 2 * MIB + 65544, size & 0xFFFFFFFFFFFFFFFF)
    return bytes(image)


def references(canary: str) -> list[Evil]:
    """Images that try to reach the file ``canary`` or another file or host."""
    chain = _extension(0xE2792ACA, b"raw")
    data_file = _extension(0x44415441, canary.encode())
    luks = _extension(0x0537BE77, struct.pack(">QQ", 4096, 4096))
    flat = f'RW 2048 FLAT "{canary}" 0'
    return [
        Evil("qcow2-backing-path", "qcow2", lambda: qcow2(backing=canary)),
        Evil("qcow2-backing-relative", "qcow2", lambda: qcow2(backing="../secret")),
        Evil("qcow2-backing-json", "qcow2", lambda: qcow2(backing=f'json:{{"driver":"file","filename":"{canary}"}}')),
        Evil("qcow2-backing-nbd", "qcow2", lambda: qcow2(backing="nbd://127.0.0.1:10809/")),
        Evil("qcow2-backing-v2", "qcow2", lambda: qcow2(version=2, backing=canary)),
        Evil("qcow2-backing-format", "qcow2", lambda: qcow2(backing=canary, extensions=chain)),
        Evil("qcow2-data-file-bit", "qcow2", lambda: qcow2(incompatible=4, extensions=data_file)),
        Evil("qcow2-data-file-name", "qcow2", lambda: qcow2(extensions=data_file)),
        Evil("qcow2-unknown-feature", "qcow2", lambda: qcow2(incompatible=1 << 17)),
        Evil("qcow2-corrupt", "qcow2", lambda: qcow2(incompatible=2)),
        Evil("qcow2-encrypted-aes", "qcow2", lambda: qcow2(crypt=1)),
        Evil("qcow2-encrypted-luks", "qcow2", lambda: qcow2(crypt=2, extensions=luks)),
        Evil("qcow2-luks-extension", "qcow2", lambda: qcow2(extensions=luks)),
        Evil("qcow1", "qcow2", lambda: qcow2(version=1)),
        Evil("vmdk-flat-absolute", "vmdk", lambda: vmdk_descriptor(flat)),
        Evil("vmdk-flat-embedded", "vmdk", lambda: vmdk(kind="monolithicFlat", extents=flat)),
        Evil("vmdk-flat-in-sparse", "vmdk", lambda: vmdk(extents=flat)),
        Evil("vmdk-two-extents", "vmdk", lambda: vmdk(extents='RW 1024 SPARSE "a"\nRW 1024 SPARSE "b"')),
        Evil("vmdk-extent-path", "vmdk", lambda: vmdk(extents=f'RW 2048 SPARSE "{canary}"')),
        Evil("vmdk-parent", "vmdk", lambda: vmdk(parent="1234abcd", extra=f'parentFileNameHint="{canary}"')),
        Evil("vmdk-parent-hint", "vmdk", lambda: vmdk(extra=f'parentFileNameHint="{canary}"')),
        Evil("vmdk-custom", "vmdk", lambda: vmdk(kind="custom")),
        Evil("vhd-differencing", "vhd", lambda: vhd(kind=4)),
        Evil("vhd-parent-id", "vhd", lambda: vhd(parent=True)),
        Evil("vhdx-parent-flag", "vhdx", lambda: vhdx(flags=2)),
        Evil("vhdx-parent-locator", "vhdx", lambda: vhdx(locator=True)),
        Evil("qed", "qed", lambda: qcow2(magic=b"QED\0")),
        Evil("qed-as-qcow2", "qcow2", lambda: qcow2(magic=b"QED\0")),
        Evil("qcow2-as-vmdk", "vmdk", qcow2),
        Evil("raw-as-qcow2", "qcow2", lambda: bytes(MIB)),
        Evil("raw-as-vhd", "vhd", lambda: bytes(MIB)),
        Evil("vdi", "vdi", lambda: bytes(64) + b"\x7f\x10\xda\xbe" + bytes(4096)),
    ]


def sizes() -> list[Evil]:
    """Images that declare sizes or tables meant to exhaust whoever opens them."""
    declared = {"2PiB": 2 << 50, "8EiB": 8 << 60, "2^63": 1 << 63, "negative": -512, "0": 0}
    evil = [Evil(f"qcow2-size-{n}", "qcow2", lambda v=v: qcow2(size=v, l1_size=1 << 22)) for n, v in declared.items()]
    evil += [Evil(f"qcow2-size-small-l1-{n}", "qcow2", lambda v=v: qcow2(size=v)) for n, v in declared.items()]
    evil += [Evil(f"vhd-size-{n}", "vhd", lambda v=v: vhd(size=v)) for n, v in declared.items()]
    evil += [Evil(f"vhdx-size-{n}", "vhdx", lambda v=v: vhdx(size=v)) for n, v in declared.items()]
    evil += [
        Evil("qcow2-l1-huge", "qcow2", lambda: qcow2(l1_size=0xFFFFFFFF)),
        Evil("qcow2-l1-beyond-file", "qcow2", lambda: qcow2(l1_offset=1 << 40)),
        Evil("qcow2-refcount-huge", "qcow2", lambda: qcow2(refcount_clusters=0x7FFFFFFF)),
        Evil("qcow2-cluster-bits", "qcow2", lambda: qcow2(cluster_bits=31)),
        Evil("qcow2-cluster-bits-0", "qcow2", lambda: qcow2(cluster_bits=0)),
        Evil("qcow2-snapshots", "qcow2", lambda: qcow2(snapshots=0xFFFFFFFF)),
        Evil("qcow2-extension-length", "qcow2", lambda: qcow2(extensions=struct.pack(">II", 0x1234, 0xFFFFFFF0))),
        Evil("vmdk-capacity", "vmdk", lambda: vmdk(capacity=1 << 60)),
        Evil("vmdk-capacity-0", "vmdk", lambda: vmdk(capacity=0, extents='RW 0 SPARSE "d"')),
        Evil("vmdk-capacity-differs", "vmdk", lambda: vmdk(capacity=4096)),
        Evil("vmdk-entries", "vmdk", lambda: vmdk(entries=0xFFFFFFFF)),
        Evil("vmdk-descriptor-20MiB", "vmdk", vmdk_large_descriptor),
        Evil("vhd-entries", "vhd", lambda: vhd(entries=0xFFFFFFFF)),
        Evil("vhd-block", "vhd", lambda: vhd(block=3)),
        Evil("vhd-fixed-short", "vhd", lambda: vhd(kind=2, size=1 << 40)),
        Evil("vhdx-regions-2047", "vhdx", lambda: vhdx(regions=2047)),
    ]
    return evil


def hidden_in_raw() -> list[Evil]:
    """Raw disks whose first bytes look like another format: they must be carried as they are."""
    pad = bytes(MIB)
    return [
        Evil("raw-qcow2", "raw", lambda: qcow2(backing="/etc/hostname")),
        Evil("raw-vmdk", "raw", lambda: vmdk_descriptor('RW 1 FLAT "/etc/hostname" 0') + pad),
        Evil("raw-luks", "raw", lambda: b"LUKS\xba\xbe\x00\x02" + pad[8:]),
        Evil("raw-vhd-footer", "raw", lambda: vhd(kind=4)),
    ]
