"""What the OpenStack provider decides of a login, of failures, of servers and of their snapshots, without a cloud."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coriolis.errors import (
    Conflict,
    CoriolisError,
    CredentialsLost,
    Denied,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    Throttled,
    TimedOut,
    Unavailable,
    Unsupported,
)
from coriolis.model.finding import Severity
from coriolis.providers.openstack.access import Access, access_of
from coriolis.providers.openstack.cloud_errors import MAX_RETRY_AFTER_S, from_status
from coriolis.providers.openstack.findings import Quota, findings, quota_of
from coriolis.providers.openstack.machine_spec import GIB, Surrounding, choose, spec_of
from coriolis.providers.openstack.server_snapshots import (
    COUNT,
    NOVAS_NAME,
    ORIGIN,
    check_made,
    check_name,
    frozen_of,
    names_in,
    standing,
)

URL = "https://cloud.example:5000"
USER = {"auth_url": URL, "username": "u", "password": "p", "project_name": "t"}


def test_forms_of_a_login_that_are_one() -> None:
    plain = access_of({**USER, "user_domain_name": "Users", "region_name": "R", "interface": "internal"})
    assert plain == access_of(
        {"auth": {**USER, "user_domain_name": "Users"}, "region_name": "R", "interface": "internal", "verify": True}
    )
    assert plain.login == {
        "username": "u",
        "password": "p",
        "user_domain_name": "Users",
        "project_name": "t",
        "project_domain_id": "default",
    }
    assert plain.auth_url == f"{URL}/v3"
    assert access_of({**USER, "auth_url": f"{URL}/v3/"}).auth_url == f"{URL}/v3"
    assert access_of({**USER, "auth_url": f"{URL}/identity"}).auth_url == f"{URL}/identity/v3"
    assert plain.where == "cloud.example:5000"


def test_names_stand_beside_no_domain_of_another_kind() -> None:
    by_id = access_of({**USER, "user_id": "u1", "project_id": "t1"})
    assert by_id.login == {"user_id": "u1", "password": "p", "project_id": "t1"}


def test_an_application_credential_needs_no_project() -> None:
    named = {"auth_url": URL, "application_credential_name": "a", "application_credential_secret": "s"}
    access = access_of({**named, "application_credential_id": "i", "project_name": "t"})
    assert (access.kind, access.login) == (
        "application_credential",
        {"application_credential_id": "i", "application_credential_secret": "s"},
    )
    assert access_of({**named, "username": "u"}).login["user_domain_id"] == "default"
    with pytest.raises(InvalidInput, match="username"):
        access_of(named)


def test_a_token_is_the_jobs() -> None:
    given = {"auth_url": URL, "token": "x", "token_expires_at": "2030-01-01T00:00:00Z", "project_id": "t"}
    access = access_of({**given, "region_name": "R"})
    assert (access.kind, access.region, access.login["project_id"]) == ("token", "R", "t")
    with pytest.raises(InvalidInput, match="project_id"):
        access_of({**given, "project_id": ""})


@pytest.mark.parametrize("missing", ["auth_url", "username", "password", "project_name"])
def test_what_a_login_lacks_is_named(missing: str) -> None:
    with pytest.raises(InvalidInput, match=missing):
        access_of({key: value for key, value in USER.items() if key != missing})


def test_version_two_is_gone() -> None:
    with pytest.raises(InvalidInput, match="version 2"):
        access_of({**USER, "auth_url": f"{URL}/v2.0"})


def test_certificates_are_checked_unless_asked_otherwise() -> None:
    assert not access_of(USER).allow_untrusted
    assert access_of({**USER, "verify": False}).allow_untrusted
    assert not access_of({**USER, "verify": False, "allow_untrusted": False}).allow_untrusted


def test_who_is_named_without_a_secret() -> None:
    assert access_of(USER).who == "user u"
    assert "secret" not in Access("token", URL, {"token": "secret"}).who


@pytest.mark.parametrize(
    ("status", "said", "headers", "kind"),
    [
        (400, "bad", {}, InvalidInput),
        (401, "who", {}, Denied),
        (403, "policy", {}, Denied),
        (403, "Quota exceeded for cores: Requested 4", {}, QuotaExceeded),
        (404, "no", {}, NotFound),
        (409, "in use", {}, Conflict),
        (409, "Quota exceeded for resources: ['port']", {}, QuotaExceeded),
        (413, "VolumeLimitExceeded", {}, QuotaExceeded),
        (413, "slow down", {"Retry-After": "7"}, Throttled),
        (413, "VolumeLimitExceeded", {"Retry-After": "0"}, QuotaExceeded),
        (429, "slow down", {}, Throttled),
        (500, "oops", {}, Unavailable),
        (501, "no such feature", {}, Unsupported),
        (503, "later", {"Retry-After": "3"}, Unavailable),
        (504, "gateway", {}, TimedOut),
    ],
)
def test_answers_become_errors(status: int, said: str, headers: dict[str, str], kind: type[CoriolisError]) -> None:
    error = from_status(status, said, headers)
    assert type(error) is kind
    if error.retryable and "Retry-After" in headers:
        assert error.retry_after_s == float(headers["Retry-After"])


def test_a_refused_token_of_a_job_is_its_loss() -> None:
    assert type(from_status(401, "who", {}, token=True)) is CredentialsLost


def test_a_cloud_cannot_make_us_wait_for_ever() -> None:
    for text, seconds in (("1e9", MAX_RETRY_AFTER_S), ("-5", 5.0), ("nan", 5.0), ("Wed, 21 Oct", 5.0), ("inf", 120.0)):
        assert from_status(429, "x", {"Retry-After": text}).retry_after_s == seconds


SERVER: dict[str, Any] = {
    "id": "s1",
    "name": "web\n",
    "status": "ACTIVE",
    "image": "",
    "flavor": {
        "vcpus": 2,
        "ram": 1024,
        "disk": 20,
        "ephemeral": 0,
        "swap": 0,
        "original_name": "m1",
        "extra_specs": {},
    },
    "addresses": {
        "b": [{"OS-EXT-IPS-MAC:mac_addr": "FA:00:00:00:00:02"}],
        "a": [{"OS-EXT-IPS-MAC:mac_addr": "fa:00:00:00:00:01"}],
    },
    "os-extended-volumes:volumes_attached": [{"id": "v2"}, {"id": "v10"}, {"id": "v1"}],
}


def volume(ident: str, device: str, **more: Any) -> dict[str, Any]:
    attached = [{"server_id": "s1", "device": device}, {"server_id": None, "device": "na"}]
    return {"id": ident, "size": 3, "status": "in-use", "volume_type": "fast", "attachments": attached, **more}


def port(ident: str, mac: str, network: str) -> dict[str, Any]:
    fixed = [{"ip_address": "10.0.0.5"}]
    return {
        "id": ident,
        "mac_address": mac,
        "network_id": network,
        "fixed_ips": fixed,
        "security_groups": ["g2", "g1", "gone"],
        "created_at": "2026",
    }


AROUND = Surrounding(
    volumes={
        "v1": volume(
            "v1",
            "/dev/vdb",
            bootable="true",
            volume_image_metadata={"hw_firmware_type": "uefi", "os_secure_boot": "required", "os_type": "windows"},
        ),
        "v2": volume("v2", "/dev/vda", bootable="false"),
        "v10": volume("v10", "/dev/vdaa", bootable="false"),
    },
    networks={"n1": "lan"},
    groups={"g1": "default", "g2": "admin"},
    ports={"s1": [port("p1", "fa:00:00:00:00:01", "n1"), port("p2", "fa:00:00:00:00:02", "n2")]},
)


def test_a_server_that_boots_from_a_volume() -> None:
    spec = spec_of(SERVER, AROUND)
    assert [(disk.id, disk.size_bytes, disk.unit_number) for disk in spec.devices.disks] == [
        ("v1", 3 * GIB, 0),
        ("v2", 3 * GIB, 1),
        ("v10", 3 * GIB, 2),
    ]
    assert [(nic.id, nic.network_name) for nic in spec.devices.nics] == [("p2", "n2"), ("p1", "lan")]
    assert spec.devices.nics[0].security_groups == ("admin", "default")
    assert (spec.firmware_type, spec.secure_boot, spec.os_type, spec.name) == ("EFI", True, "windows", "web")
    assert (spec.num_cpu, spec.memory_mb, spec.flavor_name, spec.power_state) == (2, 1024, "m1", "running")


def test_a_server_that_boots_from_an_image() -> None:
    server = {**SERVER, "image": {"id": "i1"}, "status": "SHUTOFF"}
    image = {
        "id": "i1",
        "hw_tpm_version": "2.0",
        "hw_disk_bus": "scsi",
        "os_hash_value": "abc",
        "size": 7,
        "hw_x\n": "1",
    }
    spec = spec_of(server, Surrounding(AROUND.volumes, {"i1": image}))
    assert [disk.id for disk in spec.devices.disks] == ["root", "v2", "v1", "v10"]
    assert spec.devices.disks[0].size_bytes == 20 * GIB
    assert spec.platform_properties == {"hw_tpm_version": "2.0", "hw_disk_bus": "scsi"}
    assert (spec.vtpm, spec.devices.controllers[0].type, spec.power_state) == (True, "scsi", "stopped")


def test_a_name_that_two_have_is_refused_with_their_ids() -> None:
    servers = [{"id": "a", "name": "web"}, {"id": "b", "name": "web"}, {"id": "web2", "name": "x"}]
    with pytest.raises(Conflict, match="a, b"):
        choose(servers, "web")
    assert choose(servers, "web2") == "web2"
    with pytest.raises(NotFound):
        choose(servers, "absent")


def codes(server: dict[str, Any], around: Surrounding = AROUND, quota: Quota | None = None) -> dict[str, Severity]:
    return {one.code: one.severity for one in findings(server, around, quota or Quota())}


def test_what_stands_in_the_way() -> None:
    assert codes(SERVER) == {"no_change_log": Severity.INFO}
    assert codes({**SERVER, "status": "SHELVED_OFFLOADED"})["shelved"] is Severity.ERROR
    assert codes({**SERVER, "status": "ERROR", "fault": {"message": "x"}})["server_in_error"] is Severity.ERROR
    assert codes({**SERVER, "status": "VERIFY_RESIZE"})["server_is_changing"] is Severity.ERROR
    flavor = {**SERVER["flavor"], "ephemeral": 5, "swap": 512}
    found = codes({**SERVER, "flavor": flavor, "image": {"id": "gone"}})
    assert found["ephemeral_disk"] is found["swap_disk"] is found["image_gone"] is Severity.WARNING
    assert found["not_of_one_moment"] is Severity.WARNING


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"encrypted": True}, "encrypted_volume"),
        ({"status": "error_extending"}, "volume_not_ready"),
        ({"attachments": [{"server_id": "s1"}, {"server_id": "s2"}]}, "shared_volume"),
    ],
)
def test_volumes_that_cannot_be_read(change: dict[str, Any], code: str) -> None:
    volumes = {**AROUND.volumes, "v2": {**AROUND.volumes["v2"], **change}}
    found = [one for one in findings(SERVER, Surrounding(volumes), Quota()) if one.disk_id]
    assert [(one.code, one.severity, one.disk_id) for one in found] == [(code, Severity.ERROR, "v2")]


def test_a_volume_that_the_account_does_not_see() -> None:
    assert "volume_unseen" in codes(SERVER, Surrounding({"v1": AROUND.volumes["v1"], "v2": AROUND.volumes["v2"]}))


def test_quotas_are_counted_for_a_whole_pass() -> None:
    limits = {"maxTotalSnapshots": 10, "totalSnapshotsUsed": 8, "maxTotalVolumeGigabytes": -1, "maxTotalVolumes": 30}
    quota = quota_of(limits)
    assert quota == Quota(snapshots=2, volumes=30, gigabytes=None)
    assert codes(SERVER, quota=quota) == {"quota_of_snapshots": Severity.ERROR, "no_change_log": Severity.INFO}
    assert "quota_of_gigabytes" in codes(SERVER, quota=Quota(gigabytes=17))
    assert "quota_of_gigabytes" not in codes(SERVER, quota=Quota(gigabytes=18))


# -- snapshots -------------------------------------------------------------------------------------------------------


def shot(ident: str, of: str, name: str = NOVAS_NAME + "coriolis-1", **more: Any) -> dict[str, Any]:
    return {"id": ident, "volume_id": of, "name": name, "status": "available", "size": 1, "created_at": ident, **more}


def image(ident: str, *mapped: str, **more: Any) -> dict[str, Any]:
    mapping = {"block_device_mapping": json.dumps([{"snapshot_id": one} for one in mapped])} if mapped else {}
    base = {"id": ident, "name": "coriolis-1", ORIGIN: "s1", "status": "active", "created_at": ident, "size": 0}
    return {**base, **mapping, **more}


def found(images: list[Any], snapshots: list[Any]) -> Any:
    return standing(images, snapshots, "s1", "coriolis-1", ["v1", "v2"])


def test_novas_image_says_which_snapshots_are_one() -> None:
    stands = found(
        [image("i1", "b", "a")], [shot("a", "v1"), shot("b", "v2"), shot("x", "v9"), shot("y", "v1", "else")]
    )
    assert [one["id"] for one in stands.snapshots] == ["a", "b"]
    frozen = frozen_of(stands)
    assert frozen is not None
    assert [(part.disk_id, part.id, part.size_bytes) for part in frozen.parts] == [("v2", "b", GIB), ("v1", "a", GIB)]


def test_somebody_elses_image_of_that_name_is_nothing() -> None:
    assert found([image("i1", "a", **{ORIGIN: "s2"})], [shot("a", "v7")]).images == ()


def test_an_interrupted_freeze_is_not_whole() -> None:
    assert frozen_of(found([], [shot("a", "v1"), shot("b", "v2")])) is None
    assert frozen_of(found([image("i1", "a", "b")], [shot("a", "v1")])) is None
    assert frozen_of(found([image("i1", "a")], [shot("a", "v1", status="error")])) is None
    marks = {ORIGIN: "s1", COUNT: "2"}
    one = shot("a", "v1", "coriolis-1", metadata=marks)
    assert frozen_of(found([], [one])) is None
    assert frozen_of(found([image("i1", **{COUNT: "2", "status": "queued"})], [one])) is None
    assert found([image("i1", status="saving")], []).working
    assert found([], [shot("a", "v1", status="creating")]).working


def test_a_local_root_disk_and_its_volumes() -> None:
    one = shot("a", "v1", "coriolis-1", metadata={ORIGIN: "s1", COUNT: "2"})
    root = image(
        "i1", **{COUNT: "2"}, size=9, virtual_size=GIB, disk_format="qcow2", os_hash_algo="sha512", os_hash_value="f"
    )
    frozen = frozen_of(found([root], [one]))
    assert frozen is not None
    assert [(part.disk_id, part.image) for part in frozen.parts] == [("root", True), ("v1", False)]
    assert (frozen.parts[0].format, frozen.parts[0].stored_bytes, frozen.parts[0].digest) == ("qcow2", 9, "sha512:f")
    alone = frozen_of(found([image("i1", **{COUNT: "1"}, size=9, disk_format="raw", checksum="c")], []))
    assert alone is not None
    assert (alone.parts[0].size_bytes, alone.parts[0].digest) == (9, "md5:c")


def test_of_two_that_were_made_at_once_the_older_is_taken_always() -> None:
    first, second = image("i1", "a"), image("i2", "b")
    snapshots = [shot("a", "v1"), shot("b", "v1")]
    frozen = frozen_of(found([second, first], snapshots))
    assert frozen is not None
    assert frozen.parts[0].id == "a"
    assert frozen == frozen_of(found([first, second], list(reversed(snapshots))))
    other = frozen_of(found([second], snapshots))
    assert other is not None
    assert other.identity != frozen.identity


def test_what_failed_is_said() -> None:
    with pytest.raises(Unavailable, match="volume v1 is error"):
        check_made(found([], [shot("a", "v1", status="error")]))
    with pytest.raises(Unavailable, match="killed"):
        check_made(found([image("i1", status="killed")], []))


def test_a_mapping_that_is_no_mapping_stands_for_nothing() -> None:
    for broken in ("{", "7", '["x"]', "null"):
        assert frozen_of(found([image("i1", **{"block_device_mapping": broken})], [])) is None


def test_names_are_ours_alone() -> None:
    snapshots = [
        shot("a", "v1"),
        shot("b", "v1", "coriolis-2"),
        shot("c", "v1", "nightly"),
        shot("d", "v7", "coriolis-3"),
    ]
    assert names_in([image("i", name="coriolis-4")], snapshots, "s1", ["v1"]) == {
        "coriolis-1",
        "coriolis-2",
        "coriolis-4",
    }
    for wrong in ("nightly", "coriolis-" + "x" * 60, "coriolis-a b", "coriolis-\n"):
        with pytest.raises(InvalidInput):
            check_name(wrong)
