"""Images fetched by ranges from a phony Glance: resumed, checked, and given up when they must be."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from coriolis.errors import Corrupt, NotFound, QuotaExceeded, Unavailable
from coriolis.providers.openstack import cloud_errors, image_download
from coriolis.providers.openstack.image_download import ImageFolder, Target, pieces_of, target_of
from coriolis.providers.openstack.server_snapshots import Part

CONTENT = bytes(range(256)) * 4096 + b"end"
PIECE = 64 << 10


class PhonyGlance(BaseHTTPRequestHandler):
    """Serves ``CONTENT``; ``faults`` are answered first, one per request."""

    protocol_version = "HTTP/1.1"
    faults: list[Any] = []  # noqa: RUF012 - replaced for each test
    ranges = True
    asked: list[str] = []  # noqa: RUF012
    token = "good"

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Range", "all"))
        fault = self.faults.pop(0) if self.faults else None
        if self.headers.get("X-Auth-Token") != self.token:
            return self.answer(401, b"who")
        if isinstance(fault, int):
            return self.answer(fault, b"phony fault")
        first, last = 0, len(CONTENT) - 1
        stated = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        status = 206 if stated and self.ranges else 200
        if stated and self.ranges:
            first, last = int(stated[1]), int(stated[2])
        body = CONTENT[first : last + 1]
        if fault == "damage":
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.answer(status, body, f"bytes {first}-{last}/{len(CONTENT)}", cut=fault == "cut")
        return None

    def answer(self, status: int, body: bytes, content_range: str = "", *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class PhonySession:
    """What of a session a download uses."""

    where = "phony"

    def __init__(self, port: int) -> None:
        self.port, self.tokens = port, 0

    def endpoint(self, service: str) -> str:
        assert service == "image"
        return f"http://127.0.0.1:{self.port}/image/v2/"

    def headers(self, *, anew: bool = False) -> dict[str, str]:
        self.tokens += anew
        return {"X-Auth-Token": "good" if anew else "stale"} if self.tokens == 0 or anew else {"X-Auth-Token": "good"}

    def tls_context(self) -> ssl.SSLContext:
        raise AssertionError("nothing is encrypted here")


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(image_download, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(image_download, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(cloud_errors, "RETRY_AFTER_S", 0.01)
    monkeypatch.setattr(PhonyGlance, "faults", [])
    monkeypatch.setattr(PhonyGlance, "asked", [])
    monkeypatch.setattr(PhonyGlance, "ranges", True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), PhonyGlance)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield PhonySession(server.server_address[1])
    server.shutdown()
    server.server_close()
    thread.join()


def part(**changes: Any) -> Part:
    digest = "sha512:" + hashlib.sha512(CONTENT).hexdigest()
    return Part(
        **{
            "disk_id": "root",
            "id": "i1",
            "size_bytes": 1,
            "image": True,
            "stored_bytes": len(CONTENT),
            "digest": digest,
            **changes,
        }
    )


async def fetch(session: Any, folder: Path, what: Part | None = None) -> bytes:
    async with ImageFolder(session, folder / "here").fetched(what or part()) as path:
        return Path(path).read_bytes()


async def test_pieces_come_over_several_connections_and_a_stale_token_is_renewed(session: Any, tmp_path: Path) -> None:
    assert await fetch(session, tmp_path) == CONTENT
    assert session.tokens >= 1
    assert {one for one in PhonyGlance.asked if one != "all"} == {
        f"bytes={at}-{min(at + PIECE, len(CONTENT)) - 1}" for at in range(0, len(CONTENT), PIECE)
    }
    before = len(PhonyGlance.asked)
    assert await fetch(session, tmp_path) == CONTENT
    assert len(PhonyGlance.asked) == before
    assert (tmp_path / "here").stat().st_mode & 0o777 == 0o700


async def test_a_store_without_ranges_is_read_front_to_back(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PhonyGlance, "ranges", False)
    assert await fetch(session, tmp_path) == CONTENT
    assert "all" in PhonyGlance.asked


async def test_busy_and_broken_answers_are_asked_for_again(session: Any, tmp_path: Path) -> None:
    PhonyGlance.faults += [503, "cut", 429, 500]
    assert await fetch(session, tmp_path) == CONTENT


async def test_damage_on_the_way_costs_one_more_download(session: Any, tmp_path: Path) -> None:
    PhonyGlance.faults += [None, None, None, None, None, "damage"]
    assert await fetch(session, tmp_path) == CONTENT
    assert len(PhonyGlance.asked) > 2 * (len(CONTENT) // PIECE)


async def test_content_that_is_never_right_is_refused_and_leaves_nothing(session: Any, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="sha512"):
        await fetch(session, tmp_path, part(digest="sha512:" + "0" * 128))
    assert not [path.name for path in (tmp_path / "here").iterdir() if path.suffix != ".lock"]


async def test_what_was_fetched_before_a_kill_is_not_fetched_again(session: Any, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "i1.part").write_bytes(CONTENT[: 3 * PIECE])
    (folder / "i1.pieces").write_bytes(b"\x01\x01\x01")
    assert await fetch(session, tmp_path) == CONTENT
    assert f"bytes=0-{PIECE - 1}" not in PhonyGlance.asked


async def test_pieces_that_a_power_cut_took_away_are_noticed(session: Any, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "i1.pieces").write_bytes(b"\x01" * 20)
    assert await fetch(session, tmp_path) == CONTENT


async def test_an_image_that_is_gone_or_too_large(session: Any, tmp_path: Path) -> None:
    PhonyGlance.faults += [None] + [404] * 20
    with pytest.raises(NotFound, match="i1"):
        await fetch(session, tmp_path)
    with pytest.raises(QuotaExceeded, match="free space"):
        await fetch(session, tmp_path, part(id="i2", stored_bytes=1 << 62))


async def test_a_glance_that_stays_broken_is_given_up(session: Any, tmp_path: Path) -> None:
    PhonyGlance.faults += [503] * 200
    with pytest.raises(Unavailable, match="503"):
        await fetch(session, tmp_path)


async def test_two_tasks_fetch_an_image_once(session: Any, tmp_path: Path) -> None:
    assert await asyncio.gather(fetch(session, tmp_path), fetch(session, tmp_path)) == [CONTENT, CONTENT]
    whole = [one for one in PhonyGlance.asked if one == f"bytes={PIECE}-{2 * PIECE - 1}"]
    assert len(whole) <= 2  # one of them may have met the stale token


async def test_what_is_staged_can_be_listed_and_removed(session: Any, tmp_path: Path) -> None:
    images = ImageFolder(session, tmp_path / "here")
    assert await images.staged() == []
    await fetch(session, tmp_path)
    assert await images.staged() == ["i1"]
    for _ in range(2):
        await images.remove("i1")
    assert await images.staged() == []


def test_addresses_of_glance_with_and_without_a_version() -> None:
    assert target_of("https://g.example/image/v2/") == Target(True, "g.example", 443, "/image")
    assert target_of("http://g.example:9292") == Target(False, "g.example", 9292, "")


def test_pieces_cover_what_is_left() -> None:
    size = 2 * image_download.PIECE_BYTES + 5
    assert list(pieces_of(size, b"\x01")) == [
        (image_download.PIECE_BYTES, image_download.PIECE_BYTES),
        (2 * image_download.PIECE_BYTES, 5),
    ]
    assert list(pieces_of(0, b"")) == []
