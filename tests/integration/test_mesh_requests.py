"""What callers ask of a real mesh: wrong requests name their field, projects see nothing of each other."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from coriolis.errors import Conflict, CoriolisError, InvalidInput, NotFound
from coriolis.rpc.gen.coriolis.v1 import job_pb2 as pb
from tests.fault.mesh import PROJECT, Mesh, endpoint, summary
from tests.integration.mesh_calls import ABSENT, FOREIGN, MIB, Sites, delete, put_secret, watch

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path_factory.mktemp("mesh")) as running:
        yield running


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


async def finished(mesh: Mesh, sites: Sites, **changes: Any) -> pb.Migration:
    migration = await mesh.wait(await mesh.migrate(sites.request(**changes)))
    assert migration.status == "COMPLETED", summary(migration)
    return migration


# -- requests -----------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "provider": ({"origin": endpoint("nope", {})}, r"origin\.type"),
    "destination provider": ({"destination": endpoint("", {})}, r"destination\.type"),
    "connection member": (
        {"origin": endpoint("image", {"path": "/x", "pass": "s3cr3t"})},
        r"origin\.connection_info: unknown member 'pass'",
    ),
    "missing member": ({"origin": endpoint("image", {})}, r"origin\.connection_info: member 'path' is missing"),
    "type of a member": ({"origin": endpoint("image", {"path": 5})}, r"origin\.connection_info\.path: must be of type"),
    "environment member": (
        {"destination": endpoint("image", {"path": "/x"}, {"colour": "red"})},
        r"destination\.target_environment: unknown member 'colour'",
    ),
    "source environment": (
        {"origin": endpoint("image", {"path": "/x"}, {"allow_power_off": "yes"})},
        r"origin\.source_environment\.allow_power_off",
    ),
    "network map": (
        {"destination": endpoint("image", {"path": "/x"}, {"network_map": {"a": 1}})},
        r"target_environment\.network_map",
    ),
    "no instances": ({"instances": []}, "instances is empty"),
    "instance twice": ({"instances": ["vm", "vm"]}, "instances names one machine twice"),
    "unprintable instance": ({"instances": ["a\nb"]}, "instances holds"),
    "too many": ({"instances": [f"vm{n}" for n in range(65)]}, "instances has 65"),
    "passes": ({"replication_count": 11}, "replication_count is 11"),
    "secret that is no id": ({"origin": endpoint("image", {"secret_id": "../../x"})}, r"connection_info\.secret_id"),
    "secret and more": ({"origin": endpoint("image", {"secret_id": ABSENT, "path": "/x"})}, "the only member"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_request_names_its_field_and_makes_nothing(mesh: Mesh, sites: Sites, case: str) -> None:
    changes, expected = WRONG[case]
    before = await listed(mesh)
    with pytest.raises(InvalidInput, match=expected) as refused:
        await mesh.migrate(sites.request(**changes))
    assert "s3cr3t" not in refused.value.message
    assert await listed(mesh) == before


async def listed(mesh: Mesh, project: str = PROJECT, **fields: Any) -> list[str]:
    answer = await mesh.call("ListMigrations", pb.ListMigrationsRequest(project_id=project, **fields))
    return [migration.id for migration in answer.migrations]


async def test_a_connection_by_secret_works_and_is_never_shown(mesh: Mesh, sites: Sites) -> None:
    secret_id = await put_secret(mesh, {"path": str(sites.origin)})
    migration = await finished(mesh, sites, origin=endpoint("image", {"secret_id": secret_id}))
    assert secret_id in migration.origin.connection_info_json
    assert str(sites.origin) not in migration.origin.connection_info_json


async def test_absent_and_foreign_secrets_are_the_same_and_refused_at_create(mesh: Mesh, sites: Sites) -> None:
    foreign = await put_secret(mesh, {"path": str(sites.origin)}, FOREIGN)
    texts = []
    for secret_id in (ABSENT, foreign):
        with pytest.raises(NotFound) as refused:
            await mesh.migrate(sites.request(origin=endpoint("image", {"secret_id": secret_id})))
        texts.append(refused.value.message.replace(secret_id, "ID"))
    assert texts[0] == texts[1]
    wrong = await put_secret(mesh, {"colour": "red"})
    with pytest.raises(InvalidInput, match=r"origin\.connection_info"):
        await mesh.migrate(sites.request(origin=endpoint("image", {"secret_id": wrong})))


async def test_a_repeated_request_id_makes_one_migration(mesh: Mesh, sites: Sites) -> None:
    request_id = secrets.token_hex(8)
    wishes = [sites.request(request_id=request_id) for _ in range(8)]
    made = await asyncio.gather(*(mesh.migrate(wish) for wish in wishes))
    assert len(set(made)) == 1
    with pytest.raises(Conflict, match="another body"):
        await mesh.migrate(sites.request(request_id=request_id, notes="other"))
    other = sites.request(request_id=request_id, project_id=FOREIGN)
    assert await mesh.migrate(other) not in made, "request ids are each project's own"
    await mesh.wait(made[0])
    await delete(mesh, made[0])


# -- projects -----------------------------------------------------------------------------------------------------


async def test_a_foreign_migration_is_as_absent_for_every_method(mesh: Mesh, sites: Sites) -> None:
    migration = await finished(mesh, sites)
    requests: dict[str, Any] = {
        "GetMigration": pb.GetMigrationRequest,
        "CancelMigration": pb.CancelMigrationRequest,
        "DeleteMigration": pb.DeleteMigrationRequest,
        "StartVerification": pb.StartVerificationRequest,
        "GetVerification": pb.GetVerificationRequest,
        "ListManifests": pb.ListManifestsRequest,
        "GetManifest": pb.GetManifestRequest,
    }
    for method, kind in requests.items():
        answers = []
        for migration_id in (migration.id, ABSENT):
            with pytest.raises(CoriolisError) as refused:
                await mesh.call(method, kind(project_id=FOREIGN, migration_id=migration_id))
            answers.append((type(refused.value), refused.value.message.replace(migration_id, "ID")))
        assert answers[0] == answers[1], method
        assert answers[0][0] is NotFound
    answers = []
    for migration_id in (migration.id, ABSENT):
        with pytest.raises(NotFound) as refused:
            await watch(mesh, migration_id, FOREIGN)
        answers.append((NotFound, refused.value.message.replace(migration_id, "ID")))
    assert answers[0] == answers[1]
    assert migration.id not in await listed(mesh, FOREIGN)
    with pytest.raises(NotFound):
        await listed(mesh, FOREIGN, marker=migration.id)


async def test_lists_are_paged_newest_first(mesh: Mesh, tmp_path: Path) -> None:
    project = secrets.token_hex(16)
    sites = Sites(tmp_path)
    made = [await mesh.migrate(sites.request(project_id=project, instances=[f"none-{n}"])) for n in range(5)]
    newest_first = made[::-1]
    assert await listed(mesh, project) == newest_first
    assert await listed(mesh, project, limit=2) == newest_first[:2]
    assert await listed(mesh, project, limit=2, marker=newest_first[1]) == newest_first[2:4]
    assert await listed(mesh, project, limit=2, marker=newest_first[3]) == newest_first[4:]
    assert await listed(mesh, project, marker=newest_first[4]) == []
    first = await mesh.call("ListMigrations", pb.ListMigrationsRequest(project_id=project, limit=4))
    assert first.more
    assert not any(migration.tasks for migration in first.migrations)
    with pytest.raises(InvalidInput, match="limit"):
        await listed(mesh, project, limit=1001)
    with pytest.raises(InvalidInput, match="status"):
        await listed(mesh, project, status="HAPPY")
    with pytest.raises(NotFound):
        await listed(mesh, project, marker=ABSENT)


# -- watch and verify ---------------------------------------------------------------------------------------------


async def test_a_watch_ends_after_the_terminal_state(mesh: Mesh, sites: Sites) -> None:
    migration_id = await mesh.migrate(sites.request())
    events = await watch(mesh, migration_id)
    states = [event.state.status for event in events if event.WhichOneof("event") == "state"]
    assert states[-1] == "COMPLETED"
    assert events[0].WhichOneof("event") == "state"
    assert len(states) == len(set(states)), "each state once"
    again = await watch(mesh, migration_id)
    assert again[0].state.status == "COMPLETED"


async def verified(mesh: Mesh, migration_id: str) -> pb.Verification:
    """Its outcome, within a minute."""
    started = await mesh.call(
        "StartVerification", pb.StartVerificationRequest(project_id=PROJECT, migration_id=migration_id)
    )
    deadline = time.monotonic() + 60
    while True:
        asked = pb.GetVerificationRequest(
            project_id=PROJECT, migration_id=migration_id, verification_id=started.verification.id
        )
        found: pb.Verification = (await mesh.call("GetVerification", asked)).verification
        if found.status != "RUNNING":
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)


async def test_a_finished_volume_is_verified_and_a_flipped_byte_is_found(mesh: Mesh, sites: Sites) -> None:
    migration = await finished(mesh, sites)
    good = await verified(mesh, migration.id)
    assert good.status == "COMPLETED", good
    assert [disk.checked_bytes for disk in good.disks] == [sites.size]
    [volume] = volumes(sites.destination, sites.size)
    with volume.open("r+b") as file:
        file.seek(MIB + 12345)
        byte = file.read(1)
        file.seek(MIB + 12345)
        file.write(bytes([byte[0] ^ 1]))
    bad = await verified(mesh, migration.id)
    assert bad.status == "DIFFERS", bad
    assert bad.disks[0].first_difference == MIB
    assert bad.disks[0].differing_bytes == MIB
    assert await listed(mesh, limit=1) == [migration.id], "a verification is no migration"


def volumes(folder: Path, size: int) -> list[Path]:
    """The files that a verification reads: the volumes, not what was published from them."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size == size and ".disks" not in str(path.relative_to(folder))
    ]


async def test_what_was_not_finished_cannot_be_verified(mesh: Mesh, sites: Sites) -> None:
    migration = await mesh.wait(await mesh.migrate(sites.request(instances=["none"])))
    with pytest.raises(Conflict, match="nothing to verify"):
        await verified(mesh, migration.id)
