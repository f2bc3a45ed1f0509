"""What a Linux guest becomes at its destination, over a directory: cloud-init, console, labels, scripts, addresses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coriolis.convert.linux import cloud_init, console, selinux, user_scripts
from coriolis.convert.plugin import Job, Nic, Phase, Script
from coriolis.convert.plugins import find_plugin, plan_guest
from coriolis.errors import Corrupt, InvalidInput, TimedOut, Unavailable, Unsupported
from tests.unit.convert.scripted_guest import (
    KVM,
    MAC,
    OPENSTACK,
    ScriptedGuest,
    run,
    script,
    scripted,
)


@pytest.fixture
def guest(tmp_path: Path) -> ScriptedGuest:
    return scripted(tmp_path / "guest")


# ---- cloud-init ---------------------------------------------------------------------------------------------------


def test_kvm_adds_no_cloud_init_but_configures_one_that_is_there(guest: ScriptedGuest) -> None:
    run(guest, Job(KVM, (Nic(MAC),)))
    assert not guest.is_file(cloud_init.DROP_IN)
    guest.write("/usr/bin/cloud-init", b"")
    guest.write("/etc/cloud/cloud-init.disabled", b"")
    guest.write("/etc/cloud/cloud.cfg.d/99-installer.cfg", b"datasource_list: [None]\n")
    guest.write("/etc/cloud/cloud.cfg.d/05_logging.cfg", b"x\n")
    run(guest, Job(KVM, (Nic(MAC),)))
    assert "datasource_list: [ ConfigDrive, NoCloud, None ]\n" in guest.path(cloud_init.DROP_IN).read_text()
    assert guest.listdir("/etc/cloud/cloud.cfg.d") == ["05_logging.cfg", "99_coriolis.cfg"]
    assert not guest.is_file("/etc/cloud/cloud-init.disabled")
    assert guest.is_file("/var/lib/coriolis/before/etc/cloud/cloud-init.disabled")


def test_cloud_init_leaves_the_network_only_where_addresses_are_kept() -> None:
    keeps, dynamic = Nic(MAC), Nic(MAC, addressing="dhcp")
    assert "config: disabled" in cloud_init.drop_in(OPENSTACK, [keeps, dynamic])
    assert "config: disabled" in cloud_init.drop_in(OPENSTACK, [])
    assert "config: disabled" not in cloud_init.drop_in(OPENSTACK, [dynamic])


def test_where_metadata_is_certain_cloud_init_looks_for_it_itself(guest: ScriptedGuest) -> None:
    """Its generator looks before the kernel has found a CD drive. What the guest had said to the generator goes."""
    guest.write("/usr/bin/cloud-init", b"")
    guest.write(cloud_init.IDENTIFY, b"policy: disabled\n")
    run(guest, Job(KVM, (Nic(MAC),)))
    assert not guest.is_file(cloud_init.IDENTIFY)
    assert guest.is_file(f"/var/lib/coriolis/before{cloud_init.IDENTIFY}")
    job = Job(OPENSTACK, (Nic(MAC),))
    facts, _ = run(guest, job)
    assert guest.path(cloud_init.IDENTIFY).read_text().splitlines()[-1] == "policy: enabled"
    plugin, system = find_plugin(guest)
    guest.write(cloud_init.IDENTIFY, b"policy: disabled\n")
    with pytest.raises(Corrupt, match="ds-identify"):
        plugin.verify(guest, system, job, facts, print)


def test_a_config_drive_is_seen_from_the_initramfs_on() -> None:
    for platform in (KVM, OPENSTACK):
        assert {"sr_mod", "ahci", "ata_piix"} <= set(platform.wanted)


def test_a_lost_datasource_fails_the_verification(guest: ScriptedGuest) -> None:
    job = Job(OPENSTACK, (Nic(MAC),))
    facts, _ = run(guest, job)
    plugin, system = find_plugin(guest)
    guest.write(cloud_init.DROP_IN, b"datasource_list: [ Ec2 ]\n")
    with pytest.raises(Corrupt, match="99_coriolis"):
        plugin.verify(guest, system, job, facts, print)


# ---- console, labels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("root=x quiet", "root=x quiet console=tty0 console=ttyS0,115200n8"),
        ("root=x console=ttyS0,9600 quiet", "root=x console=tty0 console=ttyS0,9600 quiet"),
        ("console=tty0 root=x", "console=tty0 root=x console=ttyS0,115200n8"),
        ("console=hvc0", "console=tty0 console=hvc0 console=ttyS0,115200n8"),
        ("", "console=tty0 console=ttyS0,115200n8"),
    ],
)
def test_consoles_are_added_where_absent(before: str, after: str) -> None:
    assert console.with_consoles(before, "ttyS0,115200n8") == after
    assert console.with_consoles(after, "ttyS0,115200n8") == after


def test_quotes_and_other_lines_stay() -> None:
    text = 'A=1\nGRUB_CMDLINE_LINUX=\'a="b c"\'\n#GRUB_CMDLINE_LINUX=""\n'
    wanted = 'A=1\nGRUB_CMDLINE_LINUX=\'a="b c" console=tty0 console=ttyS0\'\n#GRUB_CMDLINE_LINUX=""\n'
    assert console.in_defaults(text, "ttyS0") == wanted
    assert console.in_grub("\tlinux16 /memtest86+.bin\n", "ttyS0") == "\tlinux16 /memtest86+.bin\n"


def test_grubs_environment_keeps_its_size() -> None:
    block = "# GRUB Environment Block\nkernelopts=root=x ro\n".ljust(1024, "#")
    new = console.in_environment(block, "ttyS0")
    assert len(new) == 1024
    assert "kernelopts=root=x ro console=tty0 console=ttyS0\n###" in new
    full = "# GRUB Environment Block\nkernelopts=root=x ro\n".ljust(1020, "y") + "\n###"
    assert console.in_environment(full, "ttyS0") == full


def test_a_platform_without_a_console_leaves_the_command_line(guest: ScriptedGuest) -> None:
    run(guest, Job(replace(KVM, console=""), (Nic(MAC),)))
    assert "tty0" not in guest.path("/boot/grub/grub.cfg").read_text()


@pytest.mark.parametrize(("mode", "asked"), [("enforcing", True), ("permissive", True), ("disabled", False)])
def test_labels(guest: ScriptedGuest, mode: str, asked: bool) -> None:
    guest.write(selinux.CONFIG, f"# SELINUX=disabled\nSELINUX={mode}\n".encode())
    _, said = run(guest, Job(KVM, (Nic(MAC),)))
    assert guest.is_file(selinux.RELABEL) == asked
    assert any("labels its files" in line for line in said) == asked


# ---- an operator's scripts ----------------------------------------------------------------------------------------


def scripts(phase: Phase, *payloads: str) -> tuple[Script, ...]:
    return tuple(Script(phase, f"global {number}", payload) for number, payload in enumerate(payloads))


def test_scripts_after_the_mount_run_first_and_their_output_is_said(guest: ScriptedGuest) -> None:
    guest.answers = {"osmorphing_post_os_mount": "one\n\x1b[2Jtwo\n"}
    _, said = run(guest, Job(KVM, (Nic(MAC),), scripts=scripts("osmorphing_post_os_mount", "echo one\r\n")))
    assert said.index("script global 0: one") < next(i for i, line in enumerate(said) if "grub.cfg" in line)
    assert "script global 0: \\x1b[2Jtwo" in said
    assert guest.listdir("/var/lib/coriolis/scripts") == []
    assert user_scripts.executable(scripts("replica_first_boot", "echo one\r\n")[0]) == b"#!/bin/sh\necho one\n"


@pytest.mark.parametrize("error", [Unavailable("status 3: no such user"), TimedOut("too long: no such user")])
def test_a_script_that_fails_fails_the_conversion_with_its_last_words(guest: ScriptedGuest, error: Exception) -> None:
    guest.answers = {"osmorphing_post_os_mount": error}
    before = guest.path("/etc/fstab").read_bytes()
    with pytest.raises(InvalidInput, match=r"global 0.*no such user"):
        run(guest, Job(KVM, (Nic(MAC),), scripts=scripts("osmorphing_post_os_mount", "x")))
    assert guest.path("/etc/fstab").read_bytes() == before
    assert guest.listdir("/var/lib/coriolis/scripts") == []


def test_output_is_bounded() -> None:
    said: list[str] = []
    user_scripts.say_output(scripts("replica_first_boot", "")[0], "x" * 5000 + "\n" + "line\n" * 100, said.append)
    assert len(said) == 1 + user_scripts.MAX_SAID_LINES
    assert max(map(len, said)) < 250


def test_scripts_of_the_first_boot_are_laid_down_in_order(guest: ScriptedGuest) -> None:
    run(guest, Job(KVM, (Nic(MAC),), scripts=scripts("replica_first_boot", "#!/bin/bash\na\n", "b\n")))
    assert script(guest, "30-user-00") == "#!/bin/bash\na\n"
    assert script(guest, "30-user-01") == "#!/bin/sh\nb\n"


def test_too_many_and_too_large_scripts_are_refused_beforehand(guest: ScriptedGuest) -> None:
    many = Job(KVM, scripts=scripts("replica_first_boot", *["x"] * 17))
    large = Job(KVM, scripts=scripts("replica_first_boot", "x" * ((64 << 10) + 1)))
    for job, code in ((many, "TOO_MANY_SCRIPTS"), (large, "SCRIPT_TOO_LARGE")):
        assert code in [finding.code for finding in plan_guest(guest, job).findings]
        with pytest.raises(Unsupported, match="more than"):
            run(guest, job)


# ---- addresses, and what is found beforehand ----------------------------------------------------------------------


def test_addresses_that_cannot_be_replaced_are_found_beforehand(guest: ScriptedGuest) -> None:
    flow = b"network: {ethernets: {ens192: {addresses: [10.0.0.5/24]}}}\n"
    guest.write("/etc/netplan/01.yaml", flow)
    job = Job(KVM, (Nic(MAC, addressing="dhcp"),))
    assert "ADDRESSES_UNREADABLE" in [one.code for one in plan_guest(guest, job).findings]
    with pytest.raises(Unsupported, match="flow style"):
        run(guest, job)
    run(guest, Job(KVM, (Nic(MAC),)))
    assert guest.path("/etc/netplan/01.yaml").read_bytes() == flow


def test_names_and_interfaces_that_do_not_match_are_found_beforehand(guest: ScriptedGuest) -> None:
    two = (Nic(MAC), Nic("00:50:56:9a:11:23"))
    findings = [one.message for one in plan_guest(guest, Job(KVM, two)).findings if one.code == "NIC_UNMATCHED"]
    assert findings == ["no name is configured for the interface 00:50:56:9a:11:23"]


def test_what_was_static_is_kept_beside(guest: ScriptedGuest) -> None:
    old = b"auto ens192\niface ens192 inet static\n\taddress 10.0.0.5/24\n"
    guest.write("/etc/network/interfaces", old)
    run(guest, Job(KVM, (Nic(MAC, addressing="dhcp"),)))
    assert guest.path("/etc/network/interfaces").read_text() == "auto ens192\niface ens192 inet dhcp\n"
    assert guest.path("/var/lib/coriolis/before/etc/network/interfaces").read_bytes() == old


def test_a_stale_mac_is_replaced_where_the_name_goes_to_another(guest: ScriptedGuest) -> None:
    stale = "00:50:56:9a:99:99"
    guest.write("/etc/network/interfaces", b"auto lo\n")
    guest.write("/etc/sysconfig/network-scripts/ifcfg-eth0", f"DEVICE=eth0\nHWADDR={stale}\nIPADDR=10.0.0.5\n".encode())
    guest.remove("/lib/udev/rules.d/80-net-setup-link.rules")
    guest.write("/etc/udev/rules.d/70-persistent-net.rules", f'ATTR{{address}}=="{stale}", NAME="eth0"\n'.encode())
    facts, _ = run(guest, Job(KVM, (Nic(MAC),)))
    assert facts.pins == [(MAC, "eth0")]
    ifcfg = guest.path("/etc/sysconfig/network-scripts/ifcfg-eth0").read_text()
    assert ifcfg == f"DEVICE=eth0\nHWADDR={MAC}\nIPADDR=10.0.0.5\n"
    rules = guest.path("/etc/udev/rules.d/70-persistent-net.rules").read_text()
    assert stale not in rules
    assert f'ATTR{{address}}=="{MAC}"' in rules


@pytest.mark.parametrize(
    ("release", "code"),
    [
        ('ID=ubuntu\nVERSION_ID="23.10"', "GUEST_SHORT_LIVED"),
        ('ID=ubuntu\nVERSION_ID="15.04"', "GUEST_SHORT_LIVED"),
        ('ID=ubuntu\nVERSION_ID="22.04"', None),
        ('ID=rhel\nVERSION_ID="6.10"', "GUEST_BEST_EFFORT"),
        ('ID=ol\nVERSION_ID="7.9"', None),
        ('ID=sles\nVERSION_ID="11.4"', "GUEST_TOO_OLD"),
        ('ID=own\nID_LIKE="debian"\nVERSION_ID=1', "GUEST_DERIVATIVE"),
    ],
)
def test_what_is_promised_of_a_release(guest: ScriptedGuest, release: str, code: str | None) -> None:
    guest.write("/etc/os-release", release.encode())
    found = [one.code for one in plan_guest(guest, Job(KVM)).findings if one.code.startswith("GUEST_")]
    assert found == ([code] if code else [])
