"""A small but real OpenStack on this machine (root): one home, one cloud.

  python -m tests.lab.openstack start [--services a,b,...]    (re)start what is missing, wait until it answers
  python -m tests.lab.openstack stop [--process NAME]         stop all that this home started, or one process
  python -m tests.lab.openstack status                        processes, memory, endpoints
  python -m tests.lab.openstack env [--project admin|demo]    shell exports, for eval

`make openstack-lab` installs the packages (`tools/setup_system openstack`).
Services: keystone barbican glance placement cinder neutron nova (default: all).
What a service needs is started with it (nova brings placement, glance, neutron, cinder).

Environment:
  CORIOLIS_OPENSTACK_HOME      state directory (default ./.openstack-lab)
  CORIOLIS_OPENSTACK_PASSWORD  password of admin, demo and the service users (default: secret)
  CORIOLIS_OPENSTACK_VIRT      qemu (libvirt, TCG) | kvm (libvirt) | fake (default: qemu)
  CORIOLIS_OPENSTACK_CACHE     fresh schemas, kept per package version to make the next first start fast
                               (default: in the lab's cache; empty: none)
  CORIOLIS_OPENSTACK_TIMEOUT   seconds to wait for each endpoint (default: 180)
  CORIOLIS_OPENSTACK_TOKEN_S   life of Keystone's tokens in seconds (default: 86400)
  CORIOLIS_OPENSTACK_PORT_<X>  X in KEYSTONE BARBICAN GLANCE PLACEMENT CINDER NEUTRON NOVA
                               RABBIT RABBIT_DIST EPMD
Later calls for the same home remember these.
Every listening TCP socket is on 127.0.0.1 (epmd also on [::1]); MariaDB listens on a Unix socket only.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys

from tests.lab.openstack.processes import stop_group
from tests.lab.openstack.settings import HOME, NEEDS, Failed, home
from tests.lab.openstack.starting import start
from tests.lab.openstack.state import print_env, status
from tests.lab.openstack.stopping import stop


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("start").add_argument("--services", default=",".join(NEEDS))
    verbs.add_parser("stop").add_argument("--process")
    verbs.add_parser("status")
    verbs.add_parser("env").add_argument("--project", choices=["admin", "demo"], default="admin")
    args = parser.parse_args()
    if args.verb == "env":
        return print_env(args.project)
    if args.verb == "status":
        return status()
    if os.geteuid():
        raise Failed("must run as root")
    os.makedirs(HOME, exist_ok=True)
    with open(home("lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if args.verb == "stop":
            return stop_group([args.process], 15) if args.process else stop()
        wanted = [s for s in args.services.split(",") if s]
        unknown = set(wanted) - set(NEEDS)
        if unknown or not wanted:
            raise Failed(f'services are {", ".join(NEEDS)}, not "{args.services}"')
        return start(wanted)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, subprocess.CalledProcessError) as e:
        print(f"openstack-lab: {e}", file=sys.stderr)
        os._exit(1)
