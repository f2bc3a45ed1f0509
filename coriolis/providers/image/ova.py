"""OVA packages: a bounded index of the tar members. Nothing is extracted; disks are read where they lie."""

from __future__ import annotations

import os

import msgspec

from coriolis.errors import Corrupt, HostileImage, Unsupported
from coriolis.providers.block.raw_io import read_exact, size_of

BLOCK = 512
MAX_MEMBERS = 256
MAX_OVF_BYTES = 1 << 20
MAX_EXTENDED_HEADER_BYTES = 64 << 10


class Member(msgspec.Struct, frozen=True):
    """A regular file in the archive and where its bytes are."""

    name: str
    offset: int
    length: int


def _number(field: bytes) -> int:
    """A tar number: octal text, or base 256 when the first bit is set (files above 8 GiB)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.rstrip(b"\0 ").lstrip(b" ")
    try:
        return int(text, 8) if text else 0
    except ValueError as error:
        raise Corrupt("the OVA has a damaged member header") from error


def _check_header(header: bytes) -> None:
    stated = _number(header[148:156])
    if sum(header[:148]) + 8 * 0x20 + sum(header[156:]) != stated:
        raise Corrupt("a member header of the OVA fails its checksum")


def _plain_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0].decode("utf-8", "replace")
    if header[257:262] == b"ustar" and header[345:500].strip(b"\0") and header[263:265] == b"00":
        prefix = header[345:500].split(b"\0", 1)[0].decode("utf-8", "replace")
        name = f"{prefix}/{name}"
    name = name.removeprefix("./")
    if not name or "/" in name or "\\" in name or name in (".", ".."):
        raise HostileImage(f"the OVA has a member that is not a plain file name: {name[:100]!r}")
    return name


def index(descriptor: int) -> list[Member]:
    """The members of the archive. Raises HostileImage, Corrupt, Unsupported."""
    size, position, members = size_of(descriptor), 0, list[Member]()
    for _ in range(MAX_MEMBERS + 1):
        if position + BLOCK > size:
            return members
        header = read_exact(descriptor, position, BLOCK)
        if not any(header):
            return members
        _check_header(header)
        length, kind = _number(header[124:136]), header[156:157]
        data_at = position + BLOCK
        if length < 0 or data_at + length > size:
            raise HostileImage("a member of the OVA states more bytes than the archive holds")
        if kind in (b"x", b"g"):
            _check_extended(descriptor, data_at, length)
        elif kind in (b"0", b"\0"):
            members.append(Member(_plain_name(header), data_at, length))
        else:
            raise HostileImage("the OVA has a member that is not a plain file (link, device or folder)")
        position = data_at + -(-length // BLOCK) * BLOCK
    raise HostileImage(f"the OVA has more than {MAX_MEMBERS} members")


def _check_extended(descriptor: int, offset: int, length: int) -> None:
    """Extended headers may carry times, but not change a member's name or size: the two readings could differ."""
    if length > MAX_EXTENDED_HEADER_BYTES:
        raise HostileImage(f"the OVA has an extended header of {length} bytes")
    text = read_exact(descriptor, offset, length)
    if any(key in text for key in (b" path=", b" size=", b" linkpath=", b"GNU.sparse")):
        raise Unsupported("the OVA is not in USTAR format, which the standard asks for: repack it")


def descriptor_text(descriptor: int, members: list[Member]) -> bytes:
    """Bytes of the one OVF descriptor."""
    found = [member for member in members if member.name.lower().endswith(".ovf")]
    if len(found) != 1:
        raise Corrupt(f"the OVA must hold exactly one .ovf file, not {len(found)}")
    if found[0].length > MAX_OVF_BYTES:
        raise HostileImage(f"the OVF descriptor has {found[0].length} bytes; at most {MAX_OVF_BYTES} are read")
    return read_exact(descriptor, found[0].offset, found[0].length)


def find_member(members: list[Member], name: str) -> Member:
    """The member that the descriptor names."""
    found = [member for member in members if member.name == name]
    if len(found) != 1:
        raise Corrupt(f"the OVF names the file {os.path.basename(name)[:100]!r}, which is {len(found)} times there")
    return found[0]
