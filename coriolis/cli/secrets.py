"""``coriolis secret``."""

from __future__ import annotations

import sys

import click

from coriolis.cli.migration_input import read_document
from coriolis.cli.migrations import segment
from coriolis.cli.output import emit, output_option, print_table
from coriolis.cli.rest import Api, with_api

MAX_STDIN_CHARS = 64 * 1024


@click.group()
def secret() -> None:
    """Store connection infos, to be named instead of repeated.

    \b
    A migration names it as {"secret_id": ID} in place of a connection_info:
      coriolis secret put lab-b @lab-b.json
      coriolis migration create ... --destination-secret ID
    """


@secret.command()
@click.argument("name")
@click.argument("payload", metavar="@FILE|-|JSON")
@output_option
@with_api
def put(api: Api, name: str, payload: str, output: str) -> None:
    """Store a JSON object. It is encrypted and never shown again; '-' reads it from standard input."""
    text = sys.stdin.read(MAX_STDIN_CHARS) if payload == "-" else payload
    made = api.call("POST", "/secrets", {"secret": {"name": name, "payload": read_document(text, "PAYLOAD")}})
    if not emit(made, output):
        click.echo(made["secret"]["id"])


@secret.command("list")
@output_option
@with_api
def list_secrets(api: Api, output: str) -> None:
    """List names and ids."""
    found = api.call("GET", "/secrets")
    if not emit(found, output):
        rows = [(one["id"], one["name"], one["created_at"][:19]) for one in found["secrets"]]
        print_table(("ID", "Name", "Created (UTC)"), rows)


@secret.command()
@click.argument("secret_ids", nargs=-1, required=True)
@with_api
def delete(api: Api, secret_ids: tuple[str, ...]) -> None:
    """Delete secrets. Migrations that still need them end in ERROR."""
    for secret_id in secret_ids:
        api.call("DELETE", f"/secrets/{segment(secret_id)}")
