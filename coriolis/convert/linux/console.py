"""Kernel messages and a login on the serial console that a platform shows. Texts in, texts out; and where they lie."""

from __future__ import annotations

import re
from functools import partial
from typing import Protocol

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux.installed import has_systemd
from coriolis.convert.linux.kept_aside import edit_file
from coriolis.convert.plugin import Say
from coriolis.convert.text import encode

GRUB_CONFIGS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub/menu.lst", "/boot/grub/grub.conf")
ENTRIES = "/boot/loader/entries"
GRUB_ENVIRONMENTS = ("/boot/grub2/grubenv", "/boot/grub/grubenv")
MAX_ENTRIES = 100
_KERNEL_LINE = re.compile(r"(?m)^([ \t]*(?:linux(?:16|efi)?|kernel)[ \t]+\S*vmlinu[xz]\S*)([^\n]*)$")
_OPTIONS = re.compile(r"(?m)^(options[ \t]+)([^\n]*)$")
_DEFAULTS = re.compile(r"(?m)^([ \t]*GRUB_CMDLINE_LINUX=)([^\n]*)$")
_QUOTE = '"'
_KERNELOPTS = re.compile(r"(?m)^(kernelopts=)([^\n]*)$")


class Edit(Protocol):
    """A file's text with the console ``serial`` in it."""

    def __call__(self, text: str, serial: str) -> str: ...


def with_consoles(arguments: str, serial: str) -> str:
    """A kernel command line that writes to the screen and to ``serial``; the serial one last, if it was not there.

    The kernel makes the last console the one of init; what the guest chose stays so.
    """
    words = re.findall(r"(?<!\S)console=([^\s,]+)", arguments)
    line = arguments.rstrip()
    if "tty0" not in words:
        first = re.search(r"(?<!\S)console=", line)
        at = first.start() if first else len(line)
        line = f"{line[:at].rstrip()} console=tty0 {line[at:]}".strip()
    return line if serial.partition(",")[0] in words else f"{line} console={serial}"


def in_grub(text: str, serial: str) -> str:
    """A GRUB configuration of either generation."""
    return _KERNEL_LINE.sub(lambda m: f"{m[1]} {with_consoles(m[2].strip(), serial)}", text)


def in_entry(text: str, serial: str) -> str:
    """A boot loader specification file. Where options stand in GRUB's environment, they are left to that."""

    def change(match: re.Match[str]) -> str:
        own = match[2].strip()
        return match[0] if "$kernelopts" in own else f"{match[1]}{with_consoles(own, serial)}"

    return _OPTIONS.sub(change, text)


def in_defaults(text: str, serial: str) -> str:
    """``/etc/default/grub``, for the guest's next own update."""

    def change(match: re.Match[str]) -> str:
        value = match[2].strip()
        quote = value[0] if value[:1] in ("'", '"') and value[-1] == value[0] and len(value) > 1 else ""
        inner = value[1:-1] if quote else value
        return f"{match[1]}{quote or _QUOTE}{with_consoles(inner.strip(), serial)}{quote or _QUOTE}"

    return _DEFAULTS.sub(change, text)


def in_environment(text: str, serial: str) -> str:
    """``grubenv`` of 1,024 bytes, whose ``kernelopts`` Red Hat 8 expands in entries; as it was when it has no room."""
    changed = _KERNELOPTS.sub(lambda m: m[1] + with_consoles(m[2], serial), text)
    body = changed.rstrip("#")
    if changed == text or len(encode(body)) > len(encode(text)):
        return text
    return body + "#" * (len(encode(text)) - len(encode(body)))


def add_consoles(guest: Guest, serial: str, say: Say) -> None:
    """Edit every boot entry, and the defaults of later ones; a getty where systemd would not start one by itself."""
    for path, change in places(guest):
        edit_file(guest, path, partial(change, serial=serial), say, keep=False)
    _add_getty(guest, serial, say)


def unchanged(guest: Guest, serial: str) -> list[str]:
    """Paths that should have been edited and were not."""
    return [path for path, change in places(guest) if change(old := read_text(guest, path), serial) != old]


def places(guest: Guest) -> list[tuple[str, Edit]]:
    """Paths with kernel command lines that exist, each with its edit."""
    entries = [name for name in guest.listdir(ENTRIES) if name.endswith(".conf")][:MAX_ENTRIES]
    found: list[tuple[str, Edit]] = [(path, in_grub) for path in GRUB_CONFIGS]
    found += [(f"{ENTRIES}/{name}", in_entry) for name in entries]
    found += [(path, in_environment) for path in GRUB_ENVIRONMENTS]
    found += [("/etc/default/grub", in_defaults), ("/etc/kernel/cmdline", _in_command_line)]
    return [(path, change) for path, change in found if guest.is_file(path)]


def _in_command_line(text: str, serial: str) -> str:
    return with_consoles(text.strip(), serial) + "\n" if text.strip() else text


def _add_getty(guest: Guest, serial: str, say: Say) -> None:
    """Debian and Ubuntu with upstart: Red Hat 6 starts one on the kernel's console by itself."""
    device, _, options = serial.partition(",")
    path = f"/etc/init/{device}.conf"
    if has_systemd(guest) or guest.is_file(path) or "/sbin/getty" not in read_text(guest, "/etc/init/tty1.conf"):
        return
    speed = re.match(r"\d+", options)
    job = "start on stopped rc RUNLEVEL=[2345]\nstop on runlevel [!2345]\nrespawn\n"
    guest.write(path, encode(f"{job}exec /sbin/getty -L {speed[0] if speed else 115200} {device} vt102\n"))
    say(f"{path}: login on the serial console")
