"""Our agents' task processes, source and sink, as real processes; this module plays their agents' part."""

from __future__ import annotations

import asyncio
import os
import queue
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.images import first_difference
from bench.measure import SAMPLE_S, MachineTime, Tracked
from bench.scene import ROOT, Place, Scene
from bench.table import Sample
from coriolis.agent import assignment as assignment_module
from coriolis.agent.assignment import Assignment
from coriolis.agent.child_protocol import (
    Call,
    Done,
    EventLine,
    Failed,
    FromChild,
    Listening,
    ProgressLine,
    Reply,
    Start,
    decode_for_agent,
    encode_line,
)
from coriolis.agent.workplace import Workplace
from coriolis.ids import new_id, resource_name
from coriolis.model.machine import to_document
from coriolis.model.resource import Tag, VolumeRequest
from coriolis.providers.block.staged import StagedVolumes
from coriolis.providers.image.inventory import ImageInventory
from coriolis.rpc.gen.coriolis.v1 import types_pb2

RUN_TIMEOUT_S = 1800.0
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 30.0
MAX_DISK_BYTES = 64 << 40
INSTANCE = "bench"
MAX_EVENTS = 30

OnProgress = Callable[[int, int], None]
"""(bytes done, bytes in all) of the running copy."""


def transport_said(events: Sequence[str]) -> str:
    """The transport that the tasks' events name last: ``grpc``, ``direct``, or empty when none does."""
    named = [word for event in events for word in re.findall(r"\b(grpc|direct)\b", event.lower())]
    return named[-1] if named else ""


def check_transport(wanted: str, events: Sequence[str]) -> None:
    """Raise OSError when the tasks did another thing than they were asked for: its row would carry a false name."""
    said = transport_said(events)
    if wanted == "direct" and said != "direct":
        raise OSError("transport direct was asked for, but no task's event says that it was used")
    if wanted == "grpc" and said == "direct":
        raise OSError("transport grpc was asked for, but a task's event says that direct was used")


def _nothing(done: int, total: int) -> None:
    pass


@dataclass
class Child:
    """A task's process and what it said."""

    role: str
    process: Tracked
    done_at: float = 0.0
    events: list[str] = field(default_factory=list)
    listener: threading.Thread | None = None


@dataclass
class Talk:
    """The conversation with both children: lines arrive in threads, everything else happens in the caller's."""

    scene: Scene
    directories: dict[str, str]
    on_progress: OnProgress
    heard: queue.Queue[tuple[float, Child, FromChild | None]] = field(default_factory=queue.Queue)
    children: dict[str, Child] = field(default_factory=dict)
    address: str = ""
    began_at: float = 0.0
    began_cpu: float = 0.0

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        """No child stays; its pipes are closed when nobody reads them any more."""
        for child in self.children.values():
            child.process.kill()
            if child.listener is not None:
                child.listener.join(END_TIMEOUT_S)
            child.process.abandon()

    def start(self, role: str, place: Place, assignment: Assignment, workplace: Workplace) -> Child:
        argv = [*place.prefix, sys.executable, "-m", "coriolis.agent.task_process"]
        environ = {"PYTHONPATH": str(ROOT)}
        log = self.scene.logs / f"ours-{role}.log"
        child = Child(role, Tracked(argv, log=log, environ=environ, cwd=ROOT, pipes=True))
        self.children[role] = child
        child.listener = threading.Thread(target=self._listen, args=(child,), daemon=True)
        child.listener.start()
        self._say(child, Start(assignment, workplace, os.getpid()))
        return child

    def _say(self, child: Child, message: Start | Reply) -> None:
        child.process.stdin.write(encode_line(message))
        child.process.stdin.flush()

    def _listen(self, child: Child) -> None:
        while line := child.process.stdout.readline():
            self.heard.put((time.monotonic(), child, decode_for_agent(line)))
        self.heard.put((time.monotonic(), child, None))

    def until(self, reached: Callable[[], bool], timeout_s: float) -> None:
        """Answer and listen until ``reached``. Raises OSError when a child fails, TimeoutError."""
        deadline = time.monotonic() + timeout_s
        next_look = 0.0
        while not reached():
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError(f"our task processes were not done within {timeout_s:.0f} s; see {self.scene.logs}")
            if now >= next_look:
                next_look = now + SAMPLE_S
                for each in self.children.values():
                    each.process.look()
            try:
                at, child, message = self.heard.get(timeout=SAMPLE_S)
            except queue.Empty:
                continue
            self._hear(at, child, message)

    def _hear(self, at: float, child: Child, message: FromChild | None) -> None:
        match message:
            case Call():
                self._answer(child, message)
            case Listening(address):
                self.address = address
            case EventLine(level, text):
                if len(child.events) < MAX_EVENTS:
                    child.events.append(f"{child.role} {level}: {text}")
            case ProgressLine(disk):
                progress = types_pb2.DiskProgress.FromString(disk)
                self.on_progress(progress.done_bytes, progress.total_bytes)
            case Done():
                child.done_at = at
                child.process.look()
            case Failed(code, text):
                raise OSError(f"our {child.role} failed: {code}: {text}")
            case None if not child.done_at:
                raise OSError(f"our {child.role} ended without a result:\n{child.process.tail()}")

    def _answer(self, child: Child, call: Call) -> None:
        value: dict[str, Any] = {}
        if call.method == "connection_info":
            value = {"path": self.directories[child.role]}
            if child.role == "source" and not self.began_at:
                # it has imported what it needs and now turns to the disk: the copy begins
                self.began_cpu = sum(each.process.look() for each in self.children.values())
                self.began_at = time.monotonic()
        self._say(child, Reply(call.call_id, value))


@dataclass(frozen=True)
class Route:
    """Another path than dialled: its name, the key of this attempt, and the data port as each side dials it."""

    path: str
    key: bytes = field(repr=False)
    source_meets: str
    sink_meets: str

    def assign(self, assignment: Assignment) -> Assignment:
        """``assignment`` with the order for this path. Raises OSError in a tree that knows no paths."""
        order = getattr(assignment_module, "RoadOrder", None)
        if order is None:
            raise OSError(f"this tree's agents know no path {self.path}")
        meets = self.sink_meets if assignment.role == "sink" else self.source_meets
        routed: Assignment = msgspec.structs.replace(assignment, road=order(self.path, meets, self.key))
        return routed


@dataclass(frozen=True)
class Ours:
    """Our agents over one transport; always with mTLS and digests."""

    transport: str
    route: Route | None = None

    @property
    def name(self) -> str:
        return f"coriolis {self.transport}"

    def run(self, scene: Scene, on_progress: OnProgress = _nothing) -> Sample:
        """Copy the scene's image once and compare. Raises OSError when a child fails, ValueError on a difference."""
        job = new_id()
        sink_dir = scene.work / "destination"
        folders = (sink_dir, scene.work / "state-source", scene.work / "state-sink")
        try:
            inputs, volume = asyncio.run(_prepare(scene, sink_dir, job))
            inputs["environment"] = {"transport": self.transport}
            talk = Talk(scene, {"source": str(scene.image.parent), "sink": str(sink_dir)}, on_progress)
            machine = MachineTime.now()
            with talk:
                sample = self._copy(scene, talk, job, inputs)
            allocated, others = volume.stat().st_blocks * 512, machine.others_since(sample.whole_cpu_s)
            different = first_difference(scene.image, volume)
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        if different is not None:
            raise ValueError(f"{self.name} left another disk than the image, from byte {different}")
        return msgspec.structs.replace(sample, allocated=allocated, others=others)

    def _start(self, scene: Scene, talk: Talk, place: Place, assignment: Assignment) -> Child:
        workplace = _workplace(scene, assignment.role)
        if self.route is not None:
            assignment = self.route.assign(assignment)
            if assignment.role == "source":
                workplace = msgspec.structs.replace(workplace, meeting_address=self.route.source_meets)
        return talk.start(assignment.role, place, assignment, workplace)

    def _copy(self, scene: Scene, talk: Talk, job: str, inputs: dict[str, Any]) -> Sample:
        sink = self._start(scene, talk, scene.sink, _assignment(scene, job, "sink", inputs))
        talk.until(lambda: bool(talk.address), START_TIMEOUT_S)
        assignment = _assignment(scene, job, "source", inputs, talk.address)
        source = self._start(scene, talk, scene.source, assignment)
        talk.until(lambda: bool(talk.began_at), START_TIMEOUT_S)
        talk.until(lambda: bool(source.done_at and sink.done_at), RUN_TIMEOUT_S)
        sent, received = source.process.wait(END_TIMEOUT_S), sink.process.wait(END_TIMEOUT_S)
        cpu = sent.cpu_s + received.cpu_s
        check_transport(self.transport, source.events + sink.events)
        return Sample(
            copy_s=max(source.done_at, sink.done_at) - talk.began_at,
            whole_s=max(source.process.ended_at, sink.process.ended_at) - sink.process.started_at,
            cpu_s=cpu - talk.began_cpu,
            whole_cpu_s=cpu,
            source_rss=sent.largest_rss,
            sink_rss=received.largest_rss,
            total_rss=sent.total_rss + received.total_rss,
            allocated=0,
            events=tuple(source.events + sink.events),
        )


async def _prepare(scene: Scene, sink_dir: Path, job: str) -> tuple[dict[str, Any], Path]:
    """The inputs that both tasks share, and where the fresh volume's bytes are."""
    description = scene.image.parent / f"{INSTANCE}.toml"
    description.write_text(
        f'name = "{INSTANCE}"\nnum_cpu = 1\nmemory_mb = 512\n[[disks]]\nfile = "{scene.image.name}"\nformat = "raw"\n'
    )
    spec = await ImageInventory(str(scene.image.parent)).get_instance(INSTANCE)
    sink_dir.mkdir()
    volumes = StagedVolumes(str(sink_dir), MAX_DISK_BYTES)
    disk = spec.devices.disks[0]
    request = VolumeRequest(
        resource_name(job, 0, "disk-0"), disk.size_bytes, Tag(job, "0-disk-0"), environment={"allow_overcommit": True}
    )
    volume = await volumes.create_volume(request)
    attributes = {
        "id": volume.id,
        "name": volume.name,
        "size_bytes": volume.size_bytes,
        "fresh_is_zero": volume.fresh_is_zero,
        "attributes": volume.attributes,
    }
    results = {"export_info": to_document(spec), "volumes": {disk.id: attributes}}
    return {"results": results, "pass_number": 1, "last_pass": True}, Path(volumes.path(volume.name))


def _assignment(scene: Scene, job: str, role: str, inputs: dict[str, Any], address: str = "") -> Assignment:
    return Assignment(
        assignment_id=new_id(),
        project_id="bench",
        migration_id=job,
        task_id=f"replicate-{role}",
        task_type="REPLICATE_DISKS",
        instance=INSTANCE,
        instance_index=0,
        role=role,
        generation=1,
        epoch=1,
        provider="image",
        input=inputs,
        peer_address=address,
        peer_identity=scene.identity("sink") if role == "source" else "",
        allowed_identity=scene.identity("source") if role == "sink" else "",
    )


def _workplace(scene: Scene, role: str) -> Workplace:
    place = scene.source if role == "source" else scene.sink
    state = scene.work / f"state-{role}"
    return Workplace(f"bench-{role}", state, scene.tls[role], place.address, place.address)
