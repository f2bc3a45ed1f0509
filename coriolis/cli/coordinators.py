"""``coriolis coordinator``: the role without a subcommand, ``list`` with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coriolis.cli.output import emit, output_option, print_table
from coriolis.cli.rest import Api, with_api


@click.group(invoke_without_command=True)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; variables CORIOLIS_* and options win.")
@click.option("--id", help="Its name among the coordinators.")
@click.option("--listen", metavar="HOST:PORT", help="Where gateways, agents and clients dial it.")
@click.option("--tls-dir", metavar="DIR", help="ca.pem, cert.pem, key.pem ('coriolis pki issue').")
@click.pass_context
def coordinator(context: click.Context, /, **options: Any) -> None:
    """Run a coordinator, or list coordinators.

    \b
      coriolis coordinator --config coordinator.toml
      coriolis coordinator list
    """
    if context.invoked_subcommand is None:
        from coriolis.cli.roles import run_coordinator

        run_coordinator(**options)


@coordinator.command("list")
@output_option
@with_api
def list_coordinators(api: Api, output: str) -> None:
    """List the coordinators and which one leads."""
    services = [one for one in api.call("GET", "/services")["services"] if one["binary"] == "coriolis-coordinator"]
    if emit({"coordinators": services}, output):
        return
    rows = [(one["id"], one["specs"]["address"], one["specs"]["leader"], one["specs"]["version"]) for one in services]
    print_table(("ID", "Address", "Leads", "Version"), rows)
