"""Entry of a task's process: ``python -m coriolis.agent.task_process``. One assignment, then exit."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, BinaryIO

import structlog

from coriolis.agent.assignment import Assignment
from coriolis.agent.child_protocol import (
    MAX_LINE_BYTES,
    Call,
    Done,
    EventLine,
    Failed,
    FromChild,
    Listening,
    ProgressLine,
    Rates,
    Reply,
    Start,
    decode_for_child,
    encode_line,
)
from coriolis.agent.lanes.malloc import keep_freed_memory
from coriolis.agent.paces import Paces
from coriolis.agent.tasks import task_function
from coriolis.agent.workplace import Workplace
from coriolis.errors import CoriolisError, Unavailable, from_code
from coriolis.observability.logging import configure_logging, log_context
from coriolis.parent import die_with_parent
from coriolis.providers.registry import load_provider
from coriolis.rpc.gen.coriolis.v1 import types_pb2
from coriolis.security.redact import LIVE_SECRETS, secret_values
from coriolis.transfer.pace import Pace

log = structlog.get_logger(__name__)


class PipeContext:
    """``TaskContext`` over the pipes to the agent."""

    def __init__(self, assignment: Assignment, workplace: Workplace, out: BinaryIO) -> None:
        self.assignment = assignment
        self.workplace = workplace
        self._out = out
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._secrets = ExitStack()
        self._paces = Paces()
        self._paces.begin(assignment.input.get("rates"), time.monotonic())

    def send(self, message: FromChild) -> None:
        self._out.write(encode_line(without_secrets(message)))
        self._out.flush()

    def pace(self, disk_id: str) -> Pace:
        return self._paces.of_disk(disk_id)

    def take(self, message: Reply | Rates) -> None:
        if isinstance(message, Rates):
            self._paces.tell(message.disks, time.monotonic(), unlimited=message.unlimited)
            return
        future = self._replies.pop(message.call_id, None)
        if future is not None and not future.done():
            future.set_result(message)

    async def _ask(self, call: Call) -> dict[str, Any]:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[call.call_id] = future
        self.send(call)
        reply = await future
        if reply.error_code:
            raise from_code(reply.error_code, reply.error_message)
        return reply.value

    def _next_id(self) -> int:
        return max(self._replies, default=0) + 1

    async def connection_info(self) -> dict[str, Any]:
        info = await self._ask(Call(self._next_id(), "connection_info"))
        # for the rest of this process's life no log line may show them
        schema = load_provider(self.assignment.provider).connection_schema
        self._secrets.enter_context(LIVE_SECRETS.live(*secret_values(info, schema)))
        return info

    async def record(self, kind: str, name: str, side: str, state: str, cloud_id: str = "") -> None:
        arguments = {"kind": str(kind), "name": name, "side": side, "state": state, "cloud_id": cloud_id}
        await self._ask(Call(self._next_id(), "record", arguments))

    async def commit_instance(self, instance_id: str) -> None:
        await self._ask(Call(self._next_id(), "commit_instance", {"instance_id": instance_id}))

    def event(self, message: str, level: str = "INFO") -> None:
        log.info("task event", level_shown=level, message=message)
        self.send(EventLine(level, message[:1024]))

    def progress(self, disk: types_pb2.DiskProgress) -> None:
        self.send(ProgressLine(disk.SerializeToString()))

    def listening(self, address: str) -> None:
        self.send(Listening(address))


def without_secrets(message: FromChild) -> FromChild:
    """What leaves this process is stored and shown: no library's text may carry a secret out.

    Only texts are masked, not the encoded line: a password may be a word of the protocol.
    """
    match message:
        case EventLine(level, text):
            return EventLine(level, LIVE_SECRETS.mask(text))
        case Failed(code, text):
            return Failed(code, LIVE_SECRETS.mask(text))
        case Done(result):
            return Done({name: _masked(value) for name, value in result.items()})
        case _:
            return message


def _masked(value: Any) -> Any:
    match value:
        case str():
            return LIVE_SECRETS.mask(value)
        case dict():
            return {name: _masked(member) for name, member in value.items()}
        case list() | tuple():
            return [_masked(member) for member in value]
        case _:
            return value


def unwrap(error: BaseException) -> CoriolisError | None:
    """The CoriolisError inside (nested) exception groups, or None when there is anything else in them."""
    if isinstance(error, CoriolisError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [unwrap(each) for each in error.exceptions]
        return found[0] if found and all(found) else None
    return None


async def work(out: BinaryIO) -> None:
    """Read the assignment, run it, answer."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    start = decode_for_child(await reader.readline())
    assert isinstance(start, Start)
    die_with_parent(start.parent_pid)
    assignment = start.assignment
    context = PipeContext(assignment, start.workplace, out)
    listen = asyncio.create_task(_take_replies(reader, context))
    try:
        with log_context(job_id=assignment.migration_id, task_id=assignment.task_id, instance=assignment.instance):
            result = await task_function(assignment.task_type)(context)
    except* CoriolisError as failed:
        error = unwrap(failed) or Unavailable(str(failed))
        log.warning("task failed", code=error.code, reason=error.message)
        context.send(Failed(error.code, error.message))
    else:
        context.send(Done(result))
    finally:
        listen.cancel()


async def _take_replies(reader: asyncio.StreamReader, context: PipeContext) -> None:
    while line := await reader.readline():
        message = decode_for_child(line)
        assert isinstance(message, Reply | Rates)
        context.take(message)
    os._exit(1)  # the agent closed our input: it gave up on this task


def log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A crash's traceback goes through the log's filter: Python's own would print whatever secret is in it."""
    log.critical("task crashed", exc_info=(kind, error, trace))


def main() -> None:
    # results go to the original standard output; whatever a library prints goes to the log
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    keep_freed_memory()
    configure_logging()
    sys.excepthook = log_crash
    asyncio.run(work(out))


if __name__ == "__main__":
    main()
