"""``coriolis link``."""

from __future__ import annotations

from typing import Any

import click

from coriolis.cli.output import emit, human_bytes, output_option, print_table
from coriolis.cli.rest import Api, with_api


@click.group()
def link() -> None:
    """Look at the links between sites.

    A link leads from the site of an origin to the site of a destination. Its path is how disk data gets there:

    \b
      dialled  the origin's agent dials the destination's
      reverse  the destination's agent dials the origin's, which cannot dial it
      relay    neither can dial the other: both dial a third agent with relay = true,
               which copies what it cannot read

    The mesh measures this by itself and takes the best path for each transfer. A CLOSED link says what to open:
    one direction is enough, in a firewall the ports of data_ports in the agent's configuration.
    """


@link.command("list")
@output_option
@with_api
def list_links(api: Api, output: str) -> None:
    """List each site pair with path, round trip, speed and limit.

    \b
      coriolis link list
      coriolis link list -o json
    """
    links = api.call("GET", "/links")["links"]
    if emit({"links": links}, output):
        return
    print_table(
        ("Origin", "Destination", "State", "Path", "Relay", "RTT", "Speed", "Best, 1 h", "Limit"),
        [_row(one) for one in links],
    )
    for one in links:
        if one["state"] == "CLOSED":
            click.echo(f"{one['origin_site']} -> {one['destination_site']}: {one['why']}", err=True)


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    rtt = one["rtt_ms"]
    return (
        one["origin_site"],
        one["destination_site"],
        one["state"],
        one["path"],
        one["relay"],
        None if rtt is None else f"{rtt:.1f} ms",
        _speed(one["speed_bytes_per_s"]),
        _speed(one["best_speed_bytes_per_s"]),
        "none" if one["limit_bytes_per_s"] is None else _speed(one["limit_bytes_per_s"]) or "paused",
    )


def _speed(bytes_per_s: int) -> str | None:
    return f"{human_bytes(bytes_per_s)}/s" if bytes_per_s else None
