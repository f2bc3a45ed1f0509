"""Make cloud-init ask the destination's datasource, and nothing else of the guest: it is the same machine as before."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux.kept_aside import move_aside
from coriolis.convert.platforms import TargetPlatform
from coriolis.convert.plugin import Nic, Say
from coriolis.convert.text import encode, shown
from coriolis.errors import Corrupt

DROP_IN = "/etc/cloud/cloud.cfg.d/99_coriolis.cfg"
IDENTIFY = "/etc/cloud/ds-identify.cfg"
_DIRECTORY = "/etc/cloud/cloud.cfg.d"
_PROGRAMS = ("/usr/bin/cloud-init", "/usr/sbin/cloud-init", "/usr/local/bin/cloud-init")
_DISABLED = "/etc/cloud/cloud-init.disabled"
_INSTALLERS = ("99-installer*.cfg", "*curtin*.cfg", "subiquity-*.cfg", "99-disable-network-config.cfg")
"""What installers leave: a datasource of None, no network, their own users."""


def present(guest: Guest) -> bool:
    return any(guest.is_file(path) for path in _PROGRAMS)


def drop_in(platform: TargetPlatform, nics: Sequence[Nic]) -> str:
    """The configuration. To cloud-init the destination is a new instance: what it would do to a new one is held back.

    ``locale: false``: its locale module fails where the image's default is not generated, which cloud-init calls an
    error of the whole boot (measured on Debian 12).
    """
    keeps = not nics or any(nic.addressing == "keep" for nic in nics)
    lines = [
        "# Written by Coriolis: this machine was migrated, not created.",
        f"datasource_list: [ {', '.join(platform.datasources)} ]",
        "preserve_hostname: true",
        "manage_etc_hosts: false",
        "ssh_deletekeys: false",
        "ssh_pwauth: unchanged",
        "apt: { preserve_sources_list: true }",
        "locale: false",
        *(["network: { config: disabled }"] if keeps else []),
    ]
    return "".join(f"{line}\n" for line in lines)


def identify(platform: TargetPlatform) -> str | None:
    """Configuration of ds-identify, None to leave it as it comes.

    ds-identify looks for the config drive while systemd begins; a CD drive that the kernel finds a moment later is
    not seen, and cloud-init is then off for that whole start (measured on Debian 12 with a SATA drive). Where metadata
    is certain, cloud-init itself is to look, by the list of the drop-in.
    """
    return "# Written by Coriolis.\npolicy: enabled\n" if platform.always_has_metadata else None


def configure(guest: Guest, platform: TargetPlatform, nics: Sequence[Nic], say: Say) -> None:
    """Write the drop-in; take disabling marks and the installer's own settings out of the way."""
    stale = [name for name in guest.listdir(_DIRECTORY) if any(fnmatchcase(name, one) for one in _INSTALLERS)]
    for path in (_DISABLED, IDENTIFY, *(f"{_DIRECTORY}/{name}" for name in stale)):
        if guest.is_file(path):
            move_aside(guest, path)
            say(f"{shown(path)}: moved aside")
    guest.write(DROP_IN, encode(drop_in(platform, nics)))
    if (text := identify(platform)) is not None:
        guest.write(IDENTIFY, encode(text))
    say(f"cloud-init asks: {', '.join(platform.datasources)}")


def verify(guest: Guest, platform: TargetPlatform, nics: Sequence[Nic]) -> None:
    """Raises Corrupt when the drop-in is not the one of the platform, or cloud-init is still disabled."""
    if read_text(guest, DROP_IN) != drop_in(platform, nics):
        raise Corrupt(f"{DROP_IN} is not what was written for {platform.name}")
    found = read_text(guest, IDENTIFY) if guest.is_file(IDENTIFY) else None
    if found != identify(platform):
        raise Corrupt(f"{IDENTIFY} is not what was written for {platform.name}")
    if guest.is_file(_DISABLED):
        raise Corrupt(f"cloud-init is still disabled by {_DISABLED}")
