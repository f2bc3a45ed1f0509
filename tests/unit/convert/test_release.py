"""What older distributions say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from coriolis.convert.linux.release import release_from
from coriolis.convert.platforms import target_platform
from coriolis.convert.plugin import Job
from coriolis.convert.plugins import plan_guest
from tests.unit.convert.directory_guest import debian

SLES = "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 4\n"


@pytest.mark.parametrize(
    ("path", "text", "identity", "version"),
    [
        ("/etc/redhat-release", "Red Hat Enterprise Linux Server release 6.10 (Santiago)\n", "rhel", "6.10"),
        ("/etc/redhat-release", "CentOS release 6.10 (Final)\n", "centos", "6.10"),
        ("/etc/system-release", "Amazon Linux AMI release 2018.03\n", "amzn", "2018.03"),
        ("/etc/oracle-release", "Oracle Linux Server release 6.9\n", "ol", "6.9"),
        ("/etc/SuSE-release", SLES, "sles", "11.4"),
        ("/etc/SuSE-release", "openSUSE 13.2 (x86_64)\nVERSION = 13.2\n", "opensuse", "13.2"),
        ("/etc/debian_version", "7.11\n", "debian", "7.11"),
        (
            "/etc/lsb-release",
            'DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=12.04\nDISTRIB_DESCRIPTION="Ubuntu"\n',
            "ubuntu",
            "12.04",
        ),
    ],
)
def test_older_releases(path: str, text: str, identity: str, version: str) -> None:
    found = release_from({path: text})
    assert (found["ID"], found["VERSION_ID"]) == (identity, version)


def test_nothing_known_is_nothing() -> None:
    assert release_from({"/etc/redhat-release": "hello\n"}) == {}


def test_a_guest_without_os_release_is_known_by_its_older_file(tmp_path: Path) -> None:
    guest = debian(tmp_path)
    guest.remove("/etc/os-release")
    guest.write("/etc/redhat-release", b"CentOS release 6.10 (Final)\n")
    system = plan_guest(guest, Job(target_platform("kvm"))).system
    assert (system.family, system.distribution, system.version) == ("redhat", "centos", "6.10")
