"""Images of Glance in a staging folder: fetched by ranges over several connections, resumed, checked by digest.

Ranges: Image API v2, "Download binary image data": 206 with ``Range`` where the store can; a store that cannot answers
200 with everything, and is read front to back then. (Glance 25 with the file store: 206, seen.)
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import http.client
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from coriolis.errors import CoriolisError, Corrupt, NotFound, QuotaExceeded, TimedOut, Unavailable
from coriolis.providers.block.calls import Calls
from coriolis.providers.block.os_errors import free_bytes, from_os_error
from coriolis.providers.block.raw_io import write_exact
from coriolis.providers.openstack.cloud_errors import from_status, printable
from coriolis.providers.openstack.server_snapshots import Part
from coriolis.providers.openstack.session import Session

CONNECTIONS = 4
PIECE_BYTES = 16 << 20
READ_BYTES = 1 << 20
ATTEMPTS = 5
"""Of one piece."""
FIRST_WAIT_S = 1.0
SOCKET_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = 4 * 3600.0
LOCK_POLL_S = 1.0
MAX_SAID_BYTES = 4096
DIGESTS = frozenset({"sha512", "sha256", "md5", "sha1"})
DONE = b"\x01"


class _NoRangesError(Exception):
    """The store answers a range with everything."""


class Target(msgspec.Struct, frozen=True):
    """Where Glance is. ``prefix``: what stands before ``/v2`` in its paths."""

    secure: bool
    host: str
    port: int
    prefix: str


def target_of(endpoint: str) -> Target:
    """Of the catalog's address, with or without a version."""
    parts = urlsplit(endpoint)
    path = parts.path.rstrip("/")
    last = path.rsplit("/", 1)[-1]
    if last.startswith("v2"):
        path = path.removesuffix(f"/{last}")
    secure = parts.scheme == "https"
    return Target(secure, parts.hostname or "", parts.port or (443 if secure else 80), path)


def pieces_of(size: int, done: bytes) -> Iterator[tuple[int, int]]:
    """(first byte, length) of each piece that ``done`` does not mark."""
    for number, offset in enumerate(range(0, size, PIECE_BYTES)):
        if done[number : number + 1] != DONE:
            yield offset, min(PIECE_BYTES, size - offset)


class ImageFolder:
    """``folder`` holds the images of one project alone."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session, self._folder = session, folder

    @asynccontextmanager
    async def fetched(self, part: Part) -> AsyncIterator[str]:
        """Path of the image's content, whole and as Glance's digest says. Another task's download is waited for.

        Raises QuotaExceeded, NotFound, Corrupt, Denied, Unavailable, TimedOut.
        """
        lock = await asyncio.to_thread(self._open, f"{part.id}.lock")
        try:
            await _locked(lock, part.id)
            path = self._folder / f"{part.id}.image"
            if not await asyncio.to_thread(path.exists):
                await self._download(part, path)
        finally:
            os.close(lock)
        yield str(path)

    async def remove(self, image_id: str) -> None:
        """Success when there is nothing."""

        def unlink() -> None:
            for suffix in ("image", "part", "pieces", "lock"):
                with contextlib.suppress(FileNotFoundError):
                    (self._folder / f"{image_id}.{suffix}").unlink()

        try:
            await asyncio.to_thread(unlink)
        except OSError as error:
            raise from_os_error(error, f"remove the staged image {image_id}") from error

    async def staged(self) -> list[str]:
        """Ids of images of which something is here."""

        def find() -> list[str]:
            return sorted({path.stem for path in self._folder.glob("*.*")}) if self._folder.exists() else []

        return await asyncio.to_thread(find)

    def _open(self, name: str) -> int:
        try:
            for folder in (self._folder.parent, self._folder):  # a parent that mkdir makes ignores the mode
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise from_os_error(error, f"stage an image in {self._folder}") from error

    async def _download(self, part: Part, path: Path) -> None:
        for left in (1, 0):
            try:
                await self._attempt(part, path)
            except Corrupt:
                # pieces marked as done that a power cut took away, or damage on the way: once more, from the start
                await self.remove(part.id)
                if not left:
                    raise
            else:
                return

    async def _attempt(self, part: Part, path: Path) -> None:
        partial = await asyncio.to_thread(self._open, f"{part.id}.part")
        pieces = await asyncio.to_thread(self._open, f"{part.id}.pieces")
        calls, stop = Calls(CONNECTIONS + 1, "glance"), threading.Event()
        try:
            await calls.run(self._check_room, partial, part)
            job = _Download(self._session, part, partial, pieces, stop)
            await calls.run(job.prepare)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(CONNECTIONS):
                        group.create_task(calls.run(job.work))
            except BaseExceptionGroup as failed:
                stop.set()  # the threads of the others
                if failed.subgroup(_NoRangesError) is None:
                    raise _first(failed) from failed
                await calls.run(job.stream)
            await calls.run(job.check)
            await calls.run(os.fsync, partial)
            await calls.run(os.rename, self._folder / f"{part.id}.part", path)
        except OSError as error:
            raise from_os_error(error, f"stage image {part.id}", partial) from error
        finally:
            stop.set()
            await calls.close(lambda: _close(partial, pieces))

    def _check_room(self, partial: int, part: Part) -> None:
        missing = part.stored_bytes - os.fstat(partial).st_blocks * 512
        left = free_bytes(partial)
        if missing > left:
            raise QuotaExceeded(
                f"image {part.id} needs {missing} bytes more in {self._folder}, {left} are left: free space there"
            )


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _locked(descriptor: int, image_id: str) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimedOut(f"another task fetches image {image_id} for {LOCK_TIMEOUT_S:.0f} s already") from None
            await asyncio.sleep(LOCK_POLL_S)
        else:
            return


class _Download:
    """Blocking: ``prepare``, then ``work`` in as many threads as there are connections, then ``check``."""

    def __init__(self, session: Session, part: Part, partial: int, pieces: int, stop: threading.Event) -> None:
        self._session, self._part, self._partial, self._pieces = session, part, partial, pieces
        self._stop = stop
        self._guard = threading.Lock()
        self._left: Iterator[tuple[int, int]] = iter(())
        self._target = Target(False, "", 0, "")

    def prepare(self) -> None:
        self._target = target_of(self._session.endpoint("image"))
        os.ftruncate(self._partial, self._part.stored_bytes)
        count = -(-self._part.stored_bytes // PIECE_BYTES)
        self._left = pieces_of(self._part.stored_bytes, os.pread(self._pieces, count, 0))

    def work(self) -> None:
        """Fetch pieces until none is left."""
        with contextlib.closing(self._connect()) as connection:
            while not self._stop.is_set():
                with self._guard:
                    piece = next(self._left, None)
                if piece is None:
                    return
                self._patiently(lambda piece=piece: self._piece(connection, *piece), connection)  # type: ignore[misc]
                os.pwrite(self._pieces, DONE, piece[0] // PIECE_BYTES)

    def stream(self) -> None:
        """Everything over one connection, for stores without ranges."""
        self._stop.clear()
        with contextlib.closing(self._connect()) as connection:
            self._patiently(lambda: self._whole(connection), connection)

    def check(self) -> None:
        """Raises Corrupt when the content is not what Glance's digest says."""
        name, _, stated = self._part.digest.partition(":")
        if name not in DIGESTS:
            return
        digest = hashlib.new(name, usedforsecurity=False)
        for offset in range(0, self._part.stored_bytes, PIECE_BYTES):
            if self._stop.is_set():
                raise Unavailable("the download was given up")
            digest.update(os.pread(self._partial, PIECE_BYTES, offset))
        if digest.hexdigest() != stated.lower():
            raise Corrupt(f"image {self._part.id} arrived with another {name} than Glance states for it")

    def _connect(self) -> http.client.HTTPConnection:
        where = self._target
        if where.secure:
            context = self._session.tls_context()
            return http.client.HTTPSConnection(where.host, where.port, timeout=SOCKET_TIMEOUT_S, context=context)
        return http.client.HTTPConnection(where.host, where.port, timeout=SOCKET_TIMEOUT_S)

    def _patiently(self, call: Callable[[], None], connection: http.client.HTTPConnection) -> None:
        wait_s, where = FIRST_WAIT_S, self._session.where
        for left in range(ATTEMPTS - 1, -1, -1):
            try:
                call()
            except (OSError, http.client.HTTPException) as lost:
                error: CoriolisError = Unavailable(f"Glance at {where}: {printable(lost) or type(lost).__name__}")
                cause: BaseException | None = lost
            except CoriolisError as failed:
                if not failed.retryable:
                    raise
                error, cause = failed, failed.__cause__
            else:
                return
            connection.close()
            if not left or self._stop.wait(min(error.retry_after_s or wait_s, 30.0)):
                raise error from cause
            wait_s *= 2

    def _request(self, connection: http.client.HTTPConnection, extra: dict[str, str]) -> http.client.HTTPResponse:
        path = f"{self._target.prefix}/v2/images/{self._part.id}/file"
        for anew in (False, True):
            connection.request("GET", path, headers={**self._session.headers(anew=anew), **extra})
            answer = connection.getresponse()
            if answer.status != 401:
                break
            connection.close()
        if answer.status in (200, 206):
            return answer
        said = printable(answer.read(MAX_SAID_BYTES).decode("utf-8", "replace"), 200)
        connection.close()
        message = f"Glance at {self._session.where}, image {self._part.id}: {answer.status} {said}"
        if answer.status == 204:
            raise NotFound(f"{message}: it has no content")
        raise from_status(answer.status, message, dict(answer.getheaders()))

    def _piece(self, connection: http.client.HTTPConnection, offset: int, length: int) -> None:
        last = offset + length - 1
        answer = self._request(connection, {"Range": f"bytes={offset}-{last}"})
        if answer.status == 200 and length != self._part.stored_bytes:
            connection.close()
            raise _NoRangesError
        if answer.status == 206 and not (answer.getheader("Content-Range") or "").startswith(f"bytes {offset}-{last}/"):
            connection.close()
            raise Corrupt(f"Glance answered another range than bytes {offset}-{last} of image {self._part.id}")
        self._save(answer, offset, length)

    def _whole(self, connection: http.client.HTTPConnection) -> None:
        self._save(self._request(connection, {}), 0, self._part.stored_bytes)

    def _save(self, answer: http.client.HTTPResponse, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            if self._stop.is_set():
                raise Unavailable("the download was given up")
            data = answer.read(min(READ_BYTES, end - offset))
            if not data:
                raise http.client.IncompleteRead(b"", end - offset)
            write_exact(self._partial, offset, data)
            offset += len(data)
        answer.read(1)  # ends the answer, so that the connection serves the next one
