"""``coriolis plan``: what serves at the destination for what the machines use at the origin."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from coriolis.cli.exits import Ended, Exit
from coriolis.cli.migration_input import merged
from coriolis.cli.migrations import segment
from coriolis.cli.output import emit, human_bytes, output_option, print_table, printable
from coriolis.cli.request_options import endpoint_flags, request_options, with_connections
from coriolis.cli.rest import Api, with_api
from coriolis.model.machine import MachineSpec, from_document
from coriolis.model.migration_plan import CREATE, Plan, make_plan
from coriolis.model.network import CloudConfiguration
from coriolis.model.network_mapping import Match, Takes
from coriolis.model.survey import Surveyed

POLL_S = 0.5
Document = dict[str, Any]

EXAMPLE = """\b
Examples:
  coriolis plan wave1.yaml                       # a request for 'migration create --file'
  coriolis plan --origin-cloud old --destination-cloud new --instance web --instance db
  coriolis plan --origin image --origin-connection '{"path": "/srv/vms"}' --instance web \\
      --destination-cloud mycloud --network lan=private --save web.yaml && \\
      coriolis migration create --file web.yaml --wait

\b
How it is found (first column of the table, then why):
  mapped        you said so             same_name      the destination has one of that name
  same_subnets  the same addresses      as_written     the destination takes any name
  to_make       create_missing_networks only           there is no other choice
  default       the destination's own   ignored        the destination has no such thing
  ambiguous, missing: say it, with --network or in --target-environment

\b
Ends with 0 when everything has its place, with 1 when something is missing.
"""


@click.command(epilog=EXAMPLE)
@click.argument("request_file", required=False, type=click.Path(path_type=Path))
@request_options
@click.option("--create-missing-networks", "create", is_flag=True, help="As the member of the target environment.")
@click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the request with the plan's target environment.",
)
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=1), default=300.0, help="Seconds to wait at most.")
@output_option
@with_api
def plan(
    api: Api, request_file: Path | None, create: bool, save: Path | None, timeout_s: float, **options: Any
) -> None:
    """Say how networks and storage of a migration would be mapped, what differs and what is missing.

    REQUEST_FILE (or --file) and the options are those of 'migration create'. Both clouds are asked for their networks,
    security groups and storage, the origin for the machines' NICs and disks; nothing is changed. At the end stands the
    target_environment to use, which --save writes into a request for 'migration create --file'.
    """
    if request_file and options["file"]:
        raise click.UsageError("REQUEST_FILE and --file are the same; give one.")
    flags = endpoint_flags(options)
    if create:
        flags["destination"]["target_environment"][CREATE] = True
    asked = merged(request_file or options["file"], flags)
    request = with_connections(asked)
    found = _survey(api, request, timeout_s)
    machines, refused = _machines(found["origin"])
    environment = request["destination"].get("target_environment") or {}
    origin, destination = (_configuration(found[side]) for side in ("origin", "destination"))
    takes = msgspec.convert(found["destination"]["takes"] or {}, Takes)
    made = make_plan(machines, _known(origin, machines), destination, takes, environment)
    complete = not made.missing and not refused
    if save and complete:
        _save(save, {**asked, "destination": {**asked["destination"], "target_environment": made.target_environment}})
    document = {"complete": complete, "refused": refused, **msgspec.to_builtins(made)}
    if not emit({"plan": document, **found}, options["output"]):
        _show(made, machines, refused, found)
        if save:
            click.echo(f"Request written to {save}." if complete else f"{save} is not written: something is missing.")
    if not complete:
        raise Ended(Exit.FAILED)


def _survey(api: Api, request: Document, timeout_s: float) -> dict[str, Document]:
    """Both ends, at the same time."""
    keys = ("type", "connection_info", "source_environment", "target_environment")
    found = {}
    for side in ("origin", "destination"):
        body: Document = {side: {key: request[side][key] for key in keys if key in request[side]}}
        if side == "origin":
            body["instances"] = request["instances"]
        found[side] = api.call("POST", "/surveys", {"survey": body})["survey"]
    deadline = time.monotonic() + timeout_s
    for side, survey in found.items():
        while found[side]["status"] == "RUNNING":
            if time.monotonic() > deadline:
                last = found[side]["events"][-1:] or ["no agent has begun it"]
                raise click.ClickException(f"the {side} did not answer within {timeout_s:.0f} s: {last[0]}")
            time.sleep(POLL_S)
            found[side] = api.call("GET", f"/surveys/{segment(survey['id'])}")["survey"]
        if found[side]["status"] == "ERROR":
            raise click.ClickException(f"the {side} cannot be described: {found[side]['message']}")
    return found


def _machines(survey: Document) -> tuple[list[MachineSpec], list[Document]]:
    """Those that are known, and ``{instance, message}`` of the others."""
    described = [from_document(one["machine"]) for one in survey["machines"] if one["machine"]]
    refused = [
        {"instance": one["instance"], "message": one["message"]} for one in survey["machines"] if not one["machine"]
    ]
    return described, refused


def _configuration(survey: Document) -> CloudConfiguration:
    names = ("detail", "networks", "security_groups", "storage_types", "left_out")
    return msgspec.convert({name: survey[name] for name in names}, Surveyed).configuration


def _known(listed: CloudConfiguration, machines: list[MachineSpec]) -> CloudConfiguration:
    """What machines bring with them goes before the list, which may be cut."""
    own = [one.configuration for one in machines if not isinstance(one.configuration, msgspec.UnsetType)]

    def together(member: str) -> Any:
        found: dict[tuple[str, str], Any] = {}
        for configuration in (*own, listed):
            for one in getattr(configuration, member):
                found.setdefault((one.name, one.id), one)
        return tuple(found[key] for key in sorted(found))

    return CloudConfiguration(together("networks"), together("security_groups"), together("storage_types"))


def _save(path: Path, request: Document) -> None:
    """Readable by its owner alone: it may hold credentials."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o600)
            yaml.safe_dump(request, file, sort_keys=False, allow_unicode=True)
    except OSError as failed:
        raise click.ClickException(f"{path} cannot be written: {failed.strerror}") from failed


def _show(made: Plan, machines: list[MachineSpec], refused: list[Document], found: dict[str, Document]) -> None:
    rows = []
    for spec in machines:
        rows.append(
            (
                spec.name,
                f"{spec.num_cpu} CPU, {spec.memory_mb} MiB",
                "; ".join(_nic(nic.network_name, nic.ip_addresses) for nic in spec.devices.nics) or "none",
                "; ".join(
                    f"{human_bytes(disk.size_bytes)} on {disk.storage_backend_identifier}"
                    if disk.storage_backend_identifier
                    else human_bytes(disk.size_bytes)
                    for disk in spec.devices.disks
                ),
            )
        )
    rows += [(one["instance"], f"not described: {one['message']}", "", "") for one in refused]
    print_table(("Machine", "Size", "Networks", "Disks"), rows)
    proposal = made.proposal
    kinds = (("network", proposal.networks), ("group", proposal.security_groups), ("storage", proposal.storage_types))
    known = _details(found["destination"])
    matches = [_row(kind, match, known) for kind, some in kinds for match in some]
    print_table(("Kind", "Origin", "Destination", "Why", "Differs"), matches)
    for network in made.networks:
        inside = "; ".join(
            f"{one.name or 'subnet'} {one.cidr}, gateway {one.gateway or 'none'}" for one in network.subnets
        )
        _say(f"{CREATE} makes the network {network.name} ({inside}).")
    for group in made.security_groups:
        _say(f"{CREATE} makes the security group {group.name} ({len(group.rules)} rules).")
    for side, survey in found.items():
        if survey["detail"] == "names":
            _say(f"Note: the {side} ({survey['type']}) tells no subnets of its networks.")
        if survey["left_out"]:
            _say(f"Note: {survey['left_out']} things of the {side} are not listed; name them by id if need be.")
    for note in made.notes:
        _say(f"Note: {note}.")
    for sentence in (*made.missing, *(f"machine {one['instance']!r}: {one['message']}" for one in refused)):
        _say(f"Missing: {sentence}.")
    _say(f"target_environment: {json.dumps(made.target_environment, ensure_ascii=False)}")


def _say(sentence: str) -> None:
    click.echo(printable(sentence))


def _nic(network: str, addresses: tuple[str, ...]) -> str:
    return f"{network} ({', '.join(addresses)})" if addresses else network


def _details(survey: Document) -> dict[tuple[str, str, str], str]:
    """What a table says of a destination's networks and storage, by kind, name and id."""
    there = _configuration(survey)
    said = {}
    for network in there.networks:
        vlan = f"VLAN {network.vlan}" if network.vlan not in ("", "none") else ""
        said["network", network.name, network.id] = ", ".join(filter(None, (network.kind, vlan, network.bridge)))
    for one in there.storage_types:
        room = f"{human_bytes(one.free_bytes)} free" if one.free_bytes is not None else ""
        if one.free_bytes is not None and one.capacity_bytes is not None:
            room += f" of {human_bytes(one.capacity_bytes)}"
        use = "" if one.usable else "not usable now"
        said["storage", one.name, one.id] = ", ".join(filter(None, (one.kind, room, use)))
    return said


def _row(kind: str, match: Match, known: dict[tuple[str, str, str], str]) -> tuple[str, str, str, str, str]:
    there = match.destination
    if match.why == "to_make":
        there = f"{there} (new)"
    elif more := known.get((kind, match.destination, match.destination_id)):
        there = f"{there} ({more})"
    return kind, match.origin or "(disks without one)", there, match.why, "; ".join(match.differences)
