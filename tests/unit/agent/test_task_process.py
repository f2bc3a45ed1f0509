"""What a task's process says leaves it without secrets, and still says what it has to."""

from __future__ import annotations

import pytest

from coriolis.agent.child_protocol import (
    Done,
    EventLine,
    Failed,
    FromChild,
    Listening,
    decode_for_agent,
    encode_line,
)
from coriolis.agent.task_process import without_secrets
from coriolis.security.redact import LIVE_SECRETS, MASK


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (EventLine("INFO", "login with hunter22 failed"), EventLine("INFO", f"login with {MASK} failed")),
        (Failed("denied", "hunter22 is wrong"), Failed("denied", f"{MASK} is wrong")),
        (Done({"a": ["x hunter22", {"b": "hunter22"}], "n": 7}), Done({"a": [f"x {MASK}", {"b": MASK}], "n": 7})),
        (Listening("127.0.0.1:1"), Listening("127.0.0.1:1")),
    ],
)
def test_texts_are_masked_wherever_they_stand(said: FromChild, heard: FromChild) -> None:
    with LIVE_SECRETS.live("hunter22"):
        assert decode_for_agent(encode_line(without_secrets(said))) == heard


@pytest.mark.parametrize("password", ["done", "type", "result", "event", "call"])
def test_a_password_may_be_a_word_of_the_protocol(password: str) -> None:
    with LIVE_SECRETS.live(password):
        heard = decode_for_agent(encode_line(without_secrets(Done({"export_info": {"num_cpu": 1}}))))
    assert heard == Done({"export_info": {"num_cpu": 1}})
