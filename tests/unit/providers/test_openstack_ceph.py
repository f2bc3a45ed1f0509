"""What is decided of a Ceph behind Cinder without one: credentials, names, ranges, findings, what a pass keeps."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.coordinator.vault import masked
from coriolis.errors import InvalidInput
from coriolis.model.finding import Severity
from coriolis.providers.openstack.ceph_access import ceph_access_of, image_name, snapshot_name
from coriolis.providers.openstack.connection_schema import CONNECTION
from coriolis.providers.openstack.findings import Quota, findings
from coriolis.providers.openstack.machine_spec import Surrounding
from coriolis.providers.openstack.rbd_extents import GRAIN, grains, windows
from coriolis.providers.openstack.server_snapshots import NOVAS_NAME, standing, volume_parts
from coriolis.providers.schema_check import check_document
from coriolis.security.redact import secret_values

KEY = "QVFBQXlnTnJSUGtsSWhBQWhoVXNyQ1crZVlNdmY2cXlMWThkZ2c9PQ=="
CEPH = {"mon_host": "v2:192.0.2.1:3300,[v2:192.0.2.2:3300,v1:192.0.2.2:6789]", "key": KEY}
INFO = {"auth_url": "https://cloud.example", "username": "u", "password": "p", "project_name": "t", "ceph": CEPH}


def test_credentials_with_their_defaults() -> None:
    check_document(INFO, CONNECTION, "connection_info")
    access = ceph_access_of(INFO)
    assert access is not None
    assert (access.who, access.pools, access.key) == ("client.coriolis", ("volumes",), KEY)
    assert access.options()["mon_host"] == CEPH["mon_host"]
    full = ceph_access_of({"ceph": {**CEPH, "user": "client.backup", "pools": ["fast", "slow"]}})
    assert full is not None
    assert (full.who, full.pools) == ("client.backup", ("fast", "slow"))
    assert ceph_access_of({"auth_url": "https://cloud.example"}) is None


def test_the_key_is_a_secret() -> None:
    assert KEY not in repr(ceph_access_of(INFO))
    assert KEY not in json.dumps(masked(INFO, CONNECTION))
    assert KEY in secret_values(INFO, CONNECTION)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mon_host": "host"},
        {"key": KEY},
        {**CEPH, "mon_host": "a\nlog_file=/etc/passwd"},
        {**CEPH, "pools": []},
        {**CEPH, "pools": ["a@b"]},
        {**CEPH, "log_file": "/etc/passwd"},
    ],
)
def test_what_is_no_credentials(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_document({**INFO, "ceph": wrong}, CONNECTION, "connection_info")
    assert KEY not in caught.value.message


def test_cinders_names() -> None:
    assert (image_name("v1"), snapshot_name("s1")) == ("volume-v1", "snapshot-s1")


@given(st.integers(0, 1 << 22), st.integers(0, 1 << 22), st.integers(1 << 14, 1 << 20))
def test_windows_cover_without_overlap(start: int, length: int, width: int) -> None:
    pieces = list(windows(start, start + length, width))
    assert sum(last - first for first, last in pieces) == length
    assert [first for first, _ in pieces] == [start, *(last for _, last in pieces)][: len(pieces)]
    assert all(first // width == (last - 1) // width for first, last in pieces)


@given(st.lists(st.tuples(st.integers(0, 5 << 20), st.integers(0, 1 << 20))), st.integers(0, 3 << 20))
def test_grains_hold_all_that_was_told(told: list[tuple[int, int]], start: int) -> None:
    end = 6 << 20
    found = grains(told, start, end)
    assert all(one[1] < two[0] for one, two in itertools.pairwise(found))
    assert all(start <= first < last <= end for first, last in found)
    for offset, length in told:
        first, last = max(offset, start), min(offset + length, end)
        if length and first < last:
            assert any(one[0] <= first and last <= one[1] for one in found)
    reach = sum(length // GRAIN * GRAIN + 2 * GRAIN for _, length in told)
    assert sum(last - first for first, last in found) <= reach


SERVER: dict[str, Any] = {
    "id": "srv",
    "name": "web",
    "status": "ACTIVE",
    "image": "",
    "flavor": {"vcpus": 1, "ram": 1, "disk": 0},
    "os-extended-volumes:volumes_attached": [{"id": "v1"}, {"id": "v2"}],
}
AROUND = Surrounding({one: {"id": one, "size": 1, "status": "in-use"} for one in ("v1", "v2")})


def found(ceph: dict[str, str] | None, quota: Quota | None = None) -> dict[tuple[str, str], Severity]:
    return {(one.code, one.disk_id): one.severity for one in findings(SERVER, AROUND, quota or Quota(), ceph)}


def test_findings_tell_what_is_read_where() -> None:
    assert found(None) == {("no_change_log", ""): Severity.INFO}
    both = {("read_from_ceph", "v1"): Severity.INFO, ("read_from_ceph", "v2"): Severity.INFO}
    assert found({"v1": "", "v2": ""}) == both
    assert found({"v1": "", "v2": "refused"}) == {
        ("read_from_ceph", "v1"): Severity.INFO,
        ("not_read_from_ceph", "v2"): Severity.WARNING,
        ("no_change_log", ""): Severity.INFO,
    }


def test_volumes_in_ceph_need_no_copies_but_a_second_snapshot() -> None:
    tight = Quota(snapshots=3, volumes=1, gigabytes=4)
    direct = {"v1": "", "v2": "refused"}
    assert not {code for code, _ in found(direct, tight) if code.startswith("quota")}
    assert ("quota_of_volumes", "") in found(None, tight)
    assert ("quota_of_snapshots", "") in found({"v1": "", "v2": ""}, tight)


def test_parts_of_a_snapshot_that_is_not_whole_any_more() -> None:
    """The copied disks' snapshots went at the end of the pass, those in Ceph stay."""
    mapping = json.dumps([{"snapshot_id": "s1"}, {"snapshot_id": "gone"}])
    image = {"id": "i", "name": "coriolis-1", "coriolis_origin": "srv", "status": "active", "created_at": "1"}
    image["block_device_mapping"] = mapping
    of_nova = {"name": f"{NOVAS_NAME}coriolis-1", "size": 2, "created_at": "2"}
    snapshots = [
        {**of_nova, "id": "s1", "volume_id": "v1", "status": "available"},
        {**of_nova, "id": "s2", "volume_id": "v2", "status": "error"},
    ]
    left = volume_parts(standing([image], snapshots, "srv", "coriolis-1", ["v1", "v2"]))
    assert [(one.disk_id, one.id, one.size_bytes) for one in left] == [("v1", "s1", 2 << 30)]
