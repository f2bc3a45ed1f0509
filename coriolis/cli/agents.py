"""``coriolis agent``: the role without a subcommand, ``list`` with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coriolis.cli.output import emit, output_option, print_table
from coriolis.cli.rest import Api, with_api


@click.group(invoke_without_command=True)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; variables CORIOLIS_* and options win.")
@click.option("--id", help="Its name in the mesh; must be the one in its certificate.")
@click.option("--site", help="Name of the place where it runs.")
@click.option("--listen", metavar="ADDRESS", help="Address on which it takes disk data from other agents.")
@click.option("--tls-dir", metavar="DIR", help="ca.pem, cert.pem, key.pem ('coriolis pki issue').")
@click.option("--state-dir", metavar="DIR", help="Its journals; keep them across restarts.")
@click.pass_context
def agent(context: click.Context, /, **options: Any) -> None:
    """Run an agent near a cloud, or list agents.

    \b
      coriolis agent --site paris --config agent.toml
      coriolis agent list
    """
    if context.invoked_subcommand is None:
        from coriolis.cli.roles import run_agent

        run_agent(**options)


@agent.command("list")
@output_option
@with_api
def list_agents(api: Api, output: str) -> None:
    """List the agents that work for this project."""
    services = [one for one in api.call("GET", "/services")["services"] if one["binary"] == "coriolis-worker"]
    if emit({"agents": services}, output):
        return
    rows = [
        (one["id"], one["specs"]["site"], one["status"], ", ".join(one["providers"]), one["specs"]["version"])
        for one in services
    ]
    print_table(("ID", "Site", "Status", "Providers", "Version"), rows)
