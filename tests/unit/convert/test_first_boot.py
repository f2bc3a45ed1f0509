"""The scripts of the first start, run by the real /bin/sh in a directory, with stubs for the guest's tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from coriolis.convert.linux import first_boot
from coriolis.convert.linux import first_boot_texts as texts
from coriolis.errors import Corrupt
from tests.unit.convert.directory_guest import DirectoryGuest

PLACES = ("/usr/local/lib/coriolis", "/var/lib/coriolis", "/var/log/coriolis", "/etc/systemd", "/etc/rc", "/boot/")
TOOLS = (
    "mkdir",
    "chmod",
    "cat",
    "date",
    "sync",
    "tail",
    "rm",
    "mv",
    "cp",
    "wc",
    "readlink",
    "timeout",
    "sh",
    "grep",
    "sleep",
)


class Sandbox:
    """A guest's directory whose first-boot scripts see it as their root, and no tool but stubs and plain ones."""

    def __init__(self, top: Path) -> None:
        self.guest = DirectoryGuest(top / "guest")
        self.bin = top / "bin"
        self.bin.mkdir(parents=True)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        (self.guest.top / "var/log").mkdir(parents=True)
        self.calls = top / "calls"
        self.calls.touch()
        self.guest.write("/sbin/init", b"")

    def stub(self, name: str, body: str = "") -> None:
        """A tool that writes down how it was called."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.calls}"\n{body}\n')
        path.chmod(0o755)

    def lay_down(self, **scripts: bytes) -> None:
        named = {name.replace("_", "-").removeprefix("s"): data for name, data in scripts.items()}
        first_boot.lay_down(self.guest, named, lambda text: None)
        for path in [one for one in self.guest.path(first_boot.TOP).rglob("*") if one.is_file()]:
            text = path.read_text().replace("PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"PATH={self.bin}")
            for place in PLACES:
                text = text.replace(place, f"{self.guest.top}{place}")
            path.write_text(text)

    def start(self) -> list[str]:
        """Start the machine once; the calls of stubs so far."""
        run = self.guest.path(f"{first_boot.TOP}/run")
        subprocess.run(["/bin/sh", run], check=True, timeout=60, env={"PATH": "/nowhere"})
        return self.calls.read_text().splitlines()

    @property
    def log(self) -> str:
        return self.guest.path("/var/log/coriolis-firstboot.log").read_text()

    def has(self, path: str) -> bool:
        return os.path.lexists(self.guest.path(path))


@pytest.fixture
def box(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.mark.parametrize("name", texts.COMMON)
def test_every_text_is_one_for_any_shell(name: str, tmp_path: Path) -> None:
    shells = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]
    assert "dash" in shells
    for shell in shells:
        command = [shell, *(["sh"] if shell == "busybox" else []), "-n", "/dev/stdin"]
        subprocess.run(command, input=texts.COMMON[name], text=True, check=True)


def test_each_script_runs_once_and_the_unit_disables_itself(box: Sandbox) -> None:
    box.stub("work")
    box.lay_down(s10_a=b"#!/bin/sh\nwork a\n", s30_user_00=b"#!/bin/sh\nwork user\nexit 3\n")
    box.guest.symlink("x", first_boot.WANTS)
    assert box.start() == ["work a", "work user"]
    assert "10-a: ended with 0" in box.log
    assert "30-user-00: ended with 3" in box.log
    assert box.has(f"{first_boot.STATE}/complete")
    assert not box.has(first_boot.WANTS)
    assert not box.has("/etc/rc2.d/S99coriolis-firstboot")
    assert box.start() == ["work a", "work user"]


def test_packages_are_not_installed_for_root_alone_but_the_log_is(box: Sandbox) -> None:
    box.stub("work", f'umask >"{box.calls}.umask"')
    box.lay_down(s10_a=b"#!/bin/sh\nwork a\n")
    box.start()
    assert Path(f"{box.calls}.umask").read_text() == "0022\n"
    assert box.guest.path("/var/log/coriolis-firstboot.log").stat().st_mode & 0o777 == 0o600


def test_ours_are_tried_at_three_starts(box: Sandbox) -> None:
    box.stub("work", "exit 1")
    box.stub("late")
    box.lay_down(s10_a=b"#!/bin/sh\nwork a\n", s20_b=b"#!/bin/sh\nlate b\n")
    assert box.start() == ["work a", "late b"]
    assert not box.has(f"{first_boot.STATE}/complete")
    assert box.start()[2:] == ["work a"]
    assert box.start()[3:] == ["work a"]
    assert box.start()[4:] == []
    assert "10-a: given up after 3 times" in box.log
    assert box.has(f"{first_boot.STATE}/complete")


def test_an_operators_script_that_was_cut_off_is_not_repeated(box: Sandbox) -> None:
    box.lay_down(s30_user_00=b"#!/bin/sh\nwork user\n")
    box.stub("work")
    box.guest.write(f"{first_boot.STATE}/30-user-00.tries", b"1\n")
    assert box.start() == []
    assert box.has(f"{first_boot.STATE}/complete")


def test_the_log_is_bounded(box: Sandbox) -> None:
    box.lay_down(s10_a=b"#!/bin/sh\ni=0\nwhile [ $i -lt 20000 ]; do echo 0123456789; i=$((i + 1)); done\n")
    box.start()
    assert 65536 <= len(box.log) < 66000


def test_packages_of_the_origin_are_removed_and_their_masks(box: Sandbox) -> None:
    box.stub("dpkg-query", 'case $3 in vmware|other) echo "install ok installed" ;; *) exit 1 ;; esac')
    box.stub("dpkg", f'[ "$1" = --purge ] && : >"{box.calls}.purged"')
    box.guest.symlink("/dev/null", "/etc/systemd/system/vmware.service")
    script = first_boot.removal_script("dpkg", ["absent", "other", "vmware"], ["vmware.service"], ["/nowhere/x"])
    box.lay_down(s10_remove=script)
    assert "dpkg --purge other vmware" in box.start()
    assert not box.has("/etc/systemd/system/vmware.service")


def test_one_package_that_cannot_go_does_not_keep_the_others(box: Sandbox) -> None:
    box.stub("rpm", 'case "$*" in "-q"*) exit 0 ;; "-e a b") exit 1 ;; "-e b") exit 1 ;; esac')
    box.lay_down(s10_remove=first_boot.removal_script("rpm", ["a", "b"], [], []))
    assert [line for line in box.start() if "-e" in line] == ["rpm -e a b", "rpm -e a", "rpm -e b"]
    assert "10-remove: ended with 1" in box.log


def test_packages_come_from_the_bundle_then_from_the_repositories(box: Sandbox) -> None:
    box.stub("dpkg-query", f'[ "$3" = agent ] && grep -q "dpkg.*-i" "{box.calls}" && echo "install ok installed"')
    box.stub("dpkg")
    box.stub("apt-get")
    box.guest.write("/var/lib/coriolis/packages/agent_1_amd64.deb", b"")
    box.lay_down(s20_install=first_boot.install_script("dpkg", ["agent", "cloud-init"]))
    calls = box.start()
    assert f"dpkg --force-confold -i {box.guest.top}/var/lib/coriolis/packages/agent_1_amd64.deb" in calls
    assert calls[-1].endswith("install --no-install-recommends cloud-init")
    assert not box.has("/var/lib/coriolis/packages")


def test_without_any_network_the_start_goes_on(box: Sandbox) -> None:
    box.stub("rpm", "exit 1")
    box.stub("dnf", "exit 1")
    box.lay_down(s20_install=first_boot.install_script("rpm", ["agent"]))
    assert box.start()[-1] == "dnf -y -q install agent"
    assert "tried again at the next start: 20-install" in box.log


def rebuild(box: Sandbox, body: str) -> str:
    """The initramfs after a rebuild by a tool that does ``body``; it held a thousand bytes before."""
    box.stub("uname", "echo 6.1")
    box.stub("mktool", body)
    box.guest.write("/boot/initramfs-6.1.img", b"o" * 1000)
    box.lay_down(s40_initramfs=first_boot.rebuild_script(("mktool", "--force", "{path}", "{version}")))
    assert box.start()[-1] == f"mktool --force {box.guest.top}/boot/initramfs-6.1.img 6.1"
    return box.guest.path("/boot/initramfs-6.1.img").read_text()


def test_the_initramfs_is_made_anew_and_the_old_one_kept(box: Sandbox) -> None:
    new = rebuild(box, 'i=0; : >"$2"; while [ $i -lt 300 ]; do echo n >>"$2"; i=$((i + 1)); done')
    assert new == "n\n" * 300
    kept = box.guest.path(f"/var/lib/coriolis/before{box.guest.top}/boot/initramfs-6.1.img")
    assert kept.read_text() == "o" * 1000


@pytest.mark.parametrize("body", ["exit 1", ': >"$2"', 'echo n >"$2"; exit 1', 'echo tiny >"$2"'])
def test_an_initramfs_that_did_not_come_out_well_is_put_back(box: Sandbox, body: str) -> None:
    assert rebuild(box, body) == "o" * 1000


def test_a_second_conversion_starts_anew(box: Sandbox) -> None:
    box.guest.write(f"{first_boot.STATE}/complete", b"")
    box.guest.write(f"{first_boot.SCRIPTS}/30-user-07", b"of another job")
    box.stub("work")
    box.lay_down(s10_a=b"#!/bin/sh\nwork a\n")
    assert box.start() == ["work a"]
    assert not box.has(f"{first_boot.SCRIPTS}/30-user-07")


def test_verification_notices_what_is_lost(box: Sandbox) -> None:
    first_boot.lay_down(box.guest, {"10-a": b"x"}, lambda text: None)
    first_boot.verify(box.guest, ["10-a"])
    with pytest.raises(Corrupt, match="20-b"):
        first_boot.verify(box.guest, ["10-a", "20-b"])
    box.guest.remove("/etc/rc2.d/S99coriolis-firstboot")
    with pytest.raises(Corrupt, match="S99"):
        first_boot.verify(box.guest, ["10-a"])
