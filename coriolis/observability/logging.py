"""One way out for every log line, ours and the libraries': to stderr, bounded, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TextIO

import structlog
from google.protobuf.message import Message

from coriolis.security.redact import LIVE_SECRETS, MASK, is_secret_name, masked_document, masked_message

MAX_VALUE_CHARS = 4096
MAX_LINE_CHARS = 64 * 1024
"""A stack trace is the longest that is wanted."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")

_Event = MutableMapping[str, Any]


def configure_logging(*, level: str = "INFO", json: bool = True, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's root logger for this process; repeating it replaces the
    set-up.

    ``json`` gives one object per line, otherwise a console form for people. ``stream`` is stderr unless
    given.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(default=str)
        if json
        else structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(
        _LastFilter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _mask_event,
                *([structlog.processors.format_exc_info] if json else []),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


@contextmanager
def log_context(**ids: str) -> Iterator[None]:
    """Put ids (``job_id``, ``task_id``, …) on every line logged by this task and its children in the block."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield


class _LastFilter(structlog.stdlib.ProcessorFormatter):
    """Masks live secrets in the finished line, whatever library wrote it and wherever in it they are."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        # Masked before it is cut: a cut through a secret would hide it from the mask.
        return LIVE_SECRETS.mask(line)[:MAX_LINE_CHARS]


def _mask_event(_logger: Any, _method: str, event: _Event) -> _Event:
    for name, value in event.items():
        event[name] = MASK if is_secret_name(name) and value else _plain(value)
    return event


def _plain(value: Any) -> Any:
    """Values as they may be shown: no secrets by form, no endless text, no terminal control characters."""
    if isinstance(value, str):
        text = LIVE_SECRETS.mask(value)[:MAX_VALUE_CHARS]
        return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)
    if isinstance(value, Message):
        return _plain(str(masked_message(value)))
    if isinstance(value, dict):
        return masked_document(value)
    return value
