"""``coriolis verify``."""

from __future__ import annotations

import time

import click

from coriolis.cli.exits import Ended, Exit
from coriolis.cli.migrations import segment
from coriolis.cli.output import emit, human_bytes, output_option, print_table
from coriolis.cli.rest import Api, with_api

POLL_S = 1.0


@click.command()
@click.argument("migration_id")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=1), default=86_400.0, help="Seconds to wait at most.")
@output_option
@with_api
def verify(api: Api, migration_id: str, timeout_s: float, output: str) -> None:
    """Re-read the volumes of a finished migration and compare them with what was sent.

    Ends with 0 if every byte is as it was when the volume was sealed, with 10 if not. A machine that has run since
    then has written to its disks: verify before its first start, or expect differences.
    """
    path = f"/migrations/{segment(migration_id)}"
    found = api.call("POST", f"{path}/actions", {"verify": None})["verification"]
    deadline = time.monotonic() + timeout_s
    while found["status"] == "RUNNING":
        if time.monotonic() > deadline:
            raise click.ClickException(f"the verification did not end within {timeout_s:.0f} s; it goes on")
        time.sleep(POLL_S)
        found = api.call("GET", f"{path}/verifications/{found['id']}")["verification"]
    if not emit({"verification": found}, output):
        rows = [
            (disk["instance"], disk["disk_id"], human_bytes(disk["checked_bytes"]),
             human_bytes(disk["differing_bytes"]), disk["first_difference"], disk["message"])
            for disk in found["disks"]
        ]  # fmt: skip
        print_table(("Instance", "Disk", "Checked", "Different", "First at", ""), rows)
        click.echo(found["status"] + (f": {found['message']}" if found["message"] else ""))
    if found["status"] != "COMPLETED":
        raise Ended(Exit.DIFFERENT if found["status"] == "DIFFERS" else Exit.FAILED)
