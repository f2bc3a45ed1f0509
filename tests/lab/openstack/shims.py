"""What stands in for four programs of the system, seen by the services only; nothing in the system is changed."""

from __future__ import annotations

import textwrap

from tests.lab.openstack.settings import home, write


def write_shims():
    # The services run as root, so "sudo X-rootwrap conf cmd" is just "cmd".
    write(
        home("shims/sudo"),
        textwrap.dedent("""\
        #!/bin/sh
        while :; do case "$1" in -*) shift;; *) break;; esac; done
        case "$1" in *-rootwrap) shift 2;; esac
        exec "$@"
        """),
        0o755,
    )
    # This kernel has neither an NFS client nor a server.  The NFS drivers of cinder and nova
    # only need the directory at the right place, so a local "NFS mount" is a bind mount.
    write(
        home("shims/mount"),
        textwrap.dedent("""\
        #!/bin/sh
        case " $* " in
        *" -t nfs "*)
            for target in "$@"; do share=$last; last=$target; done
            exec /usr/bin/mount --bind "${share#*:}" "$target";;
        esac
        exec /usr/bin/mount "$@"
        """),
        0o755,
    )
    # ebtables-nft refuses to delete an --among-src rule by its text, and the linuxbridge agent
    # would retry for ever.  In its chains these rules come first: delete the first.
    write(
        home("shims/ebtables"),
        textwrap.dedent("""\
        #!/bin/sh
        case "$*" in
        *"-D neutronMAC-"*--among-src*)
            chain=$(echo "$*" | sed 's/.*-D \\(neutronMAC-[^ ]*\\).*/\\1/')
            exec /usr/sbin/ebtables -t nat --concurrent -D "$chain" 1;;
        esac
        exec /usr/sbin/ebtables "$@"
        """),
        0o755,
    )
    write(home("shims/mount.nfs"), "#!/bin/sh\nexit 0\n", 0o755)  # cinder looks for it
