"""The driver's promises that need no network."""

from __future__ import annotations

from coriolis.coordinator.planner import plan_migration
from coriolis.coordinator.store import MemoryStore, RequestRecord
from tests.unit.coordinator.test_scheduler import migration
from tests.unit.coordinator.world import ScriptedAgents, driving


async def test_a_job_whose_creation_was_never_answered_is_found_by_its_request_and_begun() -> None:
    """E5: the answer of the store was lost for good, the caller repeats with the same request id."""
    store = MemoryStore()
    wish = migration()
    agents = ScriptedAgents(lambda *_: [])
    async with driving(store, agents) as driver:
        await store.create(wish, plan_migration(wish), RequestRecord(wish.id, "d"))
        assert await driver.find_stored(wish.id) == wish
        assert await driver.find_stored(wish.id) == wish
        assert len(driver.runs(wish.id)) == 1
        assert await driver.find_stored("11111111-1111-4111-8111-111111111112") is None
        stored = (await store.load()).runs
        await driver.submit(wish, list(stored))
        assert len(driver.runs(wish.id)) == 1, "a creation that comes back late changes nothing"


async def test_runs_keep_the_order_of_their_instances() -> None:
    store = MemoryStore()
    wish = migration(instances=12)
    async with driving(store, ScriptedAgents(lambda *_: [])) as driver:
        stored = await store.create(wish, plan_migration(wish), None)
        await driver.submit(wish, stored[::-1])
        assert [run.index for run in driver.runs(wish.id)] == list(range(12))
        driver.forget(wish.id)
        assert driver.runs(wish.id) == []
