"""Pure parts of the libvirt provider."""

from __future__ import annotations

import msgspec
import pytest

pytest.importorskip("libvirt")

from coriolis.errors import InvalidInput
from coriolis.model.machine import Devices, Disk, MachineSpec, Nic
from coriolis.model.resource import InstanceRequest, Tag
from coriolis.providers.libvirt.backup_xml import (
    backup_xml,
    checkpoint_xml,
    parse_backup,
    parse_checkpoint,
    parse_scratch_name,
    scratch_name,
)
from coriolis.providers.libvirt.domain_build import Shape, VolumeFile, build_domain, network_of
from coriolis.providers.libvirt.domain_xml import parse_domain, to_spec
from coriolis.providers.libvirt.stopped import bitmap_is_complete

UUID = "0da8681d-eebd-4f9f-87b3-c8459ddc9f95"


def test_a_job_is_recognised_as_ours() -> None:
    xml = backup_xml("/s", UUID, "coriolis-p2", "n" * 16, {"vda": True, "vdb": False}, ("sda",), "coriolis-p1")
    job = parse_backup(xml)
    assert (job.name, job.nonce, job.socket) == ("coriolis-p2", "n" * 16, f"/s/{'n' * 16}.sock")
    vda, vdb = job.disk("vda"), job.disk("vdb")
    assert vda is not None
    assert vdb is not None
    assert (vda.incremental, vda.bitmap) == ("coriolis-p1", "coriolis-vda")
    assert (vdb.incremental, vdb.bitmap) == ("", "")
    assert job.disk("sda") is None


def test_foreign_jobs_have_no_name() -> None:
    xml = (
        "<domainbackup><server transport='unix' socket='/x'/><disks><disk name='vda' backup='yes' exportname='vda'>"
        "<scratch file='/tmp/foreign'/></disk></disks></domainbackup>"
    )
    assert parse_backup(xml).name == ""


def test_scratch_names() -> None:
    name = scratch_name(UUID, "coriolis-p", "abc", "vda")
    assert parse_scratch_name(f"/some/where/{name}") == (UUID, "coriolis-p", "abc", "vda")
    for foreign in ("x.scratch", "a@b@c@d.scratch", name.removesuffix(".scratch")):
        assert parse_scratch_name(foreign) is None


def test_checkpoints() -> None:
    assert checkpoint_xml("coriolis-p", {"vda": False}, ()) == ""
    xml = checkpoint_xml("coriolis-p", {"vda": True, "vdb": False}, ("sda",))
    assert parse_checkpoint(xml) == {"vda": "coriolis-p"}


@pytest.mark.parametrize(
    ("flags", "complete"), [(["auto"], True), ([], False), (["auto", "in-use"], False), (["in-use"], False)]
)
def test_bitmaps_count_only_when_recording_and_clean(flags: list[str], complete: bool) -> None:
    import json

    info = json.dumps({"format-specific": {"data": {"bitmaps": [{"name": "b", "flags": flags}]}}})
    assert bitmap_is_complete(info, "b") is complete
    assert bitmap_is_complete(info, "other") is False
    assert bitmap_is_complete("{}", "b") is False


def request(firmware: str = "BIOS", os_type: str = "linux", secure: bool = False) -> InstanceRequest:
    spec = MachineSpec(
        "o", "o", 2, 512, os_type=os_type, firmware_type=firmware, secure_boot=secure,  # type: ignore[arg-type]
        devices=Devices(disks=(Disk("d", 1 << 20),), nics=(Nic("lan", "52:54:00:00:00:01"),)),
    )  # fmt: skip
    return InstanceRequest("web", UUID, Tag("job", "instance"), spec, ())


@pytest.mark.parametrize("firmware", ["BIOS", "EFI"])
def test_built_domains_parse_back(firmware: str) -> None:
    made = request(firmware)
    xml = build_domain(made, (VolumeFile("/p/a & <b>", "raw"),), {"lan": "network:office"}, Shape("qemu"))
    parsed = parse_domain(xml)
    assert (parsed.uuid, parsed.name, parsed.memory_mb, parsed.num_cpu) == (UUID, "web", 512, 2)
    assert (parsed.firmware, parsed.tag) == (firmware, "coriolis:job:instance")
    assert [(d.target, d.format, d.source) for d in parsed.disks] == [("vda", "raw", "/p/a & <b>")]
    assert [(n.network, n.mac) for n in parsed.nics] == [("office", "52:54:00:00:00:01")]
    spec = to_spec(parsed, {"vda": 5}, "stopped")
    assert spec.devices.disks[0].size_bytes == 5


def test_windows_keeps_local_time_and_secure_boot_its_keys() -> None:
    xml = build_domain(request("EFI", "windows", True), (), {"lan": "user"}, Shape("kvm"))
    assert 'offset="localtime"' in xml
    assert 'name="secure-boot"' in xml
    assert 'name="enrolled-keys"' in xml


def test_network_map() -> None:
    nic = Nic("lan", None, network_id="id-1")
    assert network_of(nic, {"lan": "office"}) == ("network", "office")
    assert network_of(nic, {"id-1": "bridge:br0"}) == ("bridge", "br0")
    assert network_of(nic, {"lan": "none"}) == ("none", "")
    with pytest.raises(InvalidInput, match="lan"):
        network_of(nic, {})


def test_foreign_domains() -> None:
    parsed = parse_domain(
        f"<domain type='kvm'><name>w</name><uuid>{UUID}</uuid><memory unit='GiB'>2</memory><vcpu>4</vcpu>"
        "<metadata><libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>"
        "<libosinfo:os id='http://microsoft.com/win/2k19'/></libosinfo:libosinfo></metadata>"
        "<os firmware='efi'><type>hvm</type><loader secure='yes' type='pflash'>/x</loader></os><devices>"
        "<disk type='block' device='disk'><driver type='raw'/><source dev='/dev/vg/w'/><target dev='sda' bus='scsi'/>"
        "<shareable/></disk><disk type='file' device='cdrom'><target dev='sdb'/></disk>"
        "<disk type='file' device='disk'><driver type='qcow2'/><source file='/t'/><backingStore type='file'>"
        "<format type='qcow2'/></backingStore><target dev='vda' bus='virtio'/></disk>"
        "<interface type='bridge'><mac address='52:54:00:AA:00:01'/><source bridge='br0'/></interface></devices>"
        "</domain>"
    )
    assert (parsed.memory_mb, parsed.os_type, parsed.firmware, parsed.secure_boot) == (2048, "windows", "EFI", True)
    assert [(d.target, d.kind, d.shareable, d.has_backing) for d in parsed.disks] == [
        ("sda", "block", True, False),
        ("vda", "file", False, True),
    ]
    assert parsed.other_targets == ("sdb",)
    assert parsed.nics[0].mac == "52:54:00:aa:00:01"
    assert parsed.tag == ""


def test_a_template_says_that_it_is_one() -> None:
    made = request("BIOS")
    marked = msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, is_template=True))
    for one, wanted in ((made, False), (marked, True)):
        parsed = parse_domain(build_domain(one, (VolumeFile("/p/a", "raw"),), {"lan": "office"}, Shape("qemu")))
        assert to_spec(parsed, {"vda": 1}, "stopped").is_template is wanted
