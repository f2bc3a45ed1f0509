from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from coriolis.observability.logging import configure_logging, log_context
from coriolis.rpc.gen.coriolis.v1 import endpoint_pb2
from coriolis.security.redact import LIVE_SECRETS

SECRET = 'hun"ter2é'


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.usefixtures("restored")
def test_lines_are_json_with_ids_and_libraries_take_the_same_way() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    with log_context(job_id="j1", task_id="t1"):
        structlog.get_logger("ours").info("copied", size_bytes=5)
        logging.getLogger("some.sdk").warning("slow: %s", "x")
    logging.getLogger("some.sdk").debug("unseen")
    ours, theirs = lines(stream)
    assert (ours["event"], ours["size_bytes"], ours["job_id"], ours["level"]) == ("copied", 5, "j1", "info")
    assert (theirs["event"], theirs["task_id"], theirs["logger"]) == ("slow: x", "t1", "some.sdk")


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("as_json", [True, False])
def test_no_secret_gets_out_by_name_by_value_or_in_a_stack(as_json: bool) -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, json=as_json)
    log = structlog.get_logger("ours")
    endpoint = endpoint_pb2.Endpoint(type="aws", connection_info_json="topsecret")
    log.info("named", password="topsecret", info={"apiKey": "topsecret"}, endpoint=endpoint)
    with LIVE_SECRETS.live(SECRET):
        log.info(f"login with {SECRET}", detail=f"x{SECRET}", many=[SECRET], inner={"plain": SECRET})
        logging.getLogger("some.sdk").error("url was %r", f"https://u:{SECRET}@h")
        try:
            raise ValueError(SECRET)
        except ValueError:
            log.exception("failed")
    text = stream.getvalue()
    assert "Traceback" in text
    for form in ("topsecret", SECRET, "ter2"):
        assert form not in text


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("as_json", [True, False])
def test_hostile_text_is_one_bounded_line_without_control_characters(as_json: bool) -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, json=as_json)
    structlog.get_logger("ours").info("guest said", text="\x1b[2J\r\u2028" + "y" * 100_000)
    text = stream.getvalue()
    assert not {"\x1b", "\r", "\u2028"} & set(text)
    assert len(text) < 6000
