"""OVA and OVF: bounded, plain, without entities."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from coriolis.errors import CoriolisError, Corrupt, HostileImage, Unsupported
from coriolis.providers.image import ova
from coriolis.providers.image.ovf import parse_ovf, unit_bytes
from tests.contract.conftest import OVF


def archive(*members: tuple[str, bytes, bytes], fmt: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of (name, type, data)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as tar:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def index(tmp_path: Path, data: bytes) -> list[ova.Member]:
    path = tmp_path / "a.ova"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return ova.index(descriptor)
    finally:
        os.close(descriptor)


def test_members_are_found(tmp_path: Path) -> None:
    data = archive(("vm.ovf", tarfile.REGTYPE, b"<x/>"), ("d.vmdk", tarfile.REGTYPE, b"D" * 700))
    found = index(tmp_path, data)
    assert [(m.name, data[m.offset : m.offset + m.length]) for m in found] == [
        ("vm.ovf", b"<x/>"),
        ("d.vmdk", b"D" * 700),
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../up", tarfile.REGTYPE),
        ("/etc/passwd", tarfile.REGTYPE),
        ("a/b", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("hard", tarfile.LNKTYPE),
        ("dev", tarfile.CHRTYPE),
        ("dir", tarfile.DIRTYPE),
        ("fifo", tarfile.FIFOTYPE),
    ],
)
def test_members_that_are_not_plain_files(tmp_path: Path, name: str, kind: bytes) -> None:
    with pytest.raises(HostileImage):
        index(tmp_path, archive((name, kind, b"x")))


def test_bounds(tmp_path: Path) -> None:
    with pytest.raises(HostileImage, match="more than"):
        index(tmp_path, archive(*((f"f{i}", tarfile.REGTYPE, b"") for i in range(ova.MAX_MEMBERS + 1))))
    long_name = archive(("n" * 150, tarfile.REGTYPE, b"x"), fmt=tarfile.PAX_FORMAT)
    with pytest.raises((Unsupported, HostileImage)):
        index(tmp_path, long_name)
    with pytest.raises(CoriolisError):
        index(tmp_path, archive(("n" * 150, tarfile.REGTYPE, b"x"), fmt=tarfile.GNU_FORMAT))
    cut = archive(("a", tarfile.REGTYPE, b"x" * 5000))[:2048]
    with pytest.raises(HostileImage, match="more bytes"):
        index(tmp_path, cut)
    damaged = bytearray(archive(("a", tarfile.REGTYPE, b"x")))
    damaged[0] ^= 0xFF
    with pytest.raises(Corrupt, match="checksum"):
        index(tmp_path, bytes(damaged))


def test_ovf() -> None:
    found = parse_ovf(OVF.format(mib=8).encode())
    assert (found.name, found.num_cpu, found.memory_mb, found.firmware_type) == ("vm", 2, 256, "BIOS")
    assert [(d.file, d.format, d.size_bytes) for d in found.disks] == [("d.vmdk", "vmdk", 8 << 20)]
    assert [(n.network_name, n.mac_address) for n in found.nics] == [("VM Network", None)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_never_expand(encoding: str) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Envelope>&b;</Envelope>'
    with pytest.raises(HostileImage, match="document type"):
        parse_ovf(bomb.encode(encoding))


@pytest.mark.parametrize("text", [b"", b"<a>", b"\xff\xfe\x00", b"<a/>" * 3])
def test_not_xml(text: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_ovf(text)


def test_units() -> None:
    assert unit_bytes("byte * 2^30") == 1 << 30
    assert unit_bytes("MegaBytes") == 1 << 20
    assert unit_bytes("") == 1
    with pytest.raises(Corrupt):
        unit_bytes("parsec")
