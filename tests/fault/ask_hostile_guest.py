"""Ask a guest full of traps through the appliance: ``python -m tests.fault.ask_hostile_guest DISK``.

Ends with 0 and the word ``asked`` when each answer is a result or a reason.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import pytest

from coriolis.convert import appliance_limit
from coriolis.convert.guest import Guest, read
from coriolis.convert.guestfs_guest import launched
from coriolis.convert.linux.kept_aside import BEFORE
from coriolis.convert.mount import mount_guest
from coriolis.errors import TimedOut, Unavailable, Unsupported

SCRIPT_S = 3
GRACE_S = 5.0


class _Over(Exception):
    """Leaves an appliance that a guest's program has ended."""


def main(disk: str) -> None:
    appliance_limit.GRACE_S = GRACE_S
    with suppress(_Over), launched([disk], "tcg", 1024) as handle:
        guest = mount_guest(handle, [], print)
        look_at_traps(guest)
        look_at_links(guest)
        run_without_end(guest)
        raise _Over
    print("asked")


def look_at_traps(guest: Guest) -> None:
    names = guest.listdir("/etc/netplan")
    assert "line\nbreak\x1b[2J.yaml" in names
    assert len(names) == 10, "the one that is no UTF-8 is left out"
    for path in ("/outside", "/etc/netplan/loop.yaml", "/etc/netplan/long.yaml", "/etc/netplan/zero.yaml"):
        assert not guest.is_file(path)
    with pytest.raises(Unsupported, match="more than 10000 files"):
        guest.listdir("/many")
    with pytest.raises(Unsupported, match="10737418240 bytes"):
        read(guest, "/sparse")
    for path in ("/etc/netplan/pipe.yaml", "/etc/netplan/memory.yaml", "/etc/netplan/disk.yaml"):
        with pytest.raises(Unsupported, match="no regular file"):
            guest.write(path, b"x")


def look_at_links(guest: Guest) -> None:
    """To programs that libguestfs runs outside of the guest's root, a link would lead into the appliance's."""
    assert guest.is_file("/srv/boot/grub/grub.cfg"), "mounted where the guest's link leads"
    for path in ("/bait", "/bait-of-copy"):
        guest.symlink("/usr/sbin/guestfsd", path)
    guest.copy("/etc/network/interfaces", "/bait-of-copy")
    assert read(guest, "/bait-of-copy") == read(guest, "/srv/net/interfaces")
    guest.rename("/bait-of-copy", "/bait")
    assert guest.read_link("/bait") is None
    guest.copy("/etc/fstab", BEFORE + "/etc/network/interfaces")
    assert guest.is_file(BEFORE + "/etc/network/interfaces"), "a pipe there made it wait"


def run_without_end(guest: Guest) -> None:
    assert guest.run(["/bin/sh", "-c", "printf 'a\\000\\377z'"], timeout_s=60) == "a??z"
    with pytest.raises(TimedOut, match="within 3 s"):
        guest.run(["/bin/sh", "-c", "yes $(head -c 100 /dev/urandom)"], timeout_s=SCRIPT_S)
    started = time.monotonic()
    with pytest.raises((TimedOut, Unavailable)):
        guest.run(["/bin/sh", "-c", "b() { b | b & }; b; sleep 1000"], timeout_s=SCRIPT_S)
    assert time.monotonic() - started < 60


if __name__ == "__main__":
    main(sys.argv[1])
