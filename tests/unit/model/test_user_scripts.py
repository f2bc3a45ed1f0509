"""Scripts of a job in the published form."""

from __future__ import annotations

from typing import Any

import pytest

from coriolis.errors import InvalidInput
from coriolis.model.user_scripts import (
    DEFAULT_PHASE,
    MAX_SCRIPT_BYTES,
    MAX_SCRIPTS,
    UserScript,
    checked,
    for_machine,
)

SCRIPT = "#!/bin/sh\ntrue\n"


def test_all_three_forms_of_a_value() -> None:
    document = checked(
        {
            "global": {"linux": SCRIPT, "windows": None},
            "instances": {"vm": [{"payload": "a", "phase": "replica_first_boot"}, {"payload": "b"}], "other": None},
        },
        ("vm", "other"),
    )
    assert for_machine(document, "linux", "vm") == (
        UserScript(DEFAULT_PHASE, "global linux 1", SCRIPT),
        UserScript("replica_first_boot", "instance 1", "a"),
        UserScript(DEFAULT_PHASE, "instance 2", "b"),
    )
    assert for_machine(document, "windows", "other") == ()


def test_what_clients_send_for_nothing_is_nothing() -> None:
    for empty in ({}, {"global": {}, "instances": {}}, {"global": None, "instances": None}):
        assert checked(empty, ("vm",)) == {}


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ({"globl": {}}, "globl"),
        ({"global": []}, "must be an object"),
        ({"global": {"dos": SCRIPT}}, "one of bsd"),
        ({"instances": {"stranger": SCRIPT}}, "an instance of this job"),
        ({"global": {"linux": ""}}, "payload is empty"),
        ({"global": {"linux": [{"payload": " "}]}}, "payload is empty"),
        ({"global": {"linux": 5}}, "a string, null or a list"),
        ({"global": {"linux": [SCRIPT]}}, "must be an object with payload"),
        ({"global": {"linux": [{"payload": "x", "phase": "later"}]}}, "phase is none of"),
        ({"global": {"linux": [{"payload": "x", "stage": "y"}]}}, "must be an object with payload"),
        ({"global": {"linux": "x" * (MAX_SCRIPT_BYTES + 1)}}, "more than 65536 bytes"),
        ({"global": {"linux": [{"payload": "x"}] * (MAX_SCRIPTS + 1)}}, "more than 16 scripts"),
        ({"global": {"linux": [{"payload": "x" * 60_000}] * 5}}, "more than 262144 bytes"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        checked(document, ("vm",))
