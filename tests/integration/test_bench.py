"""The bench drives real task processes and real peers, and would notice a wrong copy."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.images import copy_sparse, make_image
from bench.ours import Ours
from bench.peers import Peer, Tool
from bench.scene import Place, Scene, scene

SIZE = 24 << 20
PROGRAMS: dict[Tool, tuple[str, ...]] = {"nbdcopy": ("nbdcopy", "nbdkit"), "qemu-img": ("qemu-img", "qemu-nbd")}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Scene]:
    with scene(Place(), Place(), work_parent=tmp_path) as made:
        copy_sparse(make_image("realistic", SIZE, tmp_path / "images"), made.image)
        yield made


def test_our_processes_copy_and_are_measured(here: Scene) -> None:
    told: list[tuple[int, int]] = []
    sample = Ours("grpc").run(here, lambda done, total: told.append((done, total)))
    assert told[-1] == (SIZE, SIZE)
    assert 0 < sample.copy_s < sample.whole_s
    assert 0 < sample.cpu_s < sample.whole_cpu_s
    assert min(sample.source_rss, sample.sink_rss) > 20 << 20
    assert sample.allocated < SIZE
    assert [path.name for path in here.work.iterdir() if path.name not in ("origin", "tls")] == []


@pytest.mark.parametrize("tool", PROGRAMS)
@pytest.mark.parametrize("tls", [True, False])
def test_peers_copy_and_are_measured(here: Scene, tool: Tool, tls: bool) -> None:
    absent = [program for program in PROGRAMS[tool] if shutil.which(program) is None]
    if absent:
        pytest.skip(f"needs {', '.join(absent)}")
    sample = Peer(tool, tls).run(here)
    assert 0 < sample.copy_s < sample.whole_s
    assert 0 < sample.cpu_s <= sample.whole_cpu_s
    assert sample.allocated < SIZE


def test_a_probe_that_finishes_tells_its_time_and_one_that_does_not_looks_ahead(here: Scene) -> None:
    assert 0 < Peer("nbdcopy").probe(here, 60) < 60
    # stopped long before it could even connect: nothing is expected of it
    assert Peer("nbdcopy").probe(here, 0.001) == float("inf")
    assert not (here.work / "destination.raw").exists()


def test_a_peer_without_a_certificate_is_refused(here: Scene) -> None:
    # the encrypted rows really are: nbdkit lets nobody in who shows no certificate of the mesh
    for name in ("cert.pem", "key.pem"):
        (here.tls["source"].cert.parent / name).write_text("")
    with pytest.raises(OSError, match="nbdcopy"):
        Peer("nbdcopy").run(here)


def test_a_wrong_copy_is_no_result(here: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.ours.first_difference", lambda one, other: 4096)
    with pytest.raises(ValueError, match="from byte 4096"):
        Ours("grpc").run(here)


def test_after_a_failure_the_next_run_starts_clean(here: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = here.image.rename(here.image.with_suffix(".away"))
    with pytest.raises(Exception, match=re.escape(here.image.name)):
        Ours("grpc").run(here)
    moved.rename(here.image)

    def refuse(wanted: str, events: list[str]) -> None:
        raise OSError("another transport")

    with monkeypatch.context() as patch:
        patch.setattr("bench.ours.check_transport", refuse)  # asked at the very end of a copy
        with pytest.raises(OSError, match="another transport"):
            Ours("grpc").run(here)
    assert Ours("grpc").run(here).copy_s > 0
