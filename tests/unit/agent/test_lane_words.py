"""What lanes say first, and what a task and its lane hosts say to each other: bounds, garbage, and both ways."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.agent.lanes import hello
from coriolis.agent.lanes import messages as words
from coriolis.errors import CoriolisError, Corrupt, Denied, StaleGeneration
from coriolis.rpc.tls import TlsFiles
from coriolis.transfer.sender import MAX_ZERO_RUNS_PER_BATCH

numbers = st.integers(0, 2**64 - 1)


@given(st.text(min_size=1, max_size=200), numbers)
def test_a_hello_names_disk_and_generation(disk_id: str, generation: int) -> None:
    said = hello.encode_hello(disk_id, generation)
    assert hello.hello_rest(said[: hello.HELLO_BYTES]) == (generation, len(disk_id.encode()))
    assert said[hello.HELLO_BYTES :].decode() == disk_id


@given(st.binary(min_size=hello.HELLO_BYTES, max_size=hello.HELLO_BYTES))
def test_other_beginnings_are_refused(head: bytes) -> None:
    with pytest.raises(Corrupt):
        hello.hello_rest(head if not head.startswith(hello.MAGIC) else b"GET " + head[4:])


@pytest.mark.parametrize("length", [0, hello.MAX_DISK_ID_BYTES + 1, 65535])
def test_a_name_of_no_or_too_many_bytes_is_refused(length: int) -> None:
    head = hello.MAGIC + (1).to_bytes(8, "big") + length.to_bytes(2, "big")
    assert len(head) == hello.HELLO_BYTES
    with pytest.raises(Corrupt):
        hello.hello_rest(head)


@pytest.mark.parametrize("error", [None, Denied("not you"), StaleGeneration("x" * 5000)])
def test_an_answer_carries_the_reason(error: CoriolisError | None) -> None:
    said = hello.encode_answer(error)
    assert len(said) <= hello.ANSWER_BYTES + hello.MAX_ANSWER_BYTES
    found = hello.answer_error(said[hello.ANSWER_BYTES :])
    assert type(found) is type(error)
    if error is not None and found is not None:
        assert error.message.startswith(found.message)
        assert found.message


@given(st.binary(min_size=1, max_size=100))
def test_an_answer_that_is_none_is_refused(body: bytes) -> None:
    try:
        assert isinstance(hello.answer_error(body), CoriolisError)
    except Corrupt:
        return


class Pieces:
    """An SSL socket that gives a byte at a time. Meets what ``receive_answer`` needs."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def recv(self, count: int) -> bytes:
        first, self._data = self._data[:1], self._data[1:]
        return first


def test_an_answer_in_pieces_is_read_whole_and_a_long_or_cut_one_is_refused() -> None:
    said = hello.encode_answer(Denied("not you"))
    pieces: Any = Pieces(said)
    assert hello.receive_answer(pieces) == said[hello.ANSWER_BYTES :]
    cut: Any = Pieces(said[:-1])
    with pytest.raises(OSError, match="ended"):
        hello.receive_answer(cut)
    long: Any = Pieces((hello.MAX_ANSWER_BYTES + 1).to_bytes(2, "big"))
    with pytest.raises(Corrupt):
        hello.receive_answer(long)


# -- a task and its hosts ------------------------------------------------------------------------------------------

TLS = TlsFiles(Path("/ca"), Path("/cert"), Path("/key"))
TO_HOST: list[words.ToHost] = [
    words.HostStart("sink", 77, TLS, "spiffe://d/agent/a"),
    words.AttachDisk("d", 2**63, 2**63, "label", "identity"),
    words.OpenLane(3, "d", "direct", "127.0.0.1:1", "spiffe://d/agent/b", True),
    words.SendBatch(3, ((0, 2), (5, 1)), ((9, 2**40),), 1),
    words.CloseLane(3, True),
    words.TakeConnection(),
]
FROM_HOST: list[words.FromHost] = [
    words.LaneUp(3),
    words.LaneDown(3, "unavailable", "gone", True),
    words.Refused("d", 2**40, 1, "why"),
    words.DiskFailed("d", "quota_exceeded", "full"),
]


@pytest.mark.parametrize("message", TO_HOST, ids=lambda each: type(each).__name__)
def test_what_a_task_says_arrives(message: words.ToHost) -> None:
    assert words.decode_to_host(words.encode_message(message)) == message


@pytest.mark.parametrize("message", FROM_HOST, ids=lambda each: type(each).__name__)
def test_what_a_host_says_arrives(message: words.FromHost) -> None:
    assert words.decode_from_host(words.encode_message(message)) == message


def test_the_largest_batch_fits_into_a_packet() -> None:
    """Scattered cells of the largest numbers, and as many zero runs as a batch may name."""
    big = 2**26 - 1
    batch = words.SendBatch(2**31, ((big, 1),) * 16, ((big, big),) * MAX_ZERO_RUNS_PER_BATCH, 3)
    assert len(words.encode_message(batch)) < words.MAX_PACKET_BYTES
    down = words.LaneDown(2**31, "unavailable", "ä" * words.MAX_TEXT_CHARS)
    assert len(words.encode_message(down)) < words.MAX_PACKET_BYTES


def test_a_packet_socket_keeps_messages_apart() -> None:
    """What the link relies on: one send is one receive, however fast they come."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for message in FROM_HOST:
            theirs.send(words.encode_message(message))
        assert [words.decode_from_host(ours.recv(words.MAX_PACKET_BYTES)) for _ in FROM_HOST] == FROM_HOST
