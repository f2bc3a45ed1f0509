"""Transactions as values: *if all compares hold, then these operations, otherwise those*."""

from __future__ import annotations

from dataclasses import dataclass

from coriolis.errors import InvalidInput
from coriolis.etcd.records import KeyValue, encode_key, key_value, prefix_end
from coriolis.rpc.gen.etcd import rpc_pb2

MAX_OPERATIONS = 128
"""etcd's default ``--max-txn-ops``, per list."""
MAX_REQUEST_BYTES = 1_500_000
"""A little under etcd's default ``--max-request-bytes`` (1.5 MiB)."""


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition. Use the functions below."""

    message: rpc_pb2.Compare


def created_at(key: str, revision: int) -> Compare:
    """The key exists and was created at ``revision``; 0 means that it is absent."""
    target = rpc_pb2.Compare.CREATE
    return Compare(rpc_pb2.Compare(key=encode_key(key), target=target, create_revision=revision))


def absent(key: str) -> Compare:
    """The key does not exist."""
    return created_at(key, 0)


def present(key: str) -> Compare:
    """The key exists."""
    result = rpc_pb2.Compare.GREATER
    return Compare(rpc_pb2.Compare(key=encode_key(key), target=rpc_pb2.Compare.VERSION, result=result, version=0))


def modified_at(key: str, revision: int) -> Compare:
    """The key was last changed at ``revision``; 0 means that it is absent."""
    target = rpc_pb2.Compare.MOD
    return Compare(rpc_pb2.Compare(key=encode_key(key), target=target, mod_revision=revision))


def version_is(key: str, version: int) -> Compare:
    """The key was changed ``version`` times since its creation; 0 means that it is absent."""
    target = rpc_pb2.Compare.VERSION
    return Compare(rpc_pb2.Compare(key=encode_key(key), target=target, version=version))


def value_is(key: str, value: bytes) -> Compare:
    """The key exists with exactly this value."""
    return Compare(rpc_pb2.Compare(key=encode_key(key), target=rpc_pb2.Compare.VALUE, value=value))


@dataclass(frozen=True, slots=True)
class Put:
    """Set a key. Without ``lease_id`` a lease that the key had is detached."""

    key: str
    value: bytes
    lease_id: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; an absent one is fine."""

    key: str


@dataclass(frozen=True, slots=True)
class DeletePrefix:
    """Remove every key that starts with ``prefix`` (never empty)."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key inside the transaction."""

    key: str


Operation = Put | Delete | DeletePrefix | Get


@dataclass(frozen=True, slots=True)
class Txn:
    """Operations of one list must not touch one key twice (etcd refuses it)."""

    compares: tuple[Compare, ...] = ()
    then: tuple[Operation, ...] = ()
    otherwise: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True)
class TxnResult:
    """``succeeded`` says which list ran; ``gets`` are its Get results in order; ``revision`` that of the
    store.

    If the list that ran wrote something, ``revision`` is the mod_revision of all it wrote.
    """

    succeeded: bool
    revision: int
    gets: tuple[KeyValue | None, ...]


def to_request(txn: Txn) -> rpc_pb2.TxnRequest:
    """The message; InvalidInput above etcd's limits, so that they never show as a failed write."""
    if max(len(txn.compares), len(txn.then), len(txn.otherwise)) > MAX_OPERATIONS:
        raise InvalidInput(f"an etcd transaction holds at most {MAX_OPERATIONS} compares or operations")
    request = rpc_pb2.TxnRequest(
        compare=[compare.message for compare in txn.compares],
        success=[_operation(operation) for operation in txn.then],
        failure=[_operation(operation) for operation in txn.otherwise],
    )
    check_size(request.ByteSize())
    return request


def check_size(size_bytes: int) -> None:
    """InvalidInput if a request of that size would be refused by etcd."""
    if size_bytes > MAX_REQUEST_BYTES:
        raise InvalidInput(f"an etcd request of {size_bytes} bytes is above the limit of {MAX_REQUEST_BYTES}")


def from_response(response: rpc_pb2.TxnResponse) -> TxnResult:
    """Gets of the executed list, None for absent keys."""
    ranges = [item.response_range for item in response.responses if item.HasField("response_range")]
    gets = tuple(key_value(found.kvs[0]) if found.kvs else None for found in ranges)
    return TxnResult(response.succeeded, response.header.revision, gets)


def _operation(operation: Operation) -> rpc_pb2.RequestOp:
    match operation:
        case Put(key, value, lease_id):
            put = rpc_pb2.PutRequest(key=encode_key(key), value=value, lease=lease_id)
            return rpc_pb2.RequestOp(request_put=put)
        case Delete(key):
            return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=encode_key(key)))
        case DeletePrefix(prefix):
            if not prefix:
                raise InvalidInput("deleting by an empty prefix would empty the store")
            delete = rpc_pb2.DeleteRangeRequest(key=encode_key(prefix), range_end=prefix_end(prefix))
            return rpc_pb2.RequestOp(request_delete_range=delete)
        case Get(key):
            return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=encode_key(key)))
