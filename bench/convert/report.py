"""The table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.convert.rows import Boot, Row, Sample, checks, load_note, share_of_v2v
from bench.table import said_of

CONSOLE_LINES = 6


def show(
    console: Console,
    rows: Sequence[Row],
    found: Mapping[str, tuple[Mapping[str, Sequence[Sample]], Mapping[str, Boot], Mapping[str, str]]],
) -> None:
    """``found``: by guest, samples and boots by way, and why a way failed."""
    table = Table(title="Conversion for virtio, disk to disk", title_justify="left")
    for name in ("guest", "way", "tool"):
        table.add_column(name)
    for name in ("seconds [min-max]", "n", "of v2v's time", "MiB read", "MiB written", "boots on virtio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("goals")
    for each in rows:
        samples, boots, _ = found[each.guest]
        said = said_of(checks(each, rows))
        colour = "red" if said.startswith("MISSED") else "green" if said == "met" else "dim"
        table.add_row(*_cells(each, rows, samples[each.way], boots.get(each.way)), f"[{colour}]{said}")
    console.print(table)
    for guest, (samples, boots, failed) in found.items():
        console.print(f"{guest}: {load_note(samples)}", highlight=False)
        for way, reason in failed.items():
            console.print(f"[red]{guest}: {way} FAILED: {escape(reason)}", highlight=False)
        for way, boot in boots.items():
            if not boot.reached:
                end = "\n".join(boot.console.splitlines()[-CONSOLE_LINES:])
                console.print(f"[red]{guest}: {way} does not boot:[/]\n{escape(end)}", highlight=False)


def _cells(each: Row, rows: Sequence[Row], samples: Sequence[Sample], boot: Boot | None) -> list[str]:
    share = share_of_v2v(each, rows)
    seconds = [sample.seconds for sample in samples]
    return [
        each.guest,
        each.way,
        each.tool,
        f"{each.seconds:.1f} \\[{min(seconds):.1f}-{max(seconds):.1f}]",
        str(len(samples)),
        "" if share is None else f"1/{1 / share:.1f}",
        f"{each.read_mib:.1f}",
        f"{each.written_mib:.1f}",
        "not tried" if boot is None else f"{'yes' if boot.reached else 'NO'}, {boot.seconds:.0f} s",
    ]
