"""Order, rows and goals of the conversion bench, and how it counts what virt-v2v-in-place asks of its disks."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.convert import v2v
from bench.convert.__main__ import Outcome, main, rows_of
from bench.convert.guests import NAMES, OPTIONS, Guest
from bench.convert.ours import CountedVolume
from bench.convert.report import show
from bench.convert.rows import Boot, Row, Sample, Way, checks, load_note, order, row, share_of_v2v
from bench.table import MIB, said_of

STATS = """total: 4210 ops, 168.527390 s, 1.62 GiB, 9.87 MiB/s
read: 3464 ops, 0.458932 s, 99.94 MiB, 217.78 MiB/s op, 607.28 KiB/s total
  Request size and alignment breakdown:
    12 bits: 64.6% (2239 reqs, 8.75 MiB total)

write: 494 ops, 0.306603 s, 1.50 GiB, 146.81 MiB/s op, 273.50 KiB/s total
trim: 40 ops, 0.055865 s, 1.48 GiB, 26.55 GiB/s op, 9.01 MiB/s total
flush: 212 ops, 0.561139 s, 0 bytes, 0 bytes/s op, 0 bytes/s total
"""


def sample(seconds: float, read: int = MIB, written: int = MIB, others: float = 0.0) -> Sample:
    return Sample(seconds, read, written, others)


@pytest.mark.parametrize(
    ("ways", "count", "expected"),
    [
        (("fast", "full", "v2v"), 3, ["fast", "full", "fast", "v2v", "fast"]),
        (("fast", "full", "v2v"), 1, ["fast", "full", "v2v"]),
        (("fast", "v2v"), 4, ["fast", "fast", "v2v", "fast", "fast"]),
        (("full", "v2v"), 3, ["full", "v2v"]),
        (("fast",), 2, ["fast", "fast"]),
    ],
)
def test_fast_runs_lie_around_the_slow_ones(ways: tuple[Way, ...], count: int, expected: list[Way]) -> None:
    assert order(ways, count) == expected


def test_slow_ways_run_once_however_often_the_fast_one_does() -> None:
    assert Counter(order(("fast", "full", "v2v"), 50)) == {"fast": 50, "full": 1, "v2v": 1}


def test_a_row_takes_the_median_time_and_the_most_traffic() -> None:
    samples = [sample(9, 2 * MIB), sample(20, MIB, 3 * MIB), sample(10)]
    assert row("bios", "fast", samples, Boot(True, 30)) == Row("bios", "fast", "coriolis", 10, 2, 3, True)
    assert row("bios", "v2v", samples, None).tool == "virt-v2v-in-place"
    assert row("bios", "v2v", samples, None).boots is None, "not tried is not the same as failed"
    with pytest.raises(ValueError, match="no samples"):
        row("bios", "full", [], None)


def fast(**changed: object) -> Row:
    values = {"guest": "bios", "way": "fast", "tool": "coriolis", "seconds": 20.0, "read_mib": 64.0, "written_mib": 8.0}
    return Row(**{**values, "boots": True, **changed})  # type: ignore[arg-type]


V2V = Row("bios", "v2v", "virt-v2v-in-place", 100.0, 900.0, 900.0, False)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (fast(), "met"),
        (fast(seconds=20.5), "MISSED time / virt-v2v's 0.20, goal ≤ 0.2"),
        (fast(read_mib=64.5), "MISSED MiB read 64.50, goal ≤ 64"),
        (fast(written_mib=8.5), "MISSED MiB written 8.50, goal ≤ 8"),
        (fast(boots=False), "MISSED boots 0.00, goal ≥ 1"),
        (fast(boots=None), "met"),
        (fast(guest="lvm", seconds=900.0), "met"),
        (fast(way="full", seconds=900.0, read_mib=900.0, written_mib=900.0), "met"),
        (fast(way="full", boots=None), "-"),
        (V2V, "-"),
    ],
)
def test_goals_depend_on_the_way_and_on_what_was_tried(one: Row, said: str) -> None:
    assert said_of(checks(one, [one, V2V])) == said


def test_the_share_is_that_of_the_same_guest() -> None:
    other = Row("lvm", "v2v", "virt-v2v-in-place", 1000.0, 1, 1, None)
    assert share_of_v2v(fast(), [other, V2V]) == pytest.approx(0.2)
    assert share_of_v2v(fast(), [other]) is None
    assert share_of_v2v(V2V, [V2V]) is None


def test_what_others_took_is_said_by_way() -> None:
    note = load_note({"fast": [sample(1, others=0.5), sample(1, others=2)], "v2v": [sample(1, others=1)], "full": []})
    assert note == "cores that others kept busy meanwhile: fast 1.2 (at most 2.0), v2v 1.0 (at most 1.0)"


def test_a_way_that_failed_has_no_row() -> None:
    found = {"bios": Outcome({"v2v": [sample(100)], "fast": [sample(9)]}, {}, {"full": "no room"})}
    assert [each.way for each in rows_of(found)] == ["fast", "v2v"]


def test_the_table_names_failures_and_ends_of_consoles(capsys: pytest.CaptureFixture[str]) -> None:
    boots = {"v2v": Boot(False, 63, "(initramfs)\n   | ALERT! /dev/sda1 [gone]")}
    samples = {"fast": [sample(20), sample(30), sample(25)], "v2v": [sample(100)]}
    rows = [row("bios", "fast", samples["fast"], None), row("bios", "v2v", samples["v2v"], boots["v2v"])]
    show(Console(width=200), rows, {"bios": (samples, boots, {"full": "no room [here]"})})
    said = capsys.readouterr().out
    for part in ("25.0 [20.0-30.0]", "1/4.0", "MISSED time", "NO, 63 s", "/dev/sda1 [gone]", "no room [here]"):
        assert part in said


def test_bytes_of_nbdkits_counts() -> None:
    assert v2v.counts(STATS) == (int(99.94 * MIB), int(1.5 * 1024 * MIB))
    assert v2v.counts("total: 1 ops, 0.1 s, 512 bytes, 1 KiB/s\nread: 1 ops, 0.1 s, 512 bytes, 1 KiB/s\n") == (512, 0)


def test_only_a_server_of_a_socket_is_counted(tmp_path: Path) -> None:
    script = tmp_path / "nbdkit"
    script.write_text(v2v.counting_nbdkit("echo", tmp_path))

    def said(*arguments: str) -> str:
        return subprocess.run(["sh", script, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    assert said("--dump-config") == "--dump-config"
    counted = said("--foreground", "--unix", "/tmp/a b", "file", "file=x y")
    assert counted.startswith("--filter=stats --foreground --unix /tmp/a b file file=x y statsfile=")
    assert counted.endswith(".stats")
    assert str(tmp_path) in counted


def test_the_machine_that_v2v_reads_names_every_disk() -> None:
    tree = ElementTree.fromstring(v2v.domain([Path("/a'&<1"), Path("/b")], uefi=True))
    disks = [(disk.find("source").get("file"), disk.find("target").get("dev")) for disk in tree.iter("disk")]  # type: ignore[union-attr]
    assert disks == [("/a'&<1", "sda"), ("/b", "sdb")]
    assert tree.find("os").get("firmware") == "efi"  # type: ignore[union-attr]
    assert ElementTree.fromstring(v2v.domain([Path("/a")], uefi=False)).find("os").get("firmware") is None  # type: ignore[union-attr]


@pytest.mark.parametrize(("accelerator", "setting"), [("tcg", "force_tcg"), ("kvm", "force_kvm")])
def test_v2v_gets_the_accelerator_that_works_here(tmp_path: Path, accelerator: str, setting: str) -> None:
    environment = v2v.environment(accelerator, tmp_path)
    assert environment["LIBGUESTFS_BACKEND_SETTINGS"] == setting
    assert environment["PATH"].startswith(f"{tmp_path}/bin:")


async def test_zeroes_are_not_counted_as_data(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 8192)
    volume = CountedVolume(path, writable=True)
    await volume.write_at(0, b"y" * 100)
    await volume.write_zeroes(4096, 4096)
    await volume.read_at(0, 50)
    volume.close()
    assert (volume.read, volume.written) == (50, 100)
    assert path.read_bytes()[4096:] == bytes(4096)


def test_every_run_gets_a_fresh_copy(tmp_path: Path) -> None:
    replica = tmp_path / "replica.raw"
    replica.write_bytes(b"r" * 4096)
    guest = Guest("bios", False, (replica,))
    (volume,) = guest.fresh_volumes(tmp_path)
    volume.write_bytes(b"converted and longer" * 4096)
    assert guest.fresh_volumes(tmp_path) == (volume,)
    assert volume.read_bytes() == replica.read_bytes()


def test_the_labs_script_knows_every_option() -> None:
    script = (Path(__file__).parents[2] / "lab" / "make_debian_guest").read_text()
    assert len(NAMES) == len({OPTIONS[name] for name in NAMES})
    for option in (word for name in NAMES for word in OPTIONS[name] if word.startswith("--")):
        assert f"  {option}) " in script


def test_help_teaches_and_an_unknown_word_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    taught = CliRunner().invoke(main, ["--help"])
    assert taught.exit_code == 0
    for word in ("fast", "full", "virt-v2v", "1/5", "Example: python -m bench.convert"):
        assert word in taught.output
    refused = CliRunner().invoke(main, ["--ways", "quick", "--out", str(tmp_path / "x.json")])
    assert refused.exit_code == 2
    assert "choose among fast, full, v2v" in refused.output


def test_without_virt_v2v_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = CliRunner().invoke(main, ["--out", str(tmp_path / "x.json")])
    assert refused.exit_code == 1
    assert "apt-get install --no-install-recommends virt-v2v" in refused.output
    assert "--ways fast,full" in refused.output
