"""Members of environments that are the mesh's own."""

from __future__ import annotations

from coriolis.model.environment import COMMON_DESTINATION, COMMON_SOURCE, of_provider


def test_a_provider_sees_its_own_members_only() -> None:
    """A libvirt destination once refused ``start_instance``: providers know their own schema and nothing else."""
    given = {"storage_pool": "fast", **dict.fromkeys({**COMMON_SOURCE, **COMMON_DESTINATION}, "ours")}
    assert of_provider(given) == {"storage_pool": "fast"}
