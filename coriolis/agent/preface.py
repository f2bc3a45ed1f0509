"""The first bytes on a connection to an agent's data port: what it is for. Pure."""

from __future__ import annotations

import enum
import struct

import msgspec

from coriolis.errors import InvalidInput

MAGIC = b"CRLS"
VERSION = 1
KEY_BYTES = 32
_FORM = struct.Struct(f">4sBBBx{KEY_BYTES}s")
PREFACE_BYTES = _FORM.size
GO = b"\x01"
"""Answer to a dialler and to a probe: go ahead. A parker is answered with the number of the service instead."""
NO_KEY = bytes(KEY_BYTES)


class CallerRole(enum.IntEnum):
    """What the caller wants."""

    PROBE = 0  # TLS follows: is this agent reachable, and how far away?
    DIALLER = 1  # wants to be joined with a parked connection of the same key
    PARKER = 2  # waits to be joined


class Service(enum.IntEnum):
    """What a sink offers; named by the dialler, told to the parker."""

    ANY = 0
    GRPC = 1
    DIRECT = 2


class Preface(msgspec.Struct, frozen=True):
    """Its representation hides the key."""

    role: CallerRole
    service: Service = Service.ANY
    key: bytes = NO_KEY

    def __repr__(self) -> str:
        return f"Preface({self.role.name}, {self.service.name})"


def encode_preface(preface: Preface) -> bytes:
    """PREFACE_BYTES bytes."""
    assert len(preface.key) == KEY_BYTES
    return _FORM.pack(MAGIC, VERSION, preface.role, preface.service, preface.key)


def decode_preface(data: bytes) -> Preface:
    """InvalidInput for anything but a preface of this version."""
    if len(data) != PREFACE_BYTES:
        raise InvalidInput(f"a preface has {PREFACE_BYTES} bytes, not {len(data)}")
    magic, version, role, service, key = _FORM.unpack(data)
    if magic != MAGIC or version != VERSION:
        raise InvalidInput("not a connection of this mesh, or one of another version")
    try:
        return Preface(CallerRole(role), Service(service), key)
    except ValueError as unknown:
        raise InvalidInput(f"a preface names role {role} and service {service}") from unknown
