"""Which MAC addresses a machine gets in vSphere, and that they stay what was said before its guest was converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyVmomi")

from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import Corrupt, NotFound, QuotaExceeded
from coriolis.ids import derived_id, new_id
from coriolis.model.machine import Devices, MachineSpec, Nic
from coriolis.model.resource import InstanceRequest, Tag, Volume, VolumeRequest
from coriolis.providers.vmware_vsphere.mac_addresses import MAX_TRIES, kept_macs, macs_of, manual_mac, needs_others
from coriolis.providers.vmware_vsphere.volumes import VsphereVolumes

OWN, RESERVED = "52:54:00:01:02:03", "00:0c:29:00:00:01"
JOB = "0d6c2b4e-50a3-4d4b-8a8f-2f3a1f3f9c11"
MACS = st.one_of(
    st.none(),
    st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":")),
    st.sampled_from(["00:0c:29", "00:50:56"]).flatmap(
        lambda prefix: st.binary(min_size=3, max_size=3).map(lambda data: f"{prefix}:{data.hex(':')}")
    ),
)


def request(macs: list[str | None], *, template: bool = False, **environment: Any) -> InstanceRequest:
    nics = tuple(Nic("lan", mac) for mac in macs)
    spec = MachineSpec("o", "web", 1, 512, devices=Devices(nics=nics), is_template=template)
    return InstanceRequest("web", derived_id(JOB, "0"), Tag(JOB, "0-instance"), spec, (), {}, environment)


@pytest.mark.parametrize(
    ("mac", "kept"),
    [
        ("52:54:00:01:02:03", "52:54:00:01:02:03"),
        ("00:50:56:3F:FF:FF", "00:50:56:3f:ff:ff"),
        ("00:50:56:40:00:00", ""),
        ("00:50:56:bf:00:00", ""),
        ("00:0c:29:00:00:01", ""),
        ("00:05:69:00:00:01", ""),
        ("00:1c:14:00:00:01", ""),
        ("01:00:5e:00:00:01", ""),
        ("ff:ff:ff:ff:ff:ff", ""),
        ("00:00:00:00:00:00", ""),
        (None, ""),
        ("", ""),
        ("52-54-00-01-02-03", ""),
        ("52:54:00:01:02:03:04", ""),
    ],
)
def test_addresses_that_vsphere_takes(mac: str | None, kept: str) -> None:
    assert manual_mac(mac) == kept


@given(st.lists(MACS, max_size=10), st.booleans(), st.data())
def test_every_nic_gets_an_address_that_is_its_own_or_a_free_static_one(
    macs: list[str | None], keeps: bool, data: st.DataObject
) -> None:
    asked = request(macs, keep_mac=keeps)
    first = macs_of(asked, ())
    taken = data.draw(st.sets(st.sampled_from(first))) if first else set()
    found = macs_of(asked, taken)
    assert found == macs_of(asked, taken), "asked again, the same"
    own = kept_macs(asked)
    others = [mac for mac, kept in zip(found, own, strict=True) if not kept]
    assert all(mac == kept for mac, kept in zip(found, own, strict=True) if kept)
    assert all(mac.startswith("00:50:56:") and manual_mac(mac) == mac for mac in others), "in the static range"
    assert len({*others, *taken, *own} - {""}) == len(others) + len({*taken, *own} - {""}), "nobody else's, nor twice"
    assert needs_others(asked) == bool(others)


def test_another_job_another_nic_another_address() -> None:
    asked = request([RESERVED, RESERVED, OWN])
    first, second, kept = macs_of(asked, ())
    assert kept == OWN
    of_another = InstanceRequest("web", new_id(), asked.tag, asked.spec, (), {}, {})
    assert len({first, second, *macs_of(of_another, ())}) == 5


def test_a_template_lets_vsphere_generate_what_it_does_not_keep() -> None:
    for asked in (request([OWN, RESERVED], template=True), request([OWN, RESERVED], as_template=True)):
        assert macs_of(asked, ()) == (OWN, "")
        assert not needs_others(asked)


def test_a_full_range_is_an_error() -> None:
    asked = request([RESERVED])
    taken: set[str] = set()
    for _ in range(MAX_TRIES):
        taken |= {*macs_of(asked, taken)}
    with pytest.raises(QuotaExceeded, match="NIC 0"):
        macs_of(asked, taken)


async def test_what_was_chosen_stays_beside_the_staged_disk(tmp_path: Path) -> None:
    volumes = VsphereVolumes(tmp_path, "vc:443")
    made = await volumes.create_volume(VolumeRequest("disk", 1024, Tag(JOB, "disk-0")))
    asked = _with(request([RESERVED]), made)
    assert volumes.noted_macs(asked) == ()
    volumes.note_macs(asked, (OWN,))
    assert VsphereVolumes(tmp_path, "vc:443").noted_macs(asked) == (OWN,)
    other = InstanceRequest("web", new_id(), asked.tag, asked.spec, asked.volumes, {}, {})
    assert volumes.noted_macs(other) == (), "of another deployment"
    (note,) = tmp_path.rglob("*.macs")
    note.write_text("{")
    with pytest.raises(Corrupt, match="does not hold the MAC addresses"):
        volumes.noted_macs(asked)
    await volumes.delete_volume(made.id)
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]
    with pytest.raises(NotFound):
        volumes.note_macs(asked, (OWN,))


def _with(asked: InstanceRequest, volume: Volume) -> InstanceRequest:
    return InstanceRequest(asked.name, asked.instance_id, asked.tag, asked.spec, (volume,), {}, {})
