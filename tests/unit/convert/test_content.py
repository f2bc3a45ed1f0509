"""What a Linux guest becomes at its destination, over a directory: agents, packages, cloud-init, console, scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from coriolis.convert.linux import agents, bundle, cloud_init, console, packages, selinux, user_scripts
from coriolis.convert.linux.installed import has_systemd, package_tool, parse_status
from coriolis.convert.platforms import PLATFORMS, target_platform
from coriolis.convert.plugin import Facts, Job, Nic, Phase, Script
from coriolis.convert.plugins import convert_guest, find_plugin, plan_guest
from coriolis.errors import Corrupt, InvalidInput, QuotaExceeded, TimedOut, Unavailable, Unsupported
from tests.unit.convert.directory_guest import DirectoryGuest, debian

KVM, OPENSTACK, AZURE = (target_platform(name) for name in ("kvm", "openstack", "azure"))
MAC = "00:50:56:9a:11:22"
SCRIPTS = "/usr/local/lib/coriolis/firstboot/scripts"
UNIT_FILE = b"[Service]\n"


class ScriptedGuest(DirectoryGuest):
    """A directory whose programs answer as ``answers`` says, by the first word that is in the command."""

    answers: dict[str, str | Exception]

    def run(self, command: Sequence[str], *, timeout_s: float) -> str:
        super().run(command, timeout_s=timeout_s)
        for word, answer in self.answers.items():
            if any(word in part for part in command):
                if isinstance(answer, Exception):
                    raise answer
                return answer
        return ""


@pytest.fixture
def guest(tmp_path: Path) -> ScriptedGuest:
    made = debian(tmp_path / "guest")
    scripted = ScriptedGuest(made.top, made.uuids)
    scripted.answers = {}
    return scripted


def run(guest: DirectoryGuest, job: Job) -> tuple[Facts, list[str]]:
    said: list[str] = []
    _, facts = convert_guest(guest, job, said.append)
    return facts, said


def script(guest: DirectoryGuest, name: str) -> str:
    path = guest.path(f"{SCRIPTS}/{name}")
    return path.read_text() if path.exists() else ""


def add_package(guest: DirectoryGuest, *names: str) -> None:
    old = guest.path("/var/lib/dpkg/status").read_bytes()
    rows = "".join(f"\nPackage: {name}\nStatus: install ok installed\n" for name in names)
    guest.write("/var/lib/dpkg/status", old + rows.encode())


# ---- the table and what the origin leaves -------------------------------------------------------------------------


def test_every_agent_has_a_home_and_every_platform_wants_agents_that_are_known() -> None:
    homes = {home for agent in agents.AGENTS for home in agent.home}
    assert {"vmware", "hyperv", "azure", "aws", "gcp", "kvm", "xen"} <= homes
    for platform in PLATFORMS.values():
        for name in platform.agents:
            known = [agent for agent in agents.AGENTS if name in agent.packages]
            assert name == "cloud-init" or (known and platform.name in known[0].home), f"{platform.name}: {name}"


def test_only_installed_packages_count() -> None:
    text = "Package: a\nStatus: install ok installed\n\nPackage: b\nStatus: deinstall ok config-files\n"
    assert parse_status(text + "\nPackage: c\nStatus: hold ok installed\n") == {"a", "c"}


def test_agents_are_masked_and_their_removal_left_to_the_first_boot(guest: ScriptedGuest) -> None:
    add_package(guest, "open-vm-tools", "open-vm-tools-desktop", "linux-cloud-tools-5.4.0-1-generic")
    guest.write("/lib/systemd/system/open-vm-tools.service", UNIT_FILE)
    guest.write("/etc/systemd/system/vmware-tools.service", UNIT_FILE)
    _, said = run(guest, Job(KVM, (Nic(MAC),)))
    assert guest.read_link("/etc/systemd/system/open-vm-tools.service") == "/dev/null"
    assert guest.read_link("/etc/systemd/system/vmware-tools.service") == "/dev/null"
    kept = guest.path("/var/lib/coriolis/before/etc/systemd/system/vmware-tools.service")
    assert kept.read_bytes() == UNIT_FILE, "what was the operator's own file can be put back"
    removal = script(guest, "10-remove-packages")
    assert "packages='open-vm-tools open-vm-tools-desktop linux-cloud-tools-5.4.0-1-generic'\n" in removal
    assert "open-vm-tools belongs to another platform" in said
    assert guest.commands == [], "the fast way runs no code of the guest"


def test_an_agent_at_home_is_left_alone(guest: ScriptedGuest) -> None:
    add_package(guest, "open-vm-tools")
    guest.write("/lib/systemd/system/open-vm-tools.service", UNIT_FILE)
    assert agents.strangers(guest, "vmware") == []
    assert [one.agent.name for one in agents.strangers(guest, "kvm")] == ["open-vm-tools"]


def test_the_guest_agent_of_kvm_goes_elsewhere(guest: ScriptedGuest) -> None:
    add_package(guest, "qemu-guest-agent")
    assert [one.packages for one in agents.strangers(guest, "azure")] == [("qemu-guest-agent",)]
    assert agents.strangers(guest, "openstack") == []


def test_an_agent_that_would_start_fails_the_verification(guest: ScriptedGuest) -> None:
    job = Job(KVM, (Nic(MAC),))
    guest.write("/lib/systemd/system/vmtoolsd.service", UNIT_FILE)
    facts, _ = run(guest, job)
    plugin, system = find_plugin(guest)
    guest.remove("/etc/systemd/system/vmtoolsd.service")
    with pytest.raises(Corrupt, match=r"vmtoolsd.service of open-vm-tools would still start"):
        plugin.verify(guest, system, job, facts, print)


def test_which_init_starts_the_guest(guest: ScriptedGuest) -> None:
    assert has_systemd(guest)
    guest.write("/sbin/init", b"sysvinit beside an installed systemd")
    assert not has_systemd(guest)
    guest.symlink("/lib/systemd/systemd", "/sbin/init")
    assert has_systemd(guest)
    assert package_tool(guest) == "dpkg"


# ---- packages -----------------------------------------------------------------------------------------------------


def put(top: Path, *names: str) -> str:
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return str(top)


def test_the_newest_of_the_bundle_counts(tmp_path: Path) -> None:
    top = put(
        tmp_path,
        "debian/12/agent_1.9-1_amd64.deb",
        "debian/12/agent_1.10~rc1-1_amd64.deb",
        "debian/12/agent_1.10-1_amd64.deb",
        "debian/12/agent_2.0-1_arm64.deb",
        "debian/12/agent-dev_3_amd64.deb",
        "rhel/9/cloud-init/cloud-init-23.1-1.el9.noarch.rpm",
        "rhel/9/cloud-init/python3-x-1.0-1.el9.x86_64.rpm",
        "rhel/9/cloud-init-99-1.noarch.rpm",
        "rhel/9/empty/other-1-1.noarch.rpm",
    )

    def found(*key: str) -> list[str]:
        return [one.path.name for one in bundle.find(top, *key)]

    assert found("debian", "12", "agent") == ["agent_1.10-1_amd64.deb"]
    with_needs = ["cloud-init-23.1-1.el9.noarch.rpm", "python3-x-1.0-1.el9.x86_64.rpm"]
    assert found("rhel", "9.3", "cloud-init") == with_needs
    assert found("rhel", "9.3", "empty") == []
    assert found("debian", "11", "agent") == []


@pytest.mark.parametrize("key", [("..", "12"), ("debian", ".."), ("debian/../..", "12"), ("debian", ""), ("", "12")])
def test_a_guest_cannot_lead_out_of_the_bundle(tmp_path: Path, key: tuple[str, str]) -> None:
    put(tmp_path, "agent_1_amd64.deb", "12/agent_1_amd64.deb", "debian/agent_1_amd64.deb")
    assert bundle.find(str(tmp_path / "bundle"), *key, "agent") == []
    assert bundle.find(str(tmp_path), *key, "agent") == []
    assert bundle.find(str(tmp_path), "debian", "12", "../agent") == []


def test_links_and_what_is_too_large_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = put(tmp_path, "debian/12/agent_1_amd64.deb")
    (tmp_path / "debian/12/agent_2_amd64.deb").symlink_to("/etc/shadow")
    assert [one.version for one in bundle.find(top, "debian", "12", "agent")] == ["1"]
    monkeypatch.setattr(bundle, "MAX_FILE_BYTES", 3)
    assert bundle.find(top, "debian", "12", "agent") == []


def test_versions_sort_as_package_tools_do() -> None:
    order = ["1.0~rc1", "1.0", "1.0-1", "1.0-1+deb1", "1.0-10", "1.0a", "1.2", "1.10", "1:0.1"]
    keys = [bundle.version_key(one) for one in order]
    for older, newer in pairwise(order):
        assert bundle.version_key(older) < bundle.version_key(newer), f"{older} < {newer}"
    assert sorted(keys) == keys


def test_the_bundle_comes_first_and_is_said(guest: ScriptedGuest, tmp_path: Path) -> None:
    top = put(tmp_path / "bundle", "debian/12/qemu-guest-agent_7.2_amd64.deb")
    facts, said = run(guest, Job(KVM, (Nic(MAC),), bundle=top, package_network=True))
    assert facts.packages == ["bundle: qemu-guest-agent_7.2_amd64.deb"]
    assert guest.path(f"{packages.STAGE}/qemu-guest-agent_7.2_amd64.deb").exists()
    assert "packages=qemu-guest-agent\n" in script(guest, "20-install-packages")
    assert "qemu-guest-agent by bundle: qemu-guest-agent_7.2_amd64.deb" in said
    assert guest.commands == []


def test_a_bundle_that_does_not_fit_is_refused(guest: ScriptedGuest, tmp_path: Path) -> None:
    top = put(tmp_path / "bundle", "debian/12/qemu-guest-agent_7.2_amd64.deb")
    guest.free = 32 << 20
    with pytest.raises(QuotaExceeded, match="do not fit"):
        run(guest, Job(KVM, (Nic(MAC),), bundle=top))


def test_repositories_are_asked_only_when_allowed(guest: ScriptedGuest) -> None:
    guest.write("/usr/bin/apt-get", b"")
    assert run(guest, Job(KVM, (Nic(MAC),)))[0].packages == ["first boot: qemu-guest-agent"]
    assert guest.commands == []
    assert run(guest, Job(KVM, (Nic(MAC),), package_network=True))[0].packages == ["repositories: qemu-guest-agent"]
    assert [command[-1] for command in guest.commands] == ["update", "qemu-guest-agent"]
    assert script(guest, "20-install-packages") == ""
    assert not guest.is_file(packages.POLICY), "what kept services from starting is gone again"


@pytest.mark.parametrize("error", [Unavailable("no route"), TimedOut("600 s")])
def test_repositories_that_do_not_answer_leave_it_to_the_first_boot(guest: ScriptedGuest, error: Exception) -> None:
    guest.write("/usr/bin/apt-get", b"")
    guest.write(packages.POLICY, b"the operator's own", 0o755)
    guest.answers = {"update": error}
    facts, said = run(guest, Job(KVM, (Nic(MAC),), package_network=True))
    assert facts.packages == ["first boot: qemu-guest-agent"]
    assert any("left to the first boot" in line for line in said)
    assert "packages=qemu-guest-agent\n" in script(guest, "20-install-packages")
    assert guest.path(packages.POLICY).read_bytes() == b"the operator's own"


def test_the_full_way_installs_and_removes_in_the_appliance(guest: ScriptedGuest, tmp_path: Path) -> None:
    """By the content steps alone: the drivers of the full way need a guest's real tools."""
    from coriolis.convert.linux import content_steps
    from coriolis.convert.linux.families import families

    add_package(guest, "open-vm-tools")
    top = put(tmp_path / "bundle", "debian/12/qemu-guest-agent_7.2_amd64.deb")
    job = Job(KVM, (Nic(MAC),), bundle=top, way="full")
    family = next(one for one in families() if one.name == "debian")
    _, system = find_plugin(guest)
    steps, _ = content_steps.plan(guest, family, system, job)
    facts = Facts(way="full")
    for step in steps:
        step.run(facts, lambda text: None)
    assert [command[2:] for command in guest.commands] == [
        ("dpkg", "--purge", "open-vm-tools"),
        ("dpkg", "--force-confold", "-i", f"{packages.STAGE}/qemu-guest-agent_7.2_amd64.deb"),
    ]
    assert guest.listdir(SCRIPTS) == [], "nothing is left to do"
    assert guest.listdir(packages.STAGE) == []
    content_steps.verify(guest, family, job, facts)


def test_rpm_is_asked_which_candidates_it_has(guest: ScriptedGuest) -> None:
    guest.answers = {"-qa": "bash\nopen-vm-tools\n"}
    assert packages.remove(guest, "rpm", ["open-vm-tools", "open-vm-tools-desktop"], lambda text: None)
    assert guest.commands[-1] == ("rpm", "-e", "open-vm-tools")


def test_what_is_there_is_not_installed(guest: ScriptedGuest) -> None:
    guest.write("/usr/sbin/qemu-ga", b"")
    assert run(guest, Job(KVM, (Nic(MAC),)))[0].packages == []


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
