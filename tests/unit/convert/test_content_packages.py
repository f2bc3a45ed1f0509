"""What a Linux guest becomes at its destination, over a directory: agents of clouds, packages."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from coriolis.convert.linux import agents, bundle, packages
from coriolis.convert.linux.installed import has_systemd, package_tool, parse_status
from coriolis.convert.platforms import PLATFORMS
from coriolis.convert.plugin import Facts, Job, Nic
from coriolis.convert.plugins import find_plugin
from coriolis.errors import Corrupt, QuotaExceeded, TimedOut, Unavailable
from tests.unit.convert.scripted_guest import (
    KVM,
    MAC,
    SCRIPTS,
    UNIT_FILE,
    ScriptedGuest,
    add_package,
    run,
    script,
    scripted,
)


@pytest.fixture
def guest(tmp_path: Path) -> ScriptedGuest:
    return scripted(tmp_path / "guest")


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
