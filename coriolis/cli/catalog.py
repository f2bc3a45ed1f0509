"""``coriolis catalog``: the service and its endpoints in Keystone's catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import click

from coriolis.cli.output import emit, output_option, print_table
from coriolis.cli.rest import Api, Document, api_options, open_identity

SERVICE_TYPE = "migration"
SERVICE_NAME = "coriolis"
DESCRIPTION = "Migration of virtual machines between clouds"
INTERFACES = ("public", "internal", "admin")
PATH = "/v1/%(project_id)s"


@dataclass(frozen=True, slots=True)
class Step:
    """``action``: create, update, keep or delete; ``what``: service, or the endpoint's interface."""

    action: str
    what: str
    url: str = ""
    id: str = ""


def steps_to_register(services: Sequence[Document], endpoints: Sequence[Document], url: str, region: str) -> list[Step]:
    """What makes the catalog name ``url`` in ``region`` under all three interfaces, once each."""
    service = _ours(services)
    steps = [Step("keep" if service else "create", "service", id=service["id"] if service else "")]
    mine = _endpoints_of(service, endpoints, region)
    for interface in INTERFACES:
        found = [each for each in mine if each["interface"] == interface]
        if not found:
            steps.append(Step("create", interface, url))
        for first, each in enumerate(found):
            action = "delete" if first else "keep" if each["url"] == url else "update"
            steps.append(Step(action, interface, each["url"] if first else url, each["id"]))
    return steps


def steps_to_unregister(services: Sequence[Document], endpoints: Sequence[Document], region: str) -> list[Step]:
    """The region's endpoints go; the service goes with the last one."""
    service = _ours(services)
    if service is None:
        return []
    mine = _endpoints_of(service, endpoints, region)
    steps = [Step("delete", each["interface"], each["url"], each["id"]) for each in mine]
    elsewhere = [each for each in endpoints if each["service_id"] == service["id"] and each not in mine]
    return steps if elsewhere else [*steps, Step("delete", "service", id=service["id"])]


def _ours(services: Sequence[Document]) -> Document | None:
    """Type and name both: another product's service of the type is left alone."""
    return next((each for each in services if (each["type"], each.get("name")) == (SERVICE_TYPE, SERVICE_NAME)), None)


def _endpoints_of(service: Document | None, endpoints: Sequence[Document], region: str) -> list[Document]:
    wanted = service["id"] if service else None
    return [each for each in endpoints if each["service_id"] == wanted and each.get("region_id") == region]


def _carry_out(identity: Api, steps: Sequence[Step], region: str) -> None:
    service_id = ""
    for step in steps:
        if step.what == "service":
            if step.action == "create":
                body = {"type": SERVICE_TYPE, "name": SERVICE_NAME, "description": DESCRIPTION}
                service_id = identity.call("POST", "/services", {"service": body})["service"]["id"]
            elif step.action == "delete":
                identity.call("DELETE", f"/services/{step.id}")
            else:
                service_id = step.id
            continue
        match step.action:
            case "create":
                endpoint = {"service_id": service_id, "interface": step.what, "region_id": region, "url": step.url}
                identity.call("POST", "/endpoints", {"endpoint": endpoint})
            case "update":
                identity.call("PATCH", f"/endpoints/{step.id}", {"endpoint": {"url": step.url}})
            case "delete":
                identity.call("DELETE", f"/endpoints/{step.id}")


def _show(steps: Sequence[Step], region: str, output: str, *, dry_run: bool) -> None:
    document = {"dry_run": dry_run, "region": region, "steps": [_described(step) for step in steps]}
    if not emit(document, output):
        print_table(("ACTION", "WHAT", "REGION", "URL"), [(s.action, s.what, region, s.url) for s in steps])
        if dry_run:
            click.echo("Nothing was changed (--dry-run).")


def _described(step: Step) -> Document:
    return {"action": step.action, "what": step.what, "url": step.url or None, "id": step.id or None}


def _region(value: str | None, identity: Api) -> str:
    """The one that was named, or the only one there is."""
    regions = [each["id"] for each in identity.call("GET", "/regions")["regions"]]
    if value is None and len(regions) == 1:
        return str(regions[0])
    if value is None or value not in regions:
        raise click.UsageError(f"--region must be one of: {', '.join(regions) or 'none, Keystone has no region'}")
    return value


def _gateway_url(context: click.Context, parameter: click.Parameter, value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise click.BadParameter("must be http(s)://host[:port], as clients dial the gateway")
    if parts.path.strip("/"):
        raise click.BadParameter(f"give it without a path; {PATH} is added")
    return value.rstrip("/") + PATH


@click.group()
def catalog() -> None:
    """Enter the service into Keystone's catalog, or take it out.

    Needs an account that may change the catalog (admin), by the OS_... variables.

    \b
      coriolis catalog register http://gateway.example:7667 --dry-run
      coriolis catalog register http://gateway.example:7667 --region RegionOne
      coriolis catalog unregister --region RegionOne
    """


_region_option = click.option("--region", help="Default: the only one there is.")
_dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would be done.")


@catalog.command()
@click.argument("url", callback=_gateway_url)
@_region_option
@_dry_run_option
@output_option
@api_options
def register(url: str, region: str | None, dry_run: bool, output: str, **account: Any) -> None:
    """Make clients find the gateway at URL. Repeating it changes nothing; another URL replaces the first."""
    with open_identity(account) as identity:
        region = _region(region, identity)
        steps = steps_to_register(_services(identity), _endpoints(identity), url, region)
        if not dry_run:
            _carry_out(identity, steps, region)
    _show(steps, region, output, dry_run=dry_run)


@catalog.command()
@_region_option
@_dry_run_option
@output_option
@api_options
def unregister(region: str | None, dry_run: bool, output: str, **account: Any) -> None:
    """Take the endpoints of a region out, and with the last of them the service."""
    with open_identity(account) as identity:
        region = _region(region, identity)
        steps = steps_to_unregister(_services(identity), _endpoints(identity), region)
        if not dry_run:
            _carry_out(identity, steps, region)
    _show(steps, region, output, dry_run=dry_run)


def _services(identity: Api) -> list[Document]:
    return list(identity.call("GET", "/services", type=SERVICE_TYPE)["services"])


def _endpoints(identity: Api) -> list[Document]:
    return list(identity.call("GET", "/endpoints")["endpoints"])
