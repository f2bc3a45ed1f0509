"""OS_MORPHING leaves a deployed manifest, and VERIFY_DISKS compares with it. The conversion itself is replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coriolis.agent.assignment import Assignment
from coriolis.agent.manifest_update import RecordingWriter, deployed_path
from coriolis.agent.replicate_sink import manifest_paths, packed
from coriolis.agent.tasks import os_morphing, verify_disks
from coriolis.agent.workplace import Workplace
from coriolis.coordinator.manifests import find_manifest, list_manifests
from coriolis.errors import Conflict, Corrupt, NotFound
from coriolis.model.job import InstanceRun
from tests.unit.agent.pair import Lab, agent, content, full_plan

MIB = 1 << 20
MakeLab = Callable[[int], Lab]
SIZE = 6 * MIB + 512


class Context:
    """What the two tasks need of a task's context."""

    def __init__(self, here: Lab, state_dir: Path, results: dict[str, Any]) -> None:
        disk = {"id": "d", "size_bytes": SIZE}
        machine = {"name": "vm", "id": "vm", "num_cpu": 1, "memory_mb": 1, "devices": {"disks": [disk]}}
        given = {"environment": {}, "results": {"export_info": machine, **results}}
        self.assignment = Assignment("a", "p", "m", "t", "T", "vm", 0, "", 1, 1, "image", given)
        self.workplace = Workplace("sink", state_dir, here.tls["sink"])
        self.events: list[str] = []

    async def connection_info(self) -> dict[str, Any]:
        return {}

    def event(self, message: str, level: str = "INFO") -> None:
        self.events.append(message)


async def convert(request: Any, readers: Any, writers: Sequence[RecordingWriter], *_: Any, **__: Any) -> Any:
    await writers[0].write_at(4 * MIB + 3, b"virtio")
    summary = SimpleNamespace(system=SimpleNamespace(title="Debian"), seconds=1.0)
    return SimpleNamespace(summary=summary, disks=[SimpleNamespace(data_bytes=6)])


async def test_a_converted_disk_is_verified_against_what_conversion_left(
    lab: MakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = lab(SIZE)
    disk = content(SIZE, [(0, 2 * MIB)])
    await here.send(disk, full_plan(disk))
    sink = here.sinks[-1]
    assert sink.proof is not None
    volume = {"id": "v", "name": "v", "size_bytes": SIZE}
    context: Any = Context(here, tmp_path / "state", {"volumes": {"d": volume}})
    results = context.assignment.results
    results |= {"manifests": {"d": sink.manifest_digest.hex()}, "proofs": packed(context, {"d": sink.proof})}
    sealed = manifest_paths(context, "m")["d"]
    sealed.parent.mkdir(parents=True)
    here.manifest.rename(sealed)

    @asynccontextmanager
    async def opened(*_: Any) -> AsyncIterator[Any]:
        yield here.volume

    target = SimpleNamespace(open_writer=opened)
    for module in (os_morphing, verify_disks):
        monkeypatch.setattr(module, "open_endpoint", opened)
        monkeypatch.setattr(module, "volumes_of", lambda *_: target)
    monkeypatch.setattr(os_morphing, "volumes_in_order", lambda work: [SimpleNamespace(id="v")])
    monkeypatch.setattr(os_morphing, "request_for", lambda *_: None)
    monkeypatch.setattr(os_morphing, "convert", convert)

    def manifest() -> Any:
        return find_manifest([InstanceRun("m", "p", "vm", 0, (), results)], "d", "")

    assert not manifest().HasField("deployed")
    assert (await verify_disks.run(context))["verified"][0]["root"] == manifest().root
    before = sealed.read_bytes()
    results |= await os_morphing.run(context)
    assert sealed.read_bytes() == before
    assert manifest().deployed.signer == agent("sink")
    assert (manifest().data_cells, manifest().deployed.data_cells) == (2, 3)
    assert len(manifest().statements) == 3

    [good] = (await verify_disks.run(context))["verified"]
    assert (good["differing_bytes"], good["root"]) == (0, manifest().deployed.root)
    here.volume.now[5 * MIB] ^= 1
    [bad] = (await verify_disks.run(context))["verified"]
    assert bad["differing_cells"] == [5]
    deployed_path(sealed).unlink()
    with pytest.raises(Corrupt, match="recorded"):
        await verify_disks.run(context)
    results.pop("deployed")
    [unconverted] = (await verify_disks.run(context))["verified"]
    assert unconverted["differing_cells"] == [4, 5]


async def test_disks_of_one_id_are_told_apart_and_malformed_results_hide_nothing_else(lab: MakeLab) -> None:
    here = lab(SIZE)
    disk = bytes(SIZE)
    await here.send(disk, full_plan(disk))
    proof = here.sinks[-1].proof
    assert proof is not None
    context: Any = Context(here, here.directory, {})
    kept = {"proofs": packed(context, {"d": proof})}
    runs = [InstanceRun("m", "p", f"vm-{n}", n, (), kept) for n in range(2)]
    broken = InstanceRun("m", "p", "vm-2", 2, (), {"proofs": {"disks": 1}})
    older = InstanceRun("m", "p", "vm-3", 3, (), {"manifests": {"d": "00"}})
    assert [one.instance for one in list_manifests([*runs, broken, older])] == ["vm-0", "vm-1"]
    with pytest.raises(Conflict, match="name the instance"):
        find_manifest(runs, "d", "")
    assert find_manifest(runs, "d", "vm-1").instance == "vm-1"
    with pytest.raises(NotFound):
        find_manifest(runs, "e", "")
