"""Values that etcd's answers are turned into: keys are text, values bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coriolis.rpc.gen.etcd import kv_pb2


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key at one moment. ``version`` counts changes since creation; ``lease_id`` is 0 without a lease."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease_id: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys under a prefix as of ``revision``; watch from ``revision + 1`` to miss nothing."""

    revision: int
    items: Mapping[str, KeyValue]


def key_value(message: kv_pb2.KeyValue) -> KeyValue:
    """A key that is not UTF-8 (foreign) keeps its bytes as surrogates."""
    return KeyValue(
        key=decode_key(message.key),
        value=message.value,
        create_revision=message.create_revision,
        mod_revision=message.mod_revision,
        version=message.version,
        lease_id=message.lease,
    )


def encode_key(key: str) -> bytes:
    """Inverse of ``decode_key``."""
    return key.encode("utf-8", "surrogateescape")


def decode_key(raw: bytes) -> str:
    """Text of a key."""
    return raw.decode("utf-8", "surrogateescape")


def prefix_end(prefix: str) -> bytes:
    """The first key after all keys that start with ``prefix`` (etcd's ``range_end``)."""
    raw = encode_key(prefix).rstrip(b"\xff")
    return raw[:-1] + bytes([raw[-1] + 1]) if raw else b"\x00"
