"""What a conversion changes in each phony guest, as one readable text: ``python -m tests.unit.convert.golden_conversion
--update`` writes ``tests/golden/conversion/*.diff`` anew; look at the difference before you commit it.
"""

from __future__ import annotations

import argparse
import difflib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from coriolis.convert.linux import first_boot, first_boot_texts
from coriolis.convert.platforms import target_platform
from coriolis.convert.plugin import Facts, Job, Nic, Script
from coriolis.convert.plugins import convert_guest
from tests.lab.phony_distros import DISTROS, MACS, Distro
from tests.lab.phony_tree import build, disk_for, group_and_volume
from tests.unit.convert.directory_guest import DirectoryGuest

GOLDEN = Path(__file__).parents[2] / "golden" / "conversion"
BOOT_UUID, ESP_UUID = "b0070000-1111-2222-3333-444455556666", "0E5B-0001"
ROOT_UUID = "70070000-1111-2222-3333-444455556666"
SAME_IN_EVERY_GUEST = (
    first_boot.UNIT,
    first_boot.INIT_SCRIPT,
    "/etc/rc.d/init.d/coriolis-firstboot",
    *(f"{first_boot.TOP}/{name}" for name in first_boot_texts.COMMON),
)
BINARY = "\0binary"
LEFT_OUT = ("/var/lib/coriolis/conversion.json", "/var/lib/coriolis/before/")
"""Binary sizes and digests in the first, the diff itself in the second."""


@dataclass(frozen=True, slots=True)
class Case:
    """``dhcp``: the interfaces that are turned. Scripts: none, or one for the first boot."""

    platform: str = "kvm"
    dhcp: tuple[int, ...] = ()
    script: bool = False
    efi: bool = False


CASES = {
    "rhel6": Case(dhcp=(0,)),
    "rhel7": Case("openstack", dhcp=(1,)),
    "rhel8": Case("azure", efi=True),
    "rhel9": Case("openstack", dhcp=(0, 1)),
    "centos7": Case("kvm", dhcp=(0,)),
    "rocky9": Case("gcp"),
    "ol8": Case("vmware"),
    "fedora39": Case("aws", efi=True),
    "amzn2": Case("kvm", dhcp=(0,)),
    "amzn2023": Case("openstack"),
    "sles12": Case("hyperv"),
    "sles15": Case("openstack", dhcp=(1,)),
    "opensuse15": Case("kvm", dhcp=(0,)),
    "ubuntu1404": Case("openstack", dhcp=(0,)),
    "ubuntu1604": Case("kvm"),
    "ubuntu1804": Case("openstack", dhcp=(0,)),
    "ubuntu2004": Case("kvm", script=True),
    "ubuntu2204": Case("openstack", dhcp=(1,)),
    "ubuntu2404": Case("aws", dhcp=(0,)),
    "debian9": Case("azure"),
    "debian11": Case("kvm", dhcp=(1,), efi=True),
}


def phony_guest(top: Path, key: str) -> DirectoryGuest:
    """The guest of that name as a directory."""
    distro, case = DISTROS[key], CASES[key]
    disk = disk_for(distro, key, efi=case.efi)
    build(top, distro, key, disk)
    uuids = {f"/dev/sda{disk.boot}": BOOT_UUID, "/dev/{}/{}".format(*group_and_volume(distro, key)): ROOT_UUID}
    return DirectoryGuest(top, uuids | ({"/dev/sda1": ESP_UUID} if case.efi else {}))


def job_of(distro: Distro, case: Case) -> Job:
    nics = tuple(
        Nic(MACS[number], "", "dhcp" if number in case.dhcp else "keep") for number, _ in enumerate(distro.nics)
    )
    scripts = (Script("replica_first_boot", "global 1", "echo migrated\n"),) if case.script else ()
    return Job(target_platform(case.platform), nics, case.efi, scripts=scripts)


Tree = dict[str, str]


def tree_of(top: Path) -> Tree:
    """Path -> text of a file, ``-> target`` of a link, with the permissions of what is not 0644 or 0777."""
    found: Tree = {}
    for directory, names, files in os.walk(top):
        for name in [*files, *(one for one in names if Path(directory, one).is_symlink())]:
            path = Path(directory, name)
            key = "/" + str(path.relative_to(top))
            if path.is_symlink():
                found[key] = f"-> {os.readlink(path)}\n"
                continue
            data, mode = path.read_bytes(), path.stat().st_mode & 0o7777
            try:
                text = data.decode()
            except UnicodeDecodeError:
                text = BINARY + data.hex()
            found[key] = text if mode == 0o644 else f"(mode {mode:o})\n{text}"
    return found


def changes(before: Tree, after: Tree) -> str:
    """What was added, removed, edited; sorted by path."""
    out: list[str] = []
    for path in sorted({*before, *after}):
        old, new = before.get(path, ""), after.get(path, "")
        if path.startswith(LEFT_OUT) or ((path in before) == (path in after) and old == new):
            continue
        if path in SAME_IN_EVERY_GUEST:
            out.append(f"added {path}, the same in every guest\n")
            continue
        what = "added" if path not in before else "removed" if path not in after else "edited"
        is_binary = BINARY in old + new
        out.append(f"{what} {path}{', binary' if is_binary else ''}\n")
        if what != "removed" and not is_binary:
            lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=1, lineterm="")
            out += [f"    {line}\n" for line in lines if not line.startswith(("---", "+++", "@@"))]
    return "".join(out)


def converted(top: Path, key: str) -> tuple[str, Facts, list[str]]:
    """What converting the phony guest changes, the facts, and what was said."""
    guest = phony_guest(top, key)
    before = tree_of(top)
    said: list[str] = []
    _, facts = convert_guest(guest, job_of(DISTROS[key], CASES[key]), said.append)
    return changes(before, tree_of(top)), facts, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the golden files anew")
    parser.add_argument("guest", nargs="*", choices=[*CASES, []], help="only these")
    arguments = parser.parse_args()
    for key in arguments.guest or CASES:
        with tempfile.TemporaryDirectory() as directory:
            text, _, _ = converted(Path(directory), key)
        if arguments.update:
            (GOLDEN / f"{key}.diff").write_text(text)
        else:
            print(f"==== {key}\n{text}")


if __name__ == "__main__":
    main()
