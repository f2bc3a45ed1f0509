from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.coordinator import keys
from coriolis.coordinator.keys import JobKey
from coriolis.errors import InvalidInput

_PARTS = st.text(min_size=1, max_size=255).filter(lambda text: text.encode("utf-8", "ignore").decode() == text)


@given(_PARTS, _PARTS, st.integers(0, 10_000))
def test_job_keys_survive_the_round_trip(project: str, job: str, index: int) -> None:
    assert keys.parse_job(keys.job_spec(project, job)) == JobKey(project, job, None)
    assert keys.parse_job(keys.job_run(project, job, index)) == JobKey(project, job, index)
    assert keys.parse_agent_live(keys.agent_live(job)) == job
    assert keys.parse_coordinator(keys.coordinator(job)) == job


@given(_PARTS, _PARTS, _PARTS)
def test_no_part_reaches_into_another_project(project: str, other: str, job: str) -> None:
    inside = keys.job_spec(project, job).startswith(keys.project_jobs(other))
    assert inside == (project == other)


@pytest.mark.parametrize(
    "key",
    ["", keys.LEADER, keys.JOBS, keys.JOBS + "p/j", keys.JOBS + "p/j/run/x", keys.JOBS + "p/j/run/²", "/x"],
)
def test_foreign_keys_are_nothing(key: str) -> None:
    assert keys.parse_job(key) is None
    assert keys.parse_agent_live(key) is None
    assert keys.parse_coordinator(key) is None


@pytest.mark.parametrize("part", ["", "x" * 256])
def test_empty_and_endless_parts_are_refused(part: str) -> None:
    with pytest.raises(InvalidInput):
        keys.job_spec("p", part)
    with pytest.raises(InvalidInput):
        keys.job_run("p", "j", -1)
