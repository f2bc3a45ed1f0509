"""What operators read: numbers, tables, progress lines, exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from rich.console import Console

from coriolis.cli.exits import MEANING, Exit, HttpFailure, report
from coriolis.cli.migration_input import connection, merge, merged, networks
from coriolis.cli.output import emit, human_bytes, human_seconds, print_table
from coriolis.cli.progress import Display, disk_numbers
from coriolis.cli.rest import Account, read_events
from coriolis.errors import InvalidInput

DISK: dict[str, Any] = {
    "task_id": "t",
    "instance": "vm-01",
    "disk_id": "vda",
    "pass_number": 1,
    "total_bytes": 1 << 30,
    "done_bytes": 512 << 20,
    "sent_bytes": 100 << 20,
    "rate_bytes_per_s": 100 << 20,
    "eta_s": 5.12,
    "sealed": False,
}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 << 20, "1.5 GiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0:00"), (65, "1:05"), (3723, "1:02:03"), (-1, "0:00")]
)
def test_seconds(seconds: float | None, text: str) -> None:
    assert human_seconds(seconds) == text


def test_disk_numbers() -> None:
    assert disk_numbers(DISK) == "512.0 MiB / 1.0 GiB  100.0 MiB/s  ETA 0:05"
    assert disk_numbers({**DISK, "sealed": True, "done_bytes": 1 << 30}) == "1.0 GiB / 1.0 GiB  sealed, 100.0 MiB sent"


def test_progress_without_a_terminal_is_plain_lines_said_once() -> None:
    out = io.StringIO()
    task = {
        "id": "t", "instance": "vm[red]01", "task_type": "REPLICATE_DISKS", "status": "RUNNING",
        "exception_details": None, "events": [{"id": "e", "level": "INFO", "message": "First [bold]pass"}],
    }  # fmt: skip
    with Display(Console(file=out, width=200)) as display:
        for _ in range(3):
            display.show("state", {"status": "RUNNING"})
            display.show("task", task)
            display.show("disk", DISK)
            display.show("disk", {**DISK, "sealed": True})
            display.show("unknown", {})
    lines = [line.split(" ", 1)[1] if line[2:3] == ":" else line for line in out.getvalue().splitlines()]
    assert lines == [
        "RUNNING",
        "vm[red]01: REPLICATE_DISKS RUNNING",
        "vm[red]01: First [bold]pass",
        "vm-01 vda pass 1: 512.0 MiB / 1.0 GiB  100.0 MiB/s  ETA 0:05",
        "vm-01 vda pass 1: 512.0 MiB / 1.0 GiB  sealed, 100.0 MiB sent",
    ]


def test_formats(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"migration": {"id": "1", "notes": None, "name": "Zürich"}}
    assert emit(document, "json")
    assert json.loads(capsys.readouterr().out) == document
    assert emit(document, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == document
    assert not emit(document, "table")
    print_table(("A", "B"), [("[red]x", None), ({"k": 1}, True)])
    out = capsys.readouterr().out
    assert "[red]x" in out
    assert '{"k": 1}' in out


def test_event_stream_is_read() -> None:
    lines = [": ping", "event: state", 'data: {"a": 1}', "", "event:disk", 'data:{"b":', "data: 2}", "", "data: {}"]
    assert list(read_events(iter(lines))) == [("state", {"a": 1}), ("disk", {"b": 2})]


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 8), (401, 6), (403, 6), (404, 5), (409, 7), (413, 8), (429, 9), (500, 1), (503, 9), (0, 9)],
)
def test_exit_codes_of_refusals(status: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(HttpFailure("no", status)) == code
    assert capsys.readouterr().err.startswith(f"Error: no (HTTP {status})" if status else "Error: no\n")


def test_exit_codes_of_the_rest() -> None:
    assert report(click.UsageError("x")) == Exit.USAGE
    assert report(click.Abort()) == 130
    assert report(KeyboardInterrupt()) == 130
    assert report(InvalidInput("x")) == Exit.REFUSED
    assert set(MEANING) == set(Exit)


def test_flags_are_laid_over_a_file(tmp_path: Any) -> None:
    file = tmp_path / "wave.yaml"
    file.write_text(
        "migration:\n  origin: {type: image, connection_info: {a: 1}}\n  destination: {type: image}\n  instances: [x]\n"
    )
    flags: dict[str, Any] = {
        "origin": {"type": None, "connection_info": {"secret_id": "s"}},
        "destination": {"type": "libvirt", "target_environment": {"network_map": {"a": "b"}}},
        "instances": None,
        "notes": "n",
    }
    made = merged(file, flags)
    assert made["origin"] == {"type": "image", "connection_info": {"a": 1, "secret_id": "s"}}
    assert made["destination"] == {"type": "libvirt", "target_environment": {"network_map": {"a": "b"}}}
    assert (made["instances"], made["notes"]) == (["x"], "n")
    with pytest.raises(click.UsageError, match="origin is missing"):
        merged(None, {"origin": {"type": None}})


def test_what_could_drive_a_terminal_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("Name",), [("evil\x1b[2J\x07 name",)])
    shown = capsys.readouterr().out
    assert "evil?[2J? name" in shown
    assert "\x1b" not in shown


def test_bad_flags_name_themselves(tmp_path: Any) -> None:
    with pytest.raises(click.BadParameter) as wrong:
        networks(["a"])
    assert wrong.value.param_hint == "--network"
    with pytest.raises(click.UsageError, match="exclude"):
        connection("{}", "id", "origin")
    with pytest.raises(click.BadParameter, match="not JSON"):
        connection("{", None, "origin")
    with pytest.raises(click.BadParameter, match="object"):
        connection("[]", None, "origin")
    with pytest.raises(click.BadParameter, match="cannot be read"):
        connection(f"@{tmp_path}/absent", None, "origin")
    assert merge({"a": {"b": 1}}, {"a": {"b": None, "c": {"d": None}}}) == {"a": {"b": 1}}


def test_an_account_hides_its_password() -> None:
    assert "sesame" not in repr(Account("http://x", "u", "open sesame", "p"))


def test_the_documented_exit_codes_are_the_real_ones() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text()
    for code, meaning in MEANING.items():
        assert f"| {code.value} | {meaning} |" in text
