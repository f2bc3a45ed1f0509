"""``coriolis limit``."""

from __future__ import annotations

import click

from coriolis.cli.migrations import segment
from coriolis.cli.output import Document, emit, output_option, print_table
from coriolis.cli.rest import Api, with_api
from coriolis.errors import InvalidInput
from coriolis.model.bandwidth import MAX_WINDOWS, ScopeKind, zone
from coriolis.model.bandwidth_text import parse_rate, parse_window

_KINDS = "|".join(ScopeKind)


@click.group()
def limit() -> None:
    """Limit the bandwidth of an agent, of a link between two sites, or of a migration.

    \b
    Office hours on the road from paris to oslo, the whole line at night:
      coriolis limit set link:paris/oslo none --window 'Mon-Fri 08:00-18:00 200Mbit/s' --time-zone Europe/Paris
    One migration steps back; an agent pauses; both again at full speed:
      coriolis limit set job:33333333-3333-4333-8333-333333333333 25MiB/s
      coriolis limit set agent:agent-paris 0
      coriolis limit delete job:33333333-3333-4333-8333-333333333333 agent:agent-paris

    Rates are written 200Mbit/s, 25MB/s, 25MiB/s, 0 (paused) or none. A change counts within seconds, also for what
    runs. Where several limits apply, all of them hold; migrations that meet at a limit share it equally. Agents and
    links need the role admin, migrations of your project the role member.
    """


@limit.command("set")
@click.argument("scope", metavar=f"{_KINDS}:NAME")
@click.argument("rate")
@click.option(
    "--window",
    "windows",
    multiple=True,
    metavar="'DAYS FROM-TO RATE'",
    help="Every week another rate, e.g. 'Mon-Fri 08:00-18:00 200Mbit/s', 'Sat,Sun 22:00-06:00 none', "
    "'daily 00:00-24:00 0'. Repeat it for more; where windows overlap, the lowest rate holds.",
)
@click.option("--time-zone", default="UTC", show_default=True, help="Whose clock the windows follow (IANA name).")
@output_option
@with_api
def set_limit(api: Api, scope: str, rate: str, windows: tuple[str, ...], time_zone: str, output: str) -> None:
    """Set or replace a limit. RATE holds outside of all windows.

    \b
      coriolis limit set agent:agent-paris 1Gbit/s
      coriolis limit set link:paris/oslo none --window 'Mon-Fri 08:00-18:00 200Mbit/s' --time-zone Europe/Paris
      coriolis limit set job:ID 25MiB/s
    """
    path = _path(scope)
    try:
        # the gateway would refuse it as well, but would name its own fields
        parse_rate(rate, "RATE")
        for window in windows:
            parse_window(window, "--window")
        zone(time_zone)
    except InvalidInput as wrong:
        raise click.UsageError(wrong.message) from wrong
    if len(windows) > MAX_WINDOWS:
        raise click.UsageError(f"At most {MAX_WINDOWS} windows are possible.")
    body = {"bandwidth_limit": {"rate": rate, "calendar": list(windows), "time_zone": time_zone}}
    made = api.call("PUT", path, body)
    if not emit(made, output):
        _table([made["bandwidth_limit"]])


@limit.command("list")
@output_option
@with_api
def list_limits(api: Api, output: str) -> None:
    """List limits: what was set, the rate in force now, and the next change.

    Shows those of your project's migrations; with the role admin also those of agents and links.
    """
    found = api.call("GET", "/bandwidth-limits")
    if not emit(found, output):
        _table(found["bandwidth_limits"])


@limit.command()
@click.argument("scopes", nargs=-1, required=True, metavar=f"{_KINDS}:NAME...")
@with_api
def delete(api: Api, scopes: tuple[str, ...]) -> None:
    """Remove limits."""
    for path in [_path(scope) for scope in scopes]:
        api.call("DELETE", path)


def _path(scope: str) -> str:
    kind, _, name = scope.partition(":")
    parts = name.split("/") if kind == ScopeKind.LINK else [name]
    wrong = kind not in list(ScopeKind) or len(parts) != (2 if kind == ScopeKind.LINK else 1)
    if wrong or not all(parts):
        raise click.UsageError(f"{scope!r}: write agent:ID, link:ORIGIN-SITE/DESTINATION-SITE or job:MIGRATION-ID.")
    return "/".join(["/bandwidth-limits", kind, *(segment(part) for part in parts)])


def _table(limits: list[Document]) -> None:
    columns = ("Limit of", "Now", "Next change (UTC)", "Else", "Calendar", "Time zone")
    print_table(columns, [_row(one) for one in limits])


def _row(one: Document) -> tuple[object, ...]:
    change = one["next_change"]
    after = f"{change['at'][:16]}  {_said(change['rate'])}" if change else "-"
    windows = "; ".join(one["calendar"])
    zone_shown = one["time_zone"] if windows else ""
    return f"{one['scope']}:{one['name']}", _said(one["rate_now"]), after, _said(one["rate"]), windows, zone_shown


def _said(rate: object) -> str:
    return "paused" if rate == "0" else str(rate)
