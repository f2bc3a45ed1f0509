"""The pure parts of the etcd client."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import InvalidInput, Throttled, Unauthenticated, Unavailable
from coriolis.etcd.endpoints import Endpoints
from coriolis.etcd.failures import Compacted, is_stale_token, to_etcd_error
from coriolis.etcd.records import decode_key, encode_key, prefix_end
from coriolis.etcd.txn import DeletePrefix, Txn, to_request
from coriolis.etcd.watch import _Position
from coriolis.rpc.gen.etcd import kv_pb2, rpc_pb2


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_prefix_range_holds_exactly_the_keys_with_the_prefix(prefix: bytes, key: bytes) -> None:
    end = prefix_end(decode_key(prefix))
    inside = prefix <= key and (end == b"\x00" or key < end)
    assert inside == key.startswith(prefix)
    assert encode_key(decode_key(key)) == key


def failure(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", Compacted),
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision", InvalidInput),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", Unavailable),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", Throttled),
        (
            "INVALID_ARGUMENT",
            "etcdserver: authentication failed, invalid user ID or password",
            Unauthenticated,
        ),
        ("UNAVAILABLE", "etcdserver: no leader", Unavailable),
    ],
)
def test_refusals_of_etcd(code: str, details: str, expected: type[Exception]) -> None:
    assert type(to_etcd_error(failure(grpc.StatusCode[code], details))) is expected


def test_a_token_is_renewed_only_when_that_helps() -> None:
    assert is_stale_token(failure(grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token"))
    assert not is_stale_token(failure(grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"))


@pytest.mark.parametrize("endpoints", [[], ["host"], ["https://h:1"], ["ftp://h:1"], ["h:1"] * 17])
def test_malformed_endpoints_are_refused(endpoints: list[str]) -> None:
    with pytest.raises(InvalidInput):
        Endpoints(endpoints, None, None)


def test_an_empty_prefix_is_never_deleted() -> None:
    with pytest.raises(InvalidInput):
        to_request(Txn(then=(DeletePrefix(""),)))


def _response(*revisions: int, fragment: bool = False) -> rpc_pb2.WatchResponse:
    events = [kv_pb2.Event(kv=kv_pb2.KeyValue(key=b"k", mod_revision=revision)) for revision in revisions]
    return rpc_pb2.WatchResponse(events=events, fragment=fragment)


def test_a_revision_split_over_fragments_is_told_whole() -> None:
    position = _Position(5)
    first = position.advance(_response(5, 6, 6, fragment=True))
    assert first is not None
    assert ([event.revision for event in first.events], first.revision) == ([5], 5)
    second = position.advance(_response(6, 7))
    assert second is not None
    assert [event.revision for event in second.events] == [6, 6, 6, 7]
    assert position.next_revision == 8


def test_a_lost_fragment_is_read_again_from_its_revision() -> None:
    position = _Position(5)
    assert position.advance(_response(5, 5, fragment=True)) is None
    position.forget_fragment()
    assert position.next_revision == 5
    again = position.advance(_response(5, 5, 5))
    assert again is not None
    assert len(again.events) == 3


def test_only_a_progress_notice_moves_an_idle_watch() -> None:
    position = _Position(5)
    created = rpc_pb2.WatchResponse(created=True, header=rpc_pb2.ResponseHeader(revision=90))
    assert position.advance(created) is None
    assert position.next_revision == 5  # history up to 90 is still to come
    assert position.advance(rpc_pb2.WatchResponse(header=rpc_pb2.ResponseHeader(revision=90))) is None
    assert position.next_revision == 91
