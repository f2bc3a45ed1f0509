"""From flags or a file to the body of a creation. What is wrong is said before anything is sent, naming the option."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from coriolis.model.user_scripts import MAX_SCRIPT_BYTES

Document = dict[str, Any]

MAX_FILE_BYTES = 1 << 20


def read_document(text: str, option: str) -> Document:
    """A JSON object given as text, or ``@FILE`` with JSON or YAML."""
    if text.startswith("@"):
        return read_file(Path(text[1:]), option)
    try:
        document = json.loads(text)
    except ValueError as broken:
        raise click.BadParameter(f"is not JSON ({broken}); @FILE reads a file", param_hint=option) from broken
    return _object(document, option)


def read_file(path: Path, option: str) -> Document:
    """A JSON or YAML file that holds an object."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise click.BadParameter(f"{path} is larger than {MAX_FILE_BYTES} bytes", param_hint=option)
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as failed:
        raise click.BadParameter(f"{path} cannot be read: {failed.strerror}", param_hint=option) from failed
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise click.BadParameter(f"{path} is neither YAML nor JSON: {broken}", param_hint=option) from broken
    return _object(document, option)


def _object(document: object, option: str) -> Document:
    if not isinstance(document, dict):
        raise click.BadParameter("must be an object", param_hint=option)
    return document


def networks(pairs: Sequence[str]) -> dict[str, str]:
    """``ORIGIN=DESTINATION`` pairs."""
    found = {}
    for pair in pairs:
        origin, equals, destination = pair.partition("=")
        if not equals or not origin or not destination:
            raise click.BadParameter(f"{pair!r} is not ORIGIN=DESTINATION", param_hint="--network")
        found[origin] = destination
    return found


def user_scripts(everywhere: Sequence[str], own: Sequence[str], phase: str) -> Document | None:
    """``user_scripts`` from ``OS_TYPE=FILE`` and ``INSTANCE=FILE`` pairs; several of one key keep their order."""
    found: Document = {}
    for member, pairs, option in (
        ("global", everywhere, "--script"),
        ("instances", own, "--instance-script"),
    ):
        for pair in pairs:
            key, equals, path = pair.partition("=")
            if not equals or not key or not path:
                raise click.BadParameter(f"{pair!r} is not NAME=FILE", param_hint=option)
            entry = {"payload": _script(Path(path), option), "phase": phase}
            found.setdefault(member, {}).setdefault(key, []).append(entry)
    return found or None


def _script(path: Path, option: str) -> str:
    try:
        if path.stat().st_size > MAX_SCRIPT_BYTES:
            raise click.BadParameter(f"{path} is larger than {MAX_SCRIPT_BYTES} bytes", param_hint=option)
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failed:
        raise click.BadParameter(f"{path} cannot be read as text: {failed}", param_hint=option) from failed


def connection(text: str | None, secret_id: str | None, side: str) -> Document | None:
    """From ``--SIDE-connection`` or ``--SIDE-secret``, one of them; None if neither is given."""
    if text and secret_id:
        raise click.UsageError(f"--{side}-connection and --{side}-secret exclude each other.")
    if secret_id:
        return {"secret_id": secret_id}
    return read_document(text, f"--{side}-connection") if text else None


def merged(file: Path | None, flags: Document) -> Document:
    """The member ``migration`` of a body: the file's content, with what flags say laid over it, member by member."""
    migration = read_file(file, "--file") if file else {}
    if set(migration) == {"migration"}:
        migration = _object(migration["migration"], "--file")
    found = merge(migration, flags)
    for member, option in (("origin", "--origin"), ("destination", "--destination"), ("instances", "--instance")):
        if not found.get(member):
            raise click.UsageError(f"{member} is missing: give {option}, or a file with a member {member}.")
    return found


def merge(below: Document, above: Document) -> Document:
    """``above`` wins; objects in both are merged in the same way. None in ``above`` means not given."""
    merged = dict(below)
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = merge(merged[name], value)
        elif isinstance(value, dict):
            inner = merge({}, value)
            if inner:
                merged[name] = inner
        elif value is not None:
            merged[name] = value
    return merged
