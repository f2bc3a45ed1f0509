"""The providers under test, as parameters of one suite."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coriolis.providers.image.provider import ImageProvider
from coriolis.providers.libvirt.provider import LibvirtProvider
from coriolis.providers.surroundings import Surroundings
from coriolis.providers.vmware_vsphere.provider import VsphereProvider
from tests.contract.case import SIZE, Destination, Origin, make_image, sample_disk
from tests.contract.openstack_destination import WAYS as OPENSTACK_WAYS
from tests.contract.openstack_destination import Project, openstack_destination
from tests.contract.site import Site, guest_write, libvirt_site
from tests.contract.vsphere_destination import VSPHERE_ENVIRONMENT, machine_of_somebody, machine_runs
from tests.contract.vsphere_origin import VSPHERE_ORIGINS, vsphere_origin
from tests.lab.ceph import Ceph
from tests.lab.openstack_site import Cloud
from tests.lab.vcsim import Simulator, vcsim
from tests.lab.vsphere_site import Site as VsphereSite
from tests.lab.vsphere_site import vsphere_site

_FORMATS = {
    "raw": ("raw", ""),
    "qcow2": ("qcow2", ""),
    "vmdk": ("vmdk", "subformat=monolithicSparse"),
    "vmdk-stream": ("vmdk", "subformat=streamOptimized"),
    "vhd": ("vpc", "force_size=on"),
    "vhd-fixed": ("vpc", "subformat=fixed,force_size=on"),
    "vhdx": ("vhdx", ""),
}
_LIBVIRT = {
    "running": (True, ("qcow2", "qcow2")),
    "running-raw": (True, ("raw",)),
    "running-mixed": (True, ("qcow2", "raw")),
    "stopped": (False, ("qcow2", "raw")),
}
lab = pytest.mark.lab
OPENSTACK_ORIGINS = {"volumes": [pytest.mark.full], "image": []}
"""With the marks of each beside ``lab`` and ``openstack``; volumes of a GiB take four minutes."""

OVF = """<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References><File ovf:href="d.vmdk" ovf:id="f1"/></References>
<DiskSection><Info/><Disk ovf:capacity="{mib}" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="d1"
 ovf:fileRef="f1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
<VirtualSystem ovf:id="vm"><Info/><Name>vm</Name><OperatingSystemSection ovf:id="1"><Info/></OperatingSystemSection>
<VirtualHardwareSection><Info/>
<Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ResourceType>4</rasd:ResourceType>
<rasd:VirtualQuantity>256</rasd:VirtualQuantity></Item>
<Item><rasd:Connection>VM Network</rasd:Connection><rasd:ResourceType>10</rasd:ResourceType></Item>
<Item><rasd:HostResource>ovf:/disk/d1</rasd:HostResource><rasd:ResourceType>17</rasd:ResourceType></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>"""


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    with libvirt_site() as running:
        yield running


@pytest.fixture(scope="session")
def vsphere() -> Iterator[VsphereSite]:
    with vsphere_site() as running:
        yield running


@pytest.fixture(scope="session")
def openstack(whole_cloud: Cloud) -> Iterator[Any]:
    # the SDK is imported by those who have it
    from tests.contract.openstack_origin import openstack_servers

    with openstack_servers(whole_cloud) as servers:
        yield servers


@pytest.fixture(scope="session")
def openstack_ceph(ceph_cloud: tuple[Cloud, Ceph]) -> Iterator[Any]:
    from tests.contract.openstack_origin import openstack_servers

    cloud, ceph = ceph_cloud
    with openstack_servers(cloud, ceph.connection_info()) as servers:
        yield servers


def _image_origin(folder: Path, kind: str) -> Origin:
    fmt, options = _FORMATS[kind]
    content = sample_disk(1)
    make_image(folder / "d.img", content, fmt, options)
    (folder / "vm.toml").write_text(
        'name = "vm"\nnum_cpu = 2\nmemory_mb = 256\n'
        f'[[disks]]\nfile = "d.img"\nformat = "{fmt}"\nsize_bytes = {SIZE}\n[[nics]]\nnetwork_name = "lan"\n'
    )
    return Origin(ImageProvider(), {"path": str(folder)}, "vm", {"disk-0": content})


def _ova_origin(folder: Path) -> Origin:
    content = sample_disk(1)
    (folder / "in").mkdir()
    make_image(folder / "in" / "d.vmdk", content, "vmdk", "subformat=streamOptimized")
    (folder / "in" / "vm.ovf").write_text(OVF.format(mib=SIZE >> 20))
    with tarfile.open(folder / "vm.ova", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("vm.ovf", "d.vmdk"):
            archive.add(folder / "in" / name, name)
    return Origin(ImageProvider(), {"path": str(folder)}, "vm", {"disk-0": content})


def _libvirt_origin(site: Site, folder: Path, kind: str) -> tuple[Origin, Any]:
    running, formats = _LIBVIRT[kind]
    disks, truth = [], {}
    for index, fmt in enumerate(formats):
        target = f"vd{'ab'[index]}"
        truth[target] = sample_disk(index)
        make_image(folder / f"{target}.img", truth[target], fmt)
        disks.append((target, fmt, folder / f"{target}.img"))
    domain = site.domain(disks, start=running)

    def write(target: str, offset: int, length: int, pattern: int) -> None:
        guest_write(domain, list(truth).index(target), offset, length, pattern)
        truth[target][offset : offset + length] = bytes([pattern]) * length

    logged = frozenset(t for t, fmt, _ in disks if fmt == "qcow2" and running)
    origin = Origin(
        LibvirtProvider(), site.connection_info, domain.UUIDString(), truth, write if running else None, logged, running
    )
    return origin, domain


_ORIGINS = [
    *(f"image-{kind}" for kind in _FORMATS),
    "image-ova",
    *(pytest.param(f"libvirt-{kind}", marks=lab) for kind in _LIBVIRT),
    *(f"vsphere-{kind}" for kind in VSPHERE_ORIGINS),
    *(
        pytest.param(f"openstack-{kind}", marks=[lab, pytest.mark.openstack, *marks])
        for kind, marks in OPENSTACK_ORIGINS.items()
    ),
    pytest.param("openstack-ceph", marks=[lab, pytest.mark.openstack, pytest.mark.ceph]),
]


@pytest.fixture(params=_ORIGINS)
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Origin]:
    family, kind = request.param.split("-", 1)
    if family == "image":
        yield _ova_origin(tmp_path) if kind == "ova" else _image_origin(tmp_path, kind)
        return
    if family == "vsphere":
        yield vsphere_origin(request.getfixturevalue("vsphere"), tmp_path, kind)
        return
    if request.param == "openstack-ceph":
        yield request.getfixturevalue("openstack_ceph").origin("volumes", tmp_path)
        return
    if family == "openstack":
        yield request.getfixturevalue("openstack").origin(kind, tmp_path)
        return
    site: Site = request.getfixturevalue("site")
    made, domain = _libvirt_origin(site, tmp_path, kind)
    yield made
    site.discard(domain)


def _image_destination(folder: Path, fmt: str) -> Destination:
    def foreign_volume(name: str) -> None:
        (folder / ".coriolis").mkdir(exist_ok=True)
        (folder / ".coriolis" / f"{name}.raw.partial").write_bytes(b"not ours")

    def foreign_instance(name: str) -> None:
        (folder / f"{name}.toml").write_text(f'name = "{name}"\nnum_cpu = 1\nmemory_mb = 1\n')

    environment = {"format": fmt, "network_map": {"lan": "office"}}
    return Destination(ImageProvider(), {"path": str(folder)}, environment, foreign_volume, foreign_instance)


def _libvirt_destination(site: Site, fmt: str) -> Destination:
    def foreign_instance(name: str) -> None:
        site.connection.defineXML(
            f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>"
            "<os><type arch='x86_64'>hvm</type></os></domain>"
        )

    async def is_running(instance_id: str) -> bool:
        return bool(site.connection.lookupByUUIDString(instance_id).isActive())

    environment = {"volume_format": fmt, "domain_type": "qemu", "network_map": {"lan": "user"}}
    return Destination(
        LibvirtProvider(),
        site.connection_info,
        environment,
        lambda name: (site.pool_path / name).write_bytes(b"not ours") and None,
        foreign_instance,
        is_running=is_running,
    )


@pytest.fixture(scope="session")
def simulator() -> Iterator[Simulator]:
    with vcsim() as running:
        yield running


def _vsphere_destination(simulator: Simulator, folder: Path) -> Destination:
    info = simulator.connection_info()
    hidden = folder / "vmware_vsphere" / f"{simulator.host}_{simulator.port}" / ".coriolis"

    def foreign_volume(name: str) -> None:
        hidden.mkdir(parents=True, exist_ok=True)
        (hidden / f"{name}.raw.partial").write_bytes(b"not ours")

    return Destination(
        VsphereProvider(),
        info,
        VSPHERE_ENVIRONMENT,
        foreign_volume,
        lambda name: machine_of_somebody(info, name),
        is_running=lambda instance_id: machine_runs(info, instance_id),
        surroundings=Surroundings(staging_dir=folder),
    )


_DESTINATIONS = [
    *(f"image-{fmt}" for fmt in ("raw", "qcow2", "vmdk", "vhd", "vhdx")),
    pytest.param("libvirt-raw", marks=lab),
    pytest.param("libvirt-qcow2", marks=lab),
    "vsphere-import",
    *(pytest.param(f"openstack-{way}", marks=[lab, pytest.mark.openstack]) for way in OPENSTACK_WAYS),
]


@pytest.fixture(scope="session")
def project(whole_cloud: Cloud) -> Project:
    return Project(whole_cloud)


@pytest.fixture(params=_DESTINATIONS)
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Destination]:
    family, fmt = request.param.split("-", 1)
    if family == "image":
        yield _image_destination(tmp_path, fmt)
        return
    if family == "vsphere":
        yield _vsphere_destination(request.getfixturevalue("simulator"), tmp_path)
        return
    if family == "openstack":
        project: Project = request.getfixturevalue("project")
        yield openstack_destination(project, tmp_path, fmt)
        project.clear()
        return
    site: Site = request.getfixturevalue("site")
    yield _libvirt_destination(site, fmt)
    for domain in site.connection.listAllDomains():
        site.discard(domain)
