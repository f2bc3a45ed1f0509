"""What makes a Windows driver whole: its INF, its program file, its catalogue. Pure: bytes in, facts out.

Layouts are Microsoft's published ones: "PE Format" (headers, certificate table), "Windows Authenticode Portable
Executable Signature Format" (which bytes the digest covers), INF files (sections, ``DriverVer``, ``SourceDisksFiles``).
A catalogue is PKCS #7 signed data; its digests of the files it covers are plain bytes inside.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass

from coriolis.errors import Corrupt

MACHINES = {0x8664: "amd64", 0x14C: "x86", 0xAA64: "arm64"}
_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")  # OID 1.2.840.113549.1.7.2
_CERTIFICATES = 4  # number of the certificate table among the data directories
MAX_INF_LINES = 20_000


@dataclass(frozen=True, slots=True)
class Program:
    """A PE file: ``architecture`` as drivers name it; ``signed``: it has a certificate table of its own."""

    architecture: str
    signed: bool
    digests: tuple[bytes, ...]


def program(data: bytes) -> Program:
    """Raises Corrupt for what is no PE file."""
    try:
        (header,) = struct.unpack_from("<I", data, 0x3C)
        if data[:2] != b"MZ" or data[header : header + 4] != b"PE\0\0":
            raise Corrupt("it is no Windows program file")
        (machine,) = struct.unpack_from("<H", data, header + 4)
        optional = header + 24
        (magic,) = struct.unpack_from("<H", data, optional)
        directories = optional + (112 if magic == 0x20B else 96)
        (count,) = struct.unpack_from("<I", data, directories - 4)
        entry = directories + 8 * _CERTIFICATES
        at, size = struct.unpack_from("<II", data, entry) if count > _CERTIFICATES else (0, 0)
    except struct.error as error:
        raise Corrupt("it is no whole Windows program file") from error
    signed = at > 0 and size > 8 and at + size <= len(data)
    covered = (data[: optional + 64], data[optional + 68 : entry], data[entry + 8 : at if signed else len(data)])
    content = b"".join(covered) + (data[at + size :] if signed else b"")
    padded = content + bytes(-len(data) % 8)  # what signing tools do to a file before they sign it
    digests = tuple(
        hashlib.new(name, one).digest() for name in ("sha1", "sha256") for one in dict.fromkeys((content, padded))
    )
    return Program(MACHINES.get(machine, f"{machine:#x}"), signed, digests)


def is_catalogue(data: bytes) -> bool:
    """PKCS #7 signed data, as every .cat is."""
    return data[:1] == b"\x30" and _SIGNED_DATA in data[:32]


@dataclass(frozen=True, slots=True)
class Inf:
    """``version``: of ``DriverVer``. ``files``: those that ``SourceDisksFiles`` names. All in lower case."""

    version: str
    catalogues: tuple[str, ...]
    files: tuple[str, ...]


def parse_inf(data: bytes) -> Inf:
    """Raises Corrupt for one without a version or a catalogue."""
    sections = _sections(_decoded(data))
    version = dict(_pair(line) for line in sections.get("version", []))
    driver = version.get("driverver", "").partition(",")[2].strip()
    catalogues = tuple(
        value.lower() for name, value in version.items() if name.partition(".")[0] == "catalogfile" and value
    )
    if not re.fullmatch(r"\d+(\.\d+){1,3}", driver) or not catalogues:
        raise Corrupt("its INF has no DriverVer or no CatalogFile")
    files = {
        _pair(line)[0]
        for name, lines in sections.items()
        if name.partition(".")[0] == "sourcedisksfiles"
        for line in lines
    }
    return Inf(driver, catalogues, tuple(sorted(files)))


def _decoded(data: bytes) -> str:
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\xef\xbb\xbf", "utf-8")):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.decode("latin-1")


def _sections(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines()[:MAX_INF_LINES]:
        plain = line.partition(";")[0].strip()
        if plain.startswith("[") and plain.endswith("]"):
            current = found.setdefault(plain[1:-1].strip().lower(), [])
        elif plain:
            current.append(plain)
    return found


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name.strip().strip('"').lower(), value.strip().strip('"')
