from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import Corrupt, InvalidInput, NotFound, QuotaExceeded
from coriolis.ids import new_id
from coriolis.security import secrets
from coriolis.security.secrets import FileSecretStore, SecretBox

KEY = bytes(range(32))


@given(st.binary(max_size=200), st.binary(max_size=50), st.integers(min_value=0), st.integers(1, 255))
def test_one_changed_bit_or_another_owner_never_opens(plain: bytes, owner: bytes, at: int, flip: int) -> None:
    box = SecretBox(KEY)
    sealed = box.seal(plain, owner)
    assert box.open(sealed, owner) == plain
    changed = bytearray(sealed)
    changed[at % len(sealed)] ^= flip
    for bad, associated in ((bytes(changed), owner), (sealed, owner + b"x"), (sealed[:-1], owner)):
        with pytest.raises(Corrupt):
            box.open(bad, associated)
    with pytest.raises(Corrupt):
        SecretBox(KEY[::-1]).open(sealed, owner)


def test_the_key_file_is_made_once_and_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "secret.key"
    sealed = SecretBox.from_key_file(path, create=True).seal(b"x", b"")
    assert SecretBox.from_key_file(path, create=True).open(sealed, b"") == b"x"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret.key"]
    path.chmod(0o640)
    with pytest.raises(InvalidInput, match="0600"):
        SecretBox.from_key_file(path)
    with pytest.raises(InvalidInput):
        SecretBox.from_key_file(tmp_path / "absent")
    with pytest.raises(InvalidInput):
        SecretBox(b"short")


@pytest.fixture
def store(tmp_path: Path) -> FileSecretStore:
    return FileSecretStore(tmp_path / "secrets", SecretBox(KEY))


async def test_a_secret_belongs_to_its_project(store: FileSecretStore, tmp_path: Path) -> None:
    payload = b'{"password": "hunter2"}'
    first = await store.put("p1", "vsphere", payload)
    second = await store.put("p1", "../../etc", b"")
    assert await store.get("p1", first.id) == payload
    assert [record.id for record in await store.list("p1")] == [first.id, second.id]
    assert not await store.list("p2")
    for project, secret_id in (("p2", first.id), ("p1", new_id()), ("p1", "../x"), ("../p1", first.id)):
        with pytest.raises(NotFound):
            await store.get(project, secret_id)
        with pytest.raises(NotFound):
            await store.delete(project, secret_id)
    await store.delete("p1", first.id)
    assert [record.name for record in await store.list("p1")] == ["../../etc"]
    with pytest.raises(NotFound):
        await store.get("p1", first.id)


async def test_what_lies_on_disk_is_private_and_cannot_be_moved(store: FileSecretStore, tmp_path: Path) -> None:
    mine = await store.put("p1", "name-of-it", b"hunter2-hunter2")
    theirs = await store.put("p2", "n", b"x")
    files = {path.stem: path for path in tmp_path.rglob("*.sealed")}
    for path in files.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes()
        assert b"hunter2" not in content
        assert b"name-of-it" not in content
    files[theirs.id].write_bytes(files[mine.id].read_bytes())
    with pytest.raises(Corrupt):
        await store.get("p2", theirs.id)


async def test_bounds(store: FileSecretStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.put("p", "n", bytes(64 * 1024))
    with pytest.raises(InvalidInput):
        await store.put("p", "n", bytes(64 * 1024 + 1))
    with pytest.raises(InvalidInput):
        await store.put("p", "", b"")
    monkeypatch.setattr(secrets, "MAX_SECRETS_PER_PROJECT", 1)
    with pytest.raises(QuotaExceeded):
        await store.put("p", "n", b"")
    await store.put("other", "n", b"")
