"""A real rpm database for a phony guest, made by this machine's rpm from packages that are built here.

sqlite whatever the distribution uses: Debian's rpm writes neither bdb (RHEL 8 and before, SLES 12) nor ndb (SLES 15).
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.lab.phony_agents import installed
from tests.lab.phony_distros import Distro
from tests.lab.phony_files import put


def database_path(distro: Distro) -> str:
    sysimage = distro.identity == "fedora" or (distro.manager == "zypper" and distro.version.startswith("15"))
    return "/usr/lib/sysimage/rpm" if sysimage else "/var/lib/rpm"


def rpm_database(top: Path, distro: Distro) -> None:
    """Build an empty package for each that is installed, and enter it into the guest's database."""
    where = database_path(distro)
    names = {"zypper": "kernel-default", "dnf": "kernel-core", "yum": "kernel"}
    version, _, release = distro.kernel.removesuffix(".x86_64").removesuffix("-default").partition("-")
    rows = {**installed(distro), names[distro.manager]: f"{version}-{release.replace('-', '.')}"}
    with tempfile.TemporaryDirectory(prefix="phony-rpm.") as name:
        for package, full in rows.items():
            number, _, build = full.partition("-")
            spec = Path(name, f"{package}.spec")
            head = f"Name: {package}\nVersion: {number}\nRelease: {build or '1'}\nSummary: phony\nLicense: none\n"
            spec.write_text(f"{head}BuildArch: x86_64\nAutoReqProv: no\n%description\nphony\n%files\n")
            command = ["rpmbuild", "-bb", "--quiet", "--target", "x86_64", "--define", f"_topdir {name}", str(spec)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        files = sorted(str(path) for path in Path(name, "RPMS").rglob("*.rpm"))
        command = ["rpm", "--root", str(top), "--dbpath", where, "--define", "_db_backend sqlite"]
        options = ["-i", "--nodeps", "--justdb", "--ignorearch", "--ignoreos", "--nosignature"]
        subprocess.run([*command, *options, *files], check=True, stderr=subprocess.DEVNULL)
    # libguestfs reads the guest's own rpm configuration, in the guest's root: it must say where the database is
    macros = f"%_usr /usr\n%_var /var\n%_dbpath {where}\n%_db_backend sqlite\n%_dbi_perms 0644\n"
    put(top, "/usr/lib/rpm/macros", macros)
    arches = "arch_canon: x86_64: x86_64 1\nos_canon: Linux: Linux 1\nbuildarchtranslate: x86_64: x86_64\n"
    put(top, "/usr/lib/rpm/rpmrc", f"{arches}arch_compat: x86_64: noarch\nos_compat: Linux: Linux\n")
