"""Real Debian guests from VMware's hardware to virtio: converted, killed on the way, booted and asked."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from coriolis.convert.request import ConversionResult
from tests.lab.boot import DEFAULT_MAC, LOGIN, BootFailed, Console, Machine
from tests.lab.config_drive import HOSTNAME, INSTANCE_ID, PUBLIC_KEY, make_config_drive

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

LAB = Path(__file__).parent.parent / "lab"
BOOT_TIMEOUT_S = 300.0
PASSPHRASE = "lab pass"
VARIANTS = {
    "bios": [],
    "uefi": ["--firmware", "uefi"],
    "lvm": ["--lvm"],
    "lvm-second": ["--lvm-second"],
    "dracut": ["--dracut"],
    "luks": ["--luks", "--dracut"],
    "cloud-init": ["--cloud-init"],
}


@pytest.fixture(scope="module", autouse=True)
def _needs() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for tool in ("mmdebstrap", "qemu-system-x86_64", "qemu-img"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Remembers the accelerator for all tests of this file."""
    return tmp_path_factory.mktemp("state")


def replica_of(variant: str, directory: Path) -> Path:
    """A raw replica of the cached guest; that of a second disk lies beside it as ``second.raw``."""
    cached = subprocess.run([LAB / "guest_cache", *VARIANTS[variant]], stdout=subprocess.PIPE, check=True, text=True)
    disk = Path(cached.stdout.strip())
    replica = directory / "replica.raw"
    for source, target in ((disk, replica), (Path(f"{disk}.second"), directory / "second.raw")):
        if source.exists():
            subprocess.run(["qemu-img", "convert", "-O", "raw", source, target], check=True)
    return replica


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


class Disks:
    """A replica and the volume made from it; conversions of them in processes of their own."""

    def __init__(self, variant: str, directory: Path, state_dir: Path) -> None:
        self.replica = replica_of(variant, directory)
        self.volume = directory / "volume.raw"
        subprocess.run(["cp", "--sparse=always", self.replica, self.volume], check=True)
        self.work_dir = directory / "work"
        self._command = [sys.executable, "-m", "tests.lab.convert_disk", str(self.replica), str(self.volume)]
        self._command += ["--work-dir", str(self.work_dir), "--state-dir", str(state_dir)]
        self._command += ["--uefi"] if variant == "uefi" else []
        self.more_volumes: tuple[Path, ...] = ()
        if (second := directory / "second.raw").exists():
            self.more_volumes = (directory / "second-volume.raw",)
            subprocess.run(["cp", "--sparse=always", second, *self.more_volumes], check=True)
            self._command += ["--second", str(second), str(*self.more_volumes)]
        self._environment = {**os.environ, "PYTHONPATH": str(LAB.parent.parent)}

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self._command, *options], stdout=subprocess.PIPE, text=True, env=self._environment)

    def convert(self, *options: str) -> ConversionResult:
        process = self.start(*options)
        output, _ = process.communicate()
        print(output)
        assert process.returncode == 0
        return msgspec.json.decode(output.splitlines()[-1], type=ConversionResult)

    def boots(self, profile: str = "virtio", *, uefi: bool = False, passphrase: str = "") -> None:
        with self.booted(profile, uefi=uefi, passphrase=passphrase):
            pass

    @contextmanager
    def booted(
        self,
        profile: str = "virtio",
        *,
        uefi: bool = False,
        passphrase: str = "",
        cdrom: Path | None = None,
        keeps_writes: bool = False,
    ) -> Iterator[Console]:
        """Root's shell in the guest. Assert: login prompt, and ens192 is up with the guest's static address."""
        machine = Machine(
            self.volume,
            "raw",
            profile,
            uefi=uefi,
            more_disks=self.more_volumes,
            cdrom=cdrom,
            keeps_writes=keeps_writes,
        )
        with Console(machine) as console:
            if passphrase:
                console.wait_for("passphrase for disk", BOOT_TIMEOUT_S)
                console.answer(passphrase)
            console.wait_for(LOGIN, BOOT_TIMEOUT_S)
            console.log_in("root", "vmware")
            status, output = console.run("ip -brief address show dev ens192")
            assert status == 0, output
            assert "UP" in output.split()
            assert "192.168.77.10/24" in output.split()
            status, output = console.run("systemd-detect-virt; cat /proc/cmdline")
            assert profile == "vmware" or "vmware" not in output.splitlines()[0]
            yield console


def test_unconverted_it_does_not_boot_on_virtio(tmp_path: Path) -> None:
    """The control: without it the tests below would prove nothing."""
    machine = Machine(replica_of("bios", tmp_path), "raw")
    with pytest.raises(BootFailed, match="Gave up waiting"), Console(machine) as console:
        console.wait_for(LOGIN, BOOT_TIMEOUT_S)


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [one for child in children for one in (int(child), *descendants(int(child)))]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill_when_it_says(process: subprocess.Popen[str], event: str) -> None:
    """SIGKILL the converting process at ``event``; what it started must end by itself."""
    assert process.stdout is not None
    assert any(event in line for line in process.stdout), f"it never said {event}"
    started = descendants(process.pid)
    assert len(started) >= 2, "a worker and its appliance"
    process.kill()
    process.wait()
    deadline = time.monotonic() + 15
    while any(running(pid) for pid in started):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.1)


def test_killed_at_every_stage_it_ends_with_a_machine_that_boots(tmp_path: Path, state_dir: Path) -> None:
    disks = Disks("bios", tmp_path, state_dir)
    before = digest(disks.replica)

    kill_when_it_says(disks.start(), "appliance started (")
    assert digest(disks.volume) == before, "nothing may be written before the conversion is complete"

    process = disks.start("--kill-after-writes", "7")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert digest(disks.volume) != before

    started = time.monotonic()
    result = disks.convert()
    assert result.reapplied
    assert time.monotonic() - started < 10, "it converted again instead of writing again"
    assert result.summary.system.title.startswith("Debian GNU/Linux 12")
    assert result.summary.done.pins == (("00:50:56:9a:11:22", "ens192"),)
    assert {"virtio_blk", "virtio_pci", "virtio_scsi"} <= set(result.summary.done.modules)
    assert 1 << 19 < result.disks[0].data_bytes < 8 << 20
    assert digest(disks.replica) == before, "conversion never touches the replica"

    disks.boots()
    disks.boots("virtio-scsi")
    disks.boots("vmware")


@pytest.mark.full
@pytest.mark.parametrize("variant", ["uefi", "lvm", "lvm-second"])
def test_other_layouts_boot(tmp_path: Path, state_dir: Path, variant: str) -> None:
    disks = Disks(variant, tmp_path, state_dir)
    assert not disks.convert().reapplied
    disks.boots(uefi=variant == "uefi")


@pytest.mark.full
def test_a_dracut_guest_that_knows_its_old_disk_boots(tmp_path: Path, state_dir: Path) -> None:
    """Its initramfs lacks virtio, and a hook in it waits for /dev/sda1."""
    disks = Disks("dracut", tmp_path, state_dir)
    result = disks.convert()
    assert result.summary.done.way == "fast"
    assert any("merged index" in line for line in result.messages)
    assert any("no wait for /dev/sda1" in line for line in result.messages)
    disks.boots()
    disks.boots("vmware")


@pytest.mark.full
def test_unconverted_the_dracut_guest_does_not_boot_on_virtio(tmp_path: Path) -> None:
    machine = Machine(replica_of("dracut", tmp_path), "raw")
    with pytest.raises(BootFailed), Console(machine) as console:
        console.wait_for(LOGIN, BOOT_TIMEOUT_S)


@pytest.mark.full
def test_an_encrypted_root_boots_with_its_passphrase(tmp_path: Path, state_dir: Path) -> None:
    disks = Disks("luks", tmp_path, state_dir)
    before = digest(disks.volume)
    refused = disks.start()
    refused.communicate()
    assert refused.returncode != 0, "without a passphrase it must be refused"
    assert digest(disks.volume) == before
    assert disks.convert("--passphrase", "wrong", "--passphrase", PASSPHRASE).summary.done.way == "fast"
    disks.boots(passphrase=PASSPHRASE)


@pytest.mark.full
@pytest.mark.parametrize("variant", ["bios", "dracut"])
def test_the_full_way_boots(tmp_path: Path, state_dir: Path, variant: str) -> None:
    """The guest's own tools, run in the appliance, make the initramfs anew."""
    disks = Disks(variant, tmp_path, state_dir)
    assert disks.convert("--way", "full").summary.done.way == "full"
    disks.boots()


@pytest.mark.full
def test_cloud_init_asks_openstack_and_leaves_the_machine_as_it_was(tmp_path: Path, state_dir: Path) -> None:
    """It had been disabled and told to ask nobody; the config drive offers another host name and address."""
    disks = Disks("cloud-init", tmp_path, state_dir)
    result = disks.convert("--platform", "openstack")
    assert any("cloud-init asks: ConfigDrive" in line for line in result.messages)
    drive = make_config_drive(tmp_path / "config.iso", tmp_path / "config", DEFAULT_MAC)
    with disks.booted(cdrom=drive) as console:
        status, output = console.run("cloud-init status --wait --long", BOOT_TIMEOUT_S)
        assert (status, "status: done" in output) == (0, True), output
        assert console.run("cloud-id") == (0, "configdrive")
        assert console.run("cat /var/lib/cloud/data/instance-id") == (0, INSTANCE_ID)
        status, output = console.run("cat /home/debian/.ssh/authorized_keys")
        assert (status, PUBLIC_KEY in output) == (0, True), output
        assert console.run("hostname") == (0, "src-vm")
        assert console.run(f"grep -r {HOSTNAME} /etc")[0] == 1
        status, output = console.run("ip -brief address; ls /sys/class/net")
        assert "192.168.77.10/24" in output
        assert "10.20.30.40" not in output
        assert output.splitlines()[-1].split() == ["ens192", "lo"]


INITRD = "/boot/initrd.img-$(uname -r)"


@pytest.mark.full
def test_the_first_start_finishes_the_migration(tmp_path: Path, state_dir: Path) -> None:
    """The tools of VMware go, the guest's own tool makes the initramfs anew, and the machine starts from that."""
    disks = Disks("bios", tmp_path, state_dir)
    assert disks.convert().summary.done.way == "fast"
    ended = "until grep -q 'tried again at the next start\\|^complete' $log; do sleep 2; done; cat $log"
    with disks.booted(keeps_writes=True) as console:
        status, log = console.run(f"log=/var/log/coriolis-firstboot.log; {ended}", 600)
        print(log)
        assert "10-remove-packages: ended with 0" in log
        assert "40-initramfs: ended with 0" in log
        # No repository is reachable here, which must not keep the rest from being done.
        assert log.splitlines()[-1] == "tried again at the next start: 20-install-packages"
        assert console.run("dpkg-query -s open-vm-tools; ls /usr/bin/vmtoolsd")[0] != 0
        assert console.run("systemctl is-system-running --wait || systemctl --failed --no-legend")[1] == "running"
        assert console.run(f"cmp -s {INITRD} /var/lib/coriolis/before{INITRD}")[0] == 1
        status, images = console.run(f"cat /proc/sys/kernel/osrelease; lsinitramfs {INITRD} | grep -c virtio_blk.ko")
        assert (status, images.splitlines()[-1]) == (0, "1"), "ours appended to the new one would be a second"
        console.power_off()
    with disks.booted(keeps_writes=True) as console:
        assert console.run("ls /var/lib/coriolis/firstboot/40-initramfs.done")[0] == 0
        assert console.run(f"lsinitramfs {INITRD} | grep -c virtio_blk.ko") == (0, "1")
