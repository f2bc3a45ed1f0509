"""``coriolis inspect``."""

from __future__ import annotations

import time
from typing import Any

import click

from coriolis.cli.exits import Ended, Exit
from coriolis.cli.migration_input import connection, read_document
from coriolis.cli.migrations import segment
from coriolis.cli.output import emit, output_option, print_fields, print_table
from coriolis.cli.rest import Api, with_api
from coriolis.convert.platforms import PLATFORMS

POLL_S = 1.0
Document = dict[str, Any]


@click.command()
@click.argument("endpoint")
@click.argument("instance")
@click.option("--connection", "connection_text", metavar="JSON|@FILE", help="How to reach ENDPOINT, when it is a type.")
@click.option("--secret", metavar="ID", help="A stored secret instead.")
@click.option("--platform", type=click.Choice(sorted(PLATFORMS)), help="What it would be converted for; default kvm.")
@click.option("--conversion", metavar="JSON|@FILE", help="As conversion of a target environment.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=1), default=1800.0, help="Seconds to wait at most.")
@output_option
@with_api
def inspect(
    api: Api,
    endpoint: str,
    instance: str,
    connection_text: str | None,
    secret: str | None,
    platform: str | None,
    conversion: str | None,
    timeout_s: float,
    output: str,
) -> None:
    """Say what system is on a machine's disks and what conversion would do. Nothing is changed.

    ENDPOINT is a provider type together with --connection or --secret, or @FILE: a JSON or YAML file with type and
    connection_info, or one for 'migration create', of which the origin is taken. A machine that runs is read from a
    snapshot, which is removed again.

    Ends with 0 if conversion would go ahead, with 1 if a finding stands in its way or the disks cannot be read.

    \b
      coriolis inspect libvirt vm-01 --connection '{"uri": "qemu+ssh://a/system"}'
      coriolis inspect @wave1.yaml vm-01 --platform openstack -o json
    """
    body: Document = {"origin": _origin(endpoint, connection_text, secret), "instance": instance}
    if platform:
        body["target_platform"] = platform
    if conversion:
        body["conversion"] = read_document(conversion, "--conversion")
    found = api.call("POST", "/inspections", {"inspection": body})["inspection"]
    deadline, told = time.monotonic() + timeout_s, 0
    while found["status"] == "RUNNING":
        if time.monotonic() > deadline:
            raise click.ClickException(f"the inspection did not end within {timeout_s:.0f} s; it goes on")
        time.sleep(POLL_S)
        found = api.call("GET", f"/inspections/{segment(found['id'])}")["inspection"]
        for event in found["events"][told:]:
            click.echo(event, err=True)
        told = len(found["events"])
    if not emit({"inspection": found}, output):
        _show(found)
    if not found["convertible"]:
        raise Ended(Exit.FAILED)


def _origin(endpoint: str, connection_text: str | None, secret: str | None) -> Document:
    if not endpoint.startswith("@"):
        given = connection(connection_text, secret, "origin")
        if given is None:
            raise click.UsageError("--connection or --secret is missing: how to reach the endpoint.")
        return {"type": endpoint, "connection_info": given}
    document = read_document(endpoint, "ENDPOINT")
    document = document.get("migration", document)
    origin = document.get("origin", document)
    if not isinstance(origin, dict) or not origin.get("type"):
        raise click.UsageError(f"{endpoint[1:]} has neither type and connection_info nor an origin with them.")
    return {name: origin[name] for name in ("type", "connection_info", "source_environment") if name in origin}


def _show(found: Document) -> None:
    if found["status"] == "ERROR":
        click.echo(f"ERROR: {found['message']}")
        return
    system = found["system"]
    print_fields(
        {
            "Instance": found["instance"],
            "System": system["title"],
            "Family": f"{system['os_type']}, {system['family']}",
            "Converted for": found["target_platform"],
            "Convertible": "yes" if found["convertible"] else "no",
        }
    )
    print_table(("Step", "What would be done"), [(step["name"], step["title"]) for step in found["steps"]])
    if found["findings"]:
        rows = [(one["severity"], one["code"], one["message"], one["action"]) for one in found["findings"]]
        print_table(("Finding", "Code", "What", "What to do"), rows)
