"""First words on a ``direct`` lane, after TLS has proved both sides: which disk, which generation; and the answer."""

from __future__ import annotations

import ssl
import struct

import msgspec

from coriolis.errors import CoriolisError, Corrupt, from_code

MAGIC = b"CXL2"
_HELLO = struct.Struct("!4sQH")
_ANSWER = struct.Struct("!H")
MAX_DISK_ID_BYTES = 1024
MAX_ANSWER_BYTES = 4096
HELLO_BYTES = _HELLO.size
ANSWER_BYTES = _ANSWER.size


class Refusal(msgspec.Struct, frozen=True):
    code: str
    message: str


def encode_hello(disk_id: str, generation: int) -> bytes:
    name = disk_id.encode()
    return _HELLO.pack(MAGIC, generation, len(name)) + name


def hello_rest(head: bytes | memoryview) -> tuple[int, int]:
    """(generation, bytes of the disk's id that follow). Raises Corrupt."""
    magic, generation, length = _HELLO.unpack(head)
    if magic != MAGIC or not 0 < length <= MAX_DISK_ID_BYTES:
        raise Corrupt("a lane began with something else than its hello")
    return generation, length


def encode_answer(error: CoriolisError | None = None) -> bytes:
    """Nothing, or why not."""
    body = b"" if error is None else msgspec.json.encode(Refusal(error.code, error.message[:2000]))
    return _ANSWER.pack(len(body)) + body


def receive_answer(connection: ssl.SSLSocket) -> bytes:
    """The answer's body. Raises OSError, Corrupt."""
    (length,) = _ANSWER.unpack(_exactly(connection, ANSWER_BYTES))
    if length > MAX_ANSWER_BYTES:
        raise Corrupt(f"a sink's answer of {length} bytes")
    return _exactly(connection, length)


def _exactly(connection: ssl.SSLSocket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionResetError("the connection ended")
        data += more
    return data


def answer_error(body: bytes) -> CoriolisError | None:
    """What the sink refused with, or None. Raises Corrupt."""
    if not body:
        return None
    try:
        refusal = msgspec.json.decode(body, type=Refusal)
    except msgspec.DecodeError as broken:
        raise Corrupt("a sink's answer cannot be read") from broken
    return from_code(refusal.code, refusal.message)
