"""The options that say what is migrated from where to where, for every command that takes a whole request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from coriolis.cli.clouds_yaml import cloud_connection
from coriolis.cli.migration_input import connection, networks, read_document

Document = dict[str, Any]
Command = TypeVar("Command", bound=Callable[..., Any])

_CLOUD = "Entry of your clouds.yaml instead of type and connection: OpenStack."
_OPTIONS = (
    click.option("--file", "-f", type=click.Path(path_type=Path), help="JSON or YAML; other options are laid over it."),
    click.option("--origin", metavar="TYPE", help="Provider of the origin, e.g. libvirt, image."),
    click.option("--origin-connection", metavar="JSON|@FILE", help="How to reach the origin."),
    click.option("--origin-secret", metavar="ID", help="A stored secret instead."),
    click.option("--origin-cloud", metavar="NAME", help=_CLOUD),
    click.option("--source-environment", metavar="JSON|@FILE"),
    click.option("--destination", metavar="TYPE", help="Provider of the destination."),
    click.option("--destination-connection", metavar="JSON|@FILE", help="How to reach the destination."),
    click.option("--destination-secret", metavar="ID", help="A stored secret instead."),
    click.option("--destination-cloud", metavar="NAME", help=_CLOUD),
    click.option("--target-environment", metavar="JSON|@FILE", help="Where and as what the machines are made."),
    click.option("--network", multiple=True, metavar="ORIGIN=DESTINATION", help="Network map; repeatable."),
    click.option("--instance", multiple=True, metavar="NAME", help="Machine to migrate; repeatable."),
)


def request_options(command: Command) -> Command:
    """The options; their values go to ``endpoint_flags``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def endpoint_flags(options: Document) -> Document:
    """What the options say, as members of a request; a side given by ``--SIDE-cloud`` has a member ``cloud``."""
    environment, target = options["source_environment"], options["target_environment"]
    return {
        "origin": {
            **_side(options, "origin"),
            "source_environment": read_document(environment, "--source-environment") if environment else None,
        },
        "destination": {
            **_side(options, "destination"),
            "target_environment": {
                **(read_document(target, "--target-environment") if target else {}),
                "network_map": networks(options["network"]) or None,
            },
        },
        "instances": list(options["instance"]) or None,
    }


def _side(options: Document, side: str) -> Document:
    given = connection(options[f"{side}_connection"], options[f"{side}_secret"], side)
    if options[f"{side}_cloud"] and given:
        raise click.UsageError(f"--{side}-cloud excludes --{side}-connection and --{side}-secret.")
    return {"type": options[side], "cloud": options[f"{side}_cloud"], "connection_info": given}


def with_connections(migration: Document) -> Document:
    """``migration`` as the REST API takes it: what a member ``cloud`` names is read from clouds.yaml."""
    found = dict(migration)
    for side in ("origin", "destination"):
        end = migration[side]
        if not isinstance(end, dict) or "cloud" not in end:
            continue
        if not isinstance(end["cloud"], str) or not end["cloud"]:
            raise click.UsageError(f"{side}.cloud must be the name of an entry of clouds.yaml.")
        if end.get("type", "openstack") != "openstack" or end.get("connection_info"):
            raise click.UsageError(f"{side}: beside a cloud of clouds.yaml there is no other type or connection_info.")
        plain = {name: value for name, value in end.items() if name != "cloud"}
        found[side] = {**plain, "type": "openstack", "connection_info": cloud_connection(end["cloud"])}
    return found
