"""The sync twin: the asyncio client, run by a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from coriolis_client.client import Client
from coriolis_client.records import Endpoint, Event, Manifest, Migration

Result = TypeVar("Result")


class SyncClient:
    """Methods and errors of ``Client``, blocking. Safe to use from several threads."""

    def __init__(self, coordinators: Sequence[str], tls_dir: str | Path, *, election_wait_s: float = 25.0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="coriolis-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(_make(coordinators, tls_dir, election_wait_s))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread."""
        self._run(self._client.close())
        self._stop()

    @property
    def project_id(self) -> str:
        return self._client.project_id

    def create(
        self,
        *,
        origin: Endpoint,
        destination: Endpoint,
        instances: Sequence[str],
        replication_count: int = 0,
        shutdown_instances: bool = True,
        skip_os_morphing: bool = False,
        notes: str = "",
        request_id: str = "",
    ) -> Migration:
        """See ``Client.create``."""
        return self._run(
            self._client.create(
                origin=origin,
                destination=destination,
                instances=instances,
                replication_count=replication_count,
                shutdown_instances=shutdown_instances,
                skip_os_morphing=skip_os_morphing,
                notes=notes,
                request_id=request_id,
            )
        )

    def get(self, migration_id: str) -> Migration:
        """See ``Client.get``."""
        return self._run(self._client.get(migration_id))

    def list(self, status: str = "") -> Iterator[Migration]:
        """See ``Client.list``."""
        return self._iterate(self._client.list(status))

    def watch(self, migration_id: str) -> Iterator[Event]:
        """See ``Client.watch``; leaving the loop early ends the stream."""
        return self._iterate(self._client.watch(migration_id))

    def cancel(self, migration_id: str, *, force: bool = False) -> None:
        """See ``Client.cancel``."""
        self._run(self._client.cancel(migration_id, force=force))

    def delete(self, migration_id: str) -> None:
        """See ``Client.delete``."""
        self._run(self._client.delete(migration_id))

    def manifests(self, migration_id: str) -> Sequence[Manifest]:
        """See ``Client.manifests``."""
        return self._run(self._client.manifests(migration_id))

    def manifest(self, migration_id: str, disk_id: str, *, instance: str = "") -> Manifest:
        """See ``Client.manifest``."""
        return self._run(self._client.manifest(migration_id, disk_id, instance=instance))

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def _iterate(self, items: AsyncIterator[Result]) -> Iterator[Result]:
        try:
            while True:
                found = self._run(_next(items))
                if not found:
                    return
                yield found[0]
        finally:
            self._run(_finish(items))

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _make(coordinators: Sequence[str], tls_dir: str | Path, election_wait_s: float) -> Client:
    return Client(coordinators, tls_dir, election_wait_s=election_wait_s)


async def _next(items: AsyncIterator[Result]) -> tuple[Result] | tuple[()]:
    try:
        return (await anext(items),)
    except StopAsyncIteration:
        return ()


async def _finish(items: AsyncIterator[Any]) -> None:
    await items.aclose()  # type: ignore[attr-defined]  # both are generators
