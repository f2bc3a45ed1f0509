"""``-o table|json|yaml``: for people, for programs, for both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

Document = dict[str, Any]
Row = Sequence[object]
Command = TypeVar("Command", bound=Callable[..., Any])

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
FORMATS = ("table", "json", "yaml")
STYLES = {
    "COMPLETED": "green",
    "UP": "green",
    "OPEN": "green",
    "CLOSED": "red",
    "ERROR": "red",
    "DOWN": "red",
    "DIFFERS": "red",
    "CANCELED": "yellow",
}


def output_option(command: Command) -> Command:
    """``-o/--output`` as parameter ``output``."""
    option = click.option(
        "-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True, help="Form of the output."
    )
    return option(command)


def emit(document: Any, output: str) -> bool:
    """Write ``document`` as JSON or YAML; False for ``table``, which is the command's own work."""
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    elif output == "yaml":
        click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)
    return output != "table"


def print_table(columns: Sequence[str], rows: Sequence[Row]) -> None:
    """One row per line; what comes from elsewhere is never read as markup."""
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console().print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """One field per line."""
    table = Table("Field", "Value", box=SIMPLE_HEAD, pad_edge=False)
    for name, value in fields.items():
        table.add_row(name, _cell(value))
    console().print(table)


def console(*, stderr: bool = False) -> Console:
    """For tables: not narrower than they are when the output is no terminal."""
    plain = Console(stderr=stderr, highlight=False, markup=False)
    return plain if plain.is_terminal else Console(stderr=stderr, highlight=False, markup=False, width=200)


def _cell(value: object) -> Text:
    match value:
        case None:
            return Text("")
        case bool():
            return Text("yes" if value else "no")
        case dict() | list() if value:
            return Text(json.dumps(value))
        case dict() | list():
            return Text("")
    text = printable(str(value))
    return Text(text, style=STYLES.get(text, ""))


def printable(text: str) -> str:
    """Names come from clouds and guests: what is not printable, which could drive a terminal, becomes ``?``."""
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in text)


def human_bytes(count: float) -> str:
    """``1.5 GiB``; whole bytes below 1 KiB."""
    if count < 1024:
        return f"{count:.0f} B"
    power = min((int(count).bit_length() - 1) // 10, len(UNITS) - 1)
    return f"{count / 1024**power:.1f} {UNITS[power]}"


def human_seconds(seconds: float | None) -> str:
    """``1:02:03``, ``2:03``; ``-`` while unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
