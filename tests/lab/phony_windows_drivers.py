"""A phony virtio-win: the layout and names of the real ISO, do-nothing programs, catalogues with their true digests."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

MACHINES = {"amd64": 0x8664, "x86": 0x14C}
DRIVERS = {  # folder: (file name, class, class GUID, legacy and modern device)
    "viostor": ("viostor", "SCSIAdapter", "{4D36E97B-E325-11CE-BFC1-08002BE10318}", "1001", "1042"),
    "vioscsi": ("vioscsi", "SCSIAdapter", "{4D36E97B-E325-11CE-BFC1-08002BE10318}", "1004", "1048"),
    "NetKVM": ("netkvm", "Net", "{4D36E972-E325-11CE-BFC1-08002BE10318}", "1000", "1041"),
    "Balloon": ("balloon", "System", "{4D36E97D-E325-11CE-BFC1-08002BE10318}", "1002", "1045"),
    "vioserial": ("vioser", "System", "{4D36E97D-E325-11CE-BFC1-08002BE10318}", "1003", "1043"),
    "viorng": ("viorng", "System", "{4D36E97D-E325-11CE-BFC1-08002BE10318}", "1005", "1044"),
}
FOLDERS = ("w7", "w8", "w8.1", "w10", "w11", "2k8R2", "2k12", "2k12R2", "2k16", "2k19", "2k22", "2k25")
WITH_X86 = ("w7", "w8", "w8.1", "w10")
VERSION = "100.95.104.26200"


def program(machine: int = 0x8664, *, signed: bool = False, mark: bytes = b"") -> bytes:
    """The smallest PE file that tools tell the architecture of: ``ret``. ``signed``: with a certificate table."""
    plus = machine != 0x14C
    optional = struct.pack("<HBBIIIII", 0x20B if plus else 0x10B, 14, 0, 512, 0, 0, 0x1000, 0x1000)
    optional += struct.pack("<Q", 0x140000000) if plus else struct.pack("<II", 0x2000, 0x400000)
    optional += struct.pack("<IIHHHHHHIIIIHH", 0x1000, 0x200, 10, 0, 10, 0, 10, 0, 0, 0x2000, 0x200, 0, 1, 0)
    optional += struct.pack("<QQQQ" if plus else "<IIII", 0x100000, 0x1000, 0x100000, 0x1000) + struct.pack(
        "<II", 0, 16
    )
    certificate = struct.pack("<IHH", 16, 0x200, 2) + b"phony!!!"
    directories = bytearray(128)
    if signed:
        struct.pack_into("<II", directories, 32, 0x400, len(certificate))
    optional += bytes(directories)
    head = struct.pack("<HHIIIHH", machine, 1, 0, 0, 0, len(optional), 0x22 if plus else 0x102)
    section = struct.pack("<8sIIIIIIHHI", b".text", 1, 0x1000, 0x200, 0x200, 0, 0, 0, 0, 0x60000020)
    image = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80)
    image = (image.ljust(0x80, b"\0") + b"PE\0\0" + head + optional + section).ljust(0x200, b"\0")
    return image + (b"\xc3" + mark).ljust(0x200, b"\0") + (certificate if signed else b"")


def image_digest(data: bytes, signed: bool) -> bytes:
    """What a catalogue says of a program made by ``program``: all but checksum, table entry and certificate."""
    optional = 0x80 + 24
    directories = optional + (112 if data[optional + 1] == 2 and data[optional] == 0x0B else 96)
    entry = directories + 32
    end = 0x400 if signed else len(data)
    return hashlib.sha256(data[: optional + 64] + data[optional + 68 : entry] + data[entry + 8 : end]).digest()


def catalogue(*digests: bytes) -> bytes:
    """Begins as signed data does; nothing has signed it."""
    body = bytes.fromhex("06092a864886f70d010702") + b"phony catalogue" + b"".join(digests)
    return b"\x30\x82" + struct.pack(">H", len(body)) + body


def inf(name: str, kind: str, guid: str, old: str, new: str) -> bytes:
    text = f"""; phony {name}.inf: a stand-in for tests, not a driver
[Version]
Signature="$WINDOWS NT$"
Class={kind}
ClassGuid={guid}
Provider="Phony virtio-win"
CatalogFile={name}.cat
DriverVer=01/01/2024,{VERSION}

[SourceDisksFiles]
{name}.sys = 1,,

[Manufacturer]
"Phony"=Phony,NTamd64,NTx86

[Phony.NTamd64]
"{name} (legacy)"=inst,PCI\\VEN_1AF4&DEV_{old}
"{name} (modern)"=inst,PCI\\VEN_1AF4&DEV_{new}
"""
    return text.replace("\n", "\r\n").encode()


def driver_files(folder: str, architecture: str = "amd64", *, signed: bool = True) -> dict[str, bytes]:
    """The files of one driver's directory."""
    name, kind, guid, old, new = DRIVERS[folder]
    sys_file = program(MACHINES[architecture], signed=signed, mark=folder.encode())
    return {
        f"{name}.sys": sys_file,
        f"{name}.inf": inf(name, kind, guid, old, new),
        f"{name}.cat": catalogue(image_digest(sys_file, signed)),
        f"{name}.pdb": b"symbols that nobody needs in a guest",
    }


def tree(folders: Sequence[str] = FOLDERS) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the ISO."""
    for driver in DRIVERS:
        for folder in folders:
            for architecture in ("amd64", "x86") if folder in WITH_X86 else ("amd64",):
                for name, data in driver_files(driver, architecture).items():
                    yield f"{driver}/{folder}/{architecture}/{name}", data
    for name in ("qemu-ga-x86_64.msi", "qemu-ga-i386.msi"):
        yield f"guest-agent/{name}", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1phony msi"
    yield "virtio-win_license.txt", b"phony\n"


def make_iso(iso: Path, directory: Path, folders: Sequence[str] = FOLDERS) -> None:
    """Write the tree below ``directory`` and the ISO. Equal files are one file, as on the real ISO."""
    known: dict[bytes, Path] = {}
    for name, data in tree(folders):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data in known:
            path.hardlink_to(known[data])
        else:
            path.write_bytes(data)
            known[data] = path
    command = ["genisoimage", "-quiet", "-J", "-r", "-V", "virtio-win", "-o", str(iso), str(directory)]
    subprocess.run(command, check=True)
