"""Messages between an agent and a task's process: JSON lines over the child's standard input and output."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from coriolis.agent.assignment import Assignment
from coriolis.agent.workplace import Workplace

MAX_LINE_BYTES = 8 << 20


class Start(msgspec.Struct, frozen=True, tag="start"):
    """First line to the child."""

    assignment: Assignment
    workplace: Workplace
    parent_pid: int


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    """Answer to a Call: ``error_code`` empty means success."""

    call_id: int
    value: dict[str, Any] = {}
    error_code: str = ""
    error_message: str = ""


class Rates(msgspec.Struct, frozen=True, tag="rates"):
    """How fast the task's disks may send, bytes per second by disk id; replaces what was told before."""

    disks: dict[str, float]
    unlimited: bool = False


ToChild = Start | Reply | Rates


class Call(msgspec.Struct, frozen=True, tag="call"):
    """Something only the agent may ask of the coordinator."""

    call_id: int
    method: Literal["connection_info", "record", "commit_instance"]
    arguments: dict[str, str] = {}


class Listening(msgspec.Struct, frozen=True, tag="listening"):
    address: str


class EventLine(msgspec.Struct, frozen=True, tag="event"):
    level: str
    message: str


class ProgressLine(msgspec.Struct, frozen=True, tag="progress"):
    """``disk`` is a serialized DiskProgress."""

    disk: bytes


class Done(msgspec.Struct, frozen=True, tag="done"):
    result: dict[str, Any]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    code: str
    message: str


FromChild = Call | Listening | EventLine | ProgressLine | Done | Failed

_encoder = msgspec.json.Encoder(enc_hook=str)


def encode_line(message: ToChild | FromChild) -> bytes:
    """One line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_for_child(line: bytes) -> ToChild:
    message: ToChild = msgspec.json.decode(line, type=ToChild, dec_hook=_path)
    return message


def decode_for_agent(line: bytes) -> FromChild:
    message: FromChild = msgspec.json.decode(line, type=FromChild, dec_hook=_path)
    return message


def _path(kind: type, value: Any) -> Any:
    return kind(value)
