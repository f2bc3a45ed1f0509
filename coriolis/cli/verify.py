"""``coriolis verify``."""

from __future__ import annotations

import time
from typing import Any

import click

from coriolis.cli.exits import Ended, Exit
from coriolis.cli.migrations import segment
from coriolis.cli.output import emit, human_bytes, output_option, print_table
from coriolis.cli.rest import Api, with_api
from coriolis.transfer.sample import MAX_SEED

POLL_S = 1.0
SHOWN_CELLS = 8


@click.command()
@click.argument("migration_id")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=1), default=86_400.0, help="Seconds to wait at most.")
@click.option("--sample", metavar="SHARE|SIZE", help="Read only so much of each disk: 5%, 200MiB. Default: all of it.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Read the same cells as an earlier sample.")
@output_option
@with_api
def verify(api: Api, migration_id: str, timeout_s: float, sample: str | None, seed: int | None, output: str) -> None:
    """Re-read the volumes of a finished migration and compare them with what was sent.

    Ends with 0 if every byte is as it was when the volume was sealed, with 10 if not. A machine that has run since
    then has written to its disks: verify before its first start, or expect differences.

    A sample takes cells of 1 MiB by chance, at least one of each GiB: it finds damage that is spread, hardly a single
    byte. Its seed is told; with the same seed the same cells are read again.

    \b
      coriolis verify 33333333-3333-4333-8333-333333333333
      coriolis verify 33333333-3333-4333-8333-333333333333 --sample 5%
      coriolis verify 33333333-3333-4333-8333-333333333333 --sample 200MiB --seed 42
    """
    path = f"/migrations/{segment(migration_id)}"
    how_much = {name: value for name, value in (("sample", sample), ("seed", seed)) if value is not None}
    found = api.call("POST", f"{path}/actions", {"verify": how_much or None})["verification"]
    deadline = time.monotonic() + timeout_s
    while found["status"] == "RUNNING":
        if time.monotonic() > deadline:
            raise click.ClickException(f"the verification did not end within {timeout_s:.0f} s; it goes on")
        time.sleep(POLL_S)
        found = api.call("GET", f"{path}/verifications/{found['id']}")["verification"]
    if not emit({"verification": found}, output):
        rows = [
            (disk["instance"], disk["disk_id"], _checked(disk), human_bytes(disk["differing_bytes"]), _cells(disk),
             disk["message"])
            for disk in found["disks"]
        ]  # fmt: skip
        print_table(("Instance", "Disk", "Checked", "Different", "Cells (MiB)", ""), rows)
        if found["sample"]:
            click.echo(f"Sample {found['sample']}, seed {found['seed']}")
        click.echo(found["status"] + (f": {found['message']}" if found["message"] else ""))
    if found["status"] != "COMPLETED":
        raise Ended(Exit.DIFFERENT if found["status"] == "DIFFERS" else Exit.FAILED)


def _cells(disk: dict[str, Any]) -> str | None:
    """The first cells that differ: offsets in MiB."""
    listed = disk["differing_cells"][:SHOWN_CELLS]
    more = disk["differing_cell_count"] - len(listed)
    return (", ".join(map(str, listed)) + (f" and {more} more" if more else "")) or None


def _checked(disk: dict[str, Any]) -> str:
    return f"{human_bytes(disk['checked_bytes'])} / {human_bytes(disk['size_bytes'])}"
