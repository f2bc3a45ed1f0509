"""Starts one tool with limits and a tie to its parent's life. Run as a script: ``python -I -S confine.py SPEC``.

A script of its own, because code between fork and exec in a threaded process is unsafe. SPEC is JSON:
``parent`` (pid), ``address_space``, ``cpu_s``, ``file_size`` (bytes or -1), ``listen`` (descriptor to hand over as
socket-activated fd 3, or -1), ``argv``.
"""

import ctypes
import json
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNET = 0x40000000
LISTEN_FD = 3
MAX_OPEN_FILES = 256


def main() -> None:
    spec = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != spec["parent"]:
        sys.exit("parent is gone")  # it died before the tie was made
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.unshare(CLONE_NEWNET)  # best effort: needs privileges; unix sockets keep working
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    for kind, key in (
        (resource.RLIMIT_AS, "address_space"),
        (resource.RLIMIT_CPU, "cpu_s"),
        (resource.RLIMIT_FSIZE, "file_size"),
    ):
        if spec[key] >= 0:
            resource.setrlimit(kind, (spec[key], spec[key]))
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    if spec["listen"] >= 0:
        os.dup2(spec["listen"], LISTEN_FD)
        environment["LISTEN_FDS"] = "1"
        environment["LISTEN_PID"] = str(os.getpid())
    os.execvpe(spec["argv"][0], spec["argv"], environment)


if __name__ == "__main__":
    main()
