"""What is left to the guest itself: scripts that run once, in the background, at its first start.

``run`` in ``/usr/local/lib/coriolis/firstboot`` goes through ``scripts/``; what ended well is not repeated, ours are
tried at three starts, an operator's once. Everything goes to ``/var/log/coriolis-firstboot.log``. When nothing is
left the unit disables itself. To undo: delete the unit and the directory.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux import first_boot_texts as texts
from coriolis.convert.linux.family import PackageTool
from coriolis.convert.linux.installed import has_systemd
from coriolis.convert.plugin import Say
from coriolis.convert.text import encode
from coriolis.errors import Corrupt

TOP = "/usr/local/lib/coriolis/firstboot"
SCRIPTS = f"{TOP}/scripts"
STATE = "/var/lib/coriolis/firstboot"
UNIT = "/etc/systemd/system/coriolis-firstboot.service"
WANTS = "/etc/systemd/system/multi-user.target.wants/coriolis-firstboot.service"
INIT_SCRIPT = "/etc/init.d/coriolis-firstboot"
_RUN_LEVELS = (2, 3, 4, 5)


def lay_down(guest: Guest, scripts: Mapping[str, bytes], say: Say) -> None:
    """Write the scripts and what starts them; what a former conversion left goes."""
    for directory in (SCRIPTS, STATE):
        for name in guest.listdir(directory):
            if f"{directory}/{name}" not in {f"{SCRIPTS}/{one}" for one in scripts}:
                guest.remove(f"{directory}/{name}")
    if not scripts:
        return
    for name, data in scripts.items():
        guest.write(f"{SCRIPTS}/{name}", data, 0o700)
    for name, text in texts.COMMON.items():
        guest.write(f"{TOP}/{name}", encode(text), 0o755)
    if has_systemd(guest):
        guest.write(UNIT, encode(texts.UNIT), 0o644)
        guest.symlink(UNIT, WANTS)
    else:
        guest.write(INIT_SCRIPT, encode(texts.INIT_SCRIPT), 0o755)
        for directory in rc_directories(guest):
            guest.symlink("../init.d/coriolis-firstboot", f"{directory}/S99coriolis-firstboot")
    say(f"first boot: {', '.join(scripts)}")


def rc_directories(guest: Guest) -> list[str]:
    """Where the guest's SysV links lie: Red Hat's own place, else Debian's."""
    top = "/etc/rc.d" if guest.is_dir("/etc/rc.d/rc3.d") else "/etc"
    return [f"{top}/rc{level}.d" for level in _RUN_LEVELS]


def verify(guest: Guest, scripts: Sequence[str]) -> None:
    """Raises Corrupt when a script, or what starts it, is not there."""
    if not scripts:
        return
    starts = WANTS if has_systemd(guest) else f"{rc_directories(guest)[0]}/S99coriolis-firstboot"
    unit = (UNIT, texts.UNIT) if has_systemd(guest) else (INIT_SCRIPT, texts.INIT_SCRIPT)
    common = [(f"{TOP}/{name}", text) for name, text in texts.COMMON.items()]
    lost = [path for path, text in (*common, unit) if read_text(guest, path) != text]
    lost += [name for name in scripts if not guest.is_file(f"{SCRIPTS}/{name}")]
    lost += [] if guest.read_link(starts) else [starts]
    if lost:
        raise Corrupt(f"the first start is not prepared: {lost[0]} is not what was written")


def removal_script(
    tool: PackageTool, packages: Sequence[str], units: Sequence[str], uninstallers: Sequence[str]
) -> bytes:
    """Removes packages of the origin and then the masks of their units."""
    words = {"packages": packages, "units": units, "uninstallers": uninstallers}
    return _script(words, tool or "dpkg", "remove")


def install_script(tool: PackageTool, packages: Sequence[str]) -> bytes:
    """Installs what was staged from the bundle, then ``packages`` from the guest's own repositories."""
    return _script({"packages": packages}, tool or "dpkg", "install")


def rebuild_script(command: Sequence[str]) -> bytes:
    """Makes the initramfs of the running kernel anew by the guest's own ``command``; the old one stays kept."""
    places = {"{version}": '"$version"', "{path}": '"$path"'}
    words = " ".join(places.get(word) or shlex.quote(word) for word in command)
    return _script({"program": command[:1]}, "rebuild", define=f"rebuild() {{\n\t{words}\n}}\n")


def _script(words: Mapping[str, Sequence[str]], *common: str, define: str = "") -> bytes:
    """A script that sets variables and goes on in files that are the same in every guest."""
    lines = [f"{name}={shlex.quote(' '.join(values))}\n" for name, values in words.items()]
    sources = [f". {TOP}/{name}\n" for name in common]
    return encode("".join(["#!/bin/sh\n", *lines, define, *sources]))
