"""Progress of running disks: in the leader's memory only, fanned out to watchers. Never stored at 1 Hz."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from coriolis.rpc.gen.coriolis.v1 import job_pb2, types_pb2

QUEUE_EVENTS = 1000
"""A watcher that falls behind by more is ended; it reconnects and gets the state anew."""

ATTEMPT_COUNTS = (
    "read_bytes",
    "sent_bytes",
    "written_bytes",
    "zero_bytes",
    "resent_bytes",
    "unpacked_bytes",
    "packed_bytes",
)


class Watcher:
    """One reader of a migration's events, who knows its ``status`` already: each state is told once."""

    def __init__(self, status: str) -> None:
        self._status = status
        self._queue: asyncio.Queue[job_pb2.WatchMigrationResponse | None] = asyncio.Queue(QUEUE_EVENTS)

    def push(self, event: job_pb2.WatchMigrationResponse) -> None:
        if event.WhichOneof("event") == "state":
            if event.state.status == self._status:
                return
            self._status = event.state.status
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.end()

    def end(self) -> None:
        """Let the reader finish what is queued; on overflow the oldest event gives way to the end mark."""
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def events(self) -> AsyncIterator[job_pb2.WatchMigrationResponse]:
        while (event := await self._queue.get()) is not None:
            yield event


class ProgressBoard:
    """Latest progress per task and disk, and the watchers of each migration."""

    def __init__(self) -> None:
        self._disks: dict[str, dict[tuple[str, str], types_pb2.DiskProgress]] = {}
        self._watchers: dict[str, set[Watcher]] = {}
        self._judged: dict[str, int] = {}
        self._earlier: dict[tuple[str, str], types_pb2.DiskProgress] = {}
        self._raw: dict[tuple[str, str], types_pb2.DiskProgress] = {}

    def report(self, migration_id: str, disk: types_pb2.DiskProgress) -> None:
        """Take one report; numbers shown never go backwards inside a task (invariant I12).

        Reports count per attempt: what earlier attempts read and sent is added, so that a restart is not hidden.
        """
        self._add_earlier(disk)
        disks = self._disks.setdefault(migration_id, {})
        before = disks.get((disk.task_id, disk.disk_id))
        if before is not None:
            disk.done_bytes = max(disk.done_bytes, before.done_bytes)
            disk.durable_bytes = max(disk.durable_bytes, before.durable_bytes)
            disk.sealed = disk.sealed or before.sealed
        disks[disk.task_id, disk.disk_id] = disk
        self.publish(migration_id, job_pb2.WatchMigrationResponse(disk=disk))

    def _add_earlier(self, disk: types_pb2.DiskProgress) -> None:
        key = (disk.task_id, disk.disk_id)
        last = self._raw.get(key)
        earlier = self._earlier.setdefault(key, types_pb2.DiskProgress())
        if last is not None and disk.read_bytes + disk.zero_bytes < last.read_bytes + last.zero_bytes:
            for name in ATTEMPT_COUNTS:
                setattr(earlier, name, getattr(earlier, name) + getattr(last, name))
        raw = types_pb2.DiskProgress()
        raw.CopyFrom(disk)
        self._raw[key] = raw
        for name in ATTEMPT_COUNTS:
            setattr(disk, name, getattr(disk, name) + getattr(earlier, name))

    def disks(self, migration_id: str) -> list[types_pb2.DiskProgress]:
        return list(self._disks.get(migration_id, {}).values())

    def all_disks(self) -> Iterator[tuple[str, types_pb2.DiskProgress]]:
        """(migration id, progress) of every disk that was reported in this term."""
        for migration_id, disks in self._disks.items():
            for disk in disks.values():
                yield migration_id, disk

    def moved_since_last_asked(self, migration_id: str, task_id: str) -> bool:
        """Whether more became durable for the task since this was last asked: the attempt was not in vain."""
        durable = sum(disk.durable_bytes for disk in self.disks(migration_id) if disk.task_id == task_id)
        before = self._judged.get(task_id, 0)
        self._judged[task_id] = max(before, durable)
        return durable > before

    def forget(self, migration_id: str) -> None:
        for disk in self.disks(migration_id):
            self._judged.pop(disk.task_id, None)
            self._raw.pop((disk.task_id, disk.disk_id), None)
            self._earlier.pop((disk.task_id, disk.disk_id), None)
        self._disks.pop(migration_id, None)

    def publish(self, migration_id: str, event: job_pb2.WatchMigrationResponse) -> None:
        for watcher in self._watchers.get(migration_id, ()):
            watcher.push(event)

    def end_watchers(self, migration_id: str) -> None:
        for watcher in self._watchers.get(migration_id, ()):
            watcher.end()

    def end_all_watchers(self) -> None:
        """The term is over: whoever watches asks the next leader."""
        for migration_id in self._watchers:
            self.end_watchers(migration_id)

    @contextmanager
    def watching(self, migration_id: str, status: str) -> Iterator[Watcher]:
        """Subscribe, with the migration's ``status`` of this moment, for the time of the context."""
        watcher = Watcher(status)
        self._watchers.setdefault(migration_id, set()).add(watcher)
        try:
            yield watcher
        finally:
            watchers = self._watchers[migration_id]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[migration_id]
