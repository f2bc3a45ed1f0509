"""Where a home is and what runs in it: one process serves one home, which the environment names."""

from __future__ import annotations

import hashlib
import json
import os
import time

# What each service needs, the python entry point of each of its processes
# (None: a WSGI script under uwsgi), and the path that answers without a token.
NEEDS = {
    "keystone": [],
    "barbican": ["keystone"],
    "glance": ["keystone"],
    "placement": ["keystone"],
    "cinder": ["keystone", "glance"],
    "neutron": ["keystone"],
    "nova": ["keystone", "glance", "placement", "neutron", "cinder"],
}
PROCESSES = {
    "keystone": {"keystone": None},
    "barbican": {"barbican-api": None},
    "glance": {"glance-api": "glance.cmd.api"},
    "placement": {"placement-api": None},
    "cinder": {
        "cinder-api": "cinder.cmd.api",
        "cinder-scheduler": "cinder.cmd.scheduler",
        "cinder-volume": "cinder.cmd.volume",
    },
    "neutron": {
        "neutron-server": "neutron.cmd.eventlet.server",
        "neutron-linuxbridge-agent": "neutron.cmd.eventlet.plugins.linuxbridge_neutron_agent",
        "neutron-dhcp-agent": "neutron.cmd.eventlet.agents.dhcp",
    },
    "nova": {
        "nova-api": "nova.cmd.api_os_compute",
        "nova-conductor": "nova.cmd.conductor",
        "nova-scheduler": "nova.cmd.scheduler",
        "nova-compute": "nova.cmd.compute",
    },
}
HEALTH = {
    "keystone": "/v3",
    "barbican": "/",
    "glance": "/versions",
    "placement": "/",
    "cinder": "/",
    "neutron": "/",
    "nova": "/",
}
CATALOG = {
    "keystone": ("identity", "/v3"),
    "barbican": ("key-manager", ""),
    "glance": ("image", ""),
    "placement": ("placement", ""),
    "cinder": ("volumev3", "/v3/%(project_id)s"),
    "neutron": ("network", ""),
    "nova": ("compute", "/v2.1"),
}
DATABASES = ["keystone", "barbican", "glance", "placement", "cinder", "neutron", "nova", "nova_api", "nova_cell0"]
PORTS = {
    "keystone": 5000,
    "barbican": 9311,
    "glance": 9292,
    "placement": 8778,
    "cinder": 8776,
    "neutron": 9696,
    "nova": 8774,
    "rabbit": 5672,
    "rabbit_dist": 25672,
    "epmd": 4369,
}

HOME = os.path.realpath(os.environ.get("CORIOLIS_OPENSTACK_HOME") or ".openstack-lab")
SETTINGS = os.path.join(HOME, "settings.json")  # what the last start used
try:
    with open(SETTINGS) as f:
        SETTING = json.load(f)
except (OSError, ValueError):
    SETTING = {}


def setting(name, default):
    SETTING[name] = os.environ.get(f"CORIOLIS_OPENSTACK_{name}", SETTING.get(name, default))
    return SETTING[name]


PASSWORD = setting("PASSWORD", "secret")
VIRT = setting("VIRT", "qemu")
CACHE = setting(
    "CACHE",
    os.path.join(
        os.environ.get("CORIOLIS_LAB_CACHE")
        or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "coriolis-lab"),
        "openstack",
    ),
)
TOKEN_S = int(setting("TOKEN_S", "86400"))
CEPH = setting("CEPH", "")  # the folder of a tests.lab.ceph: a second backend of Cinder
CEPH_SECRET = "5b8ae6a3-2c7f-4f0e-9d3c-6f1f0a3e7c11"  # under which libvirt keeps the key of client.cinder
TIMEOUT = int(setting("TIMEOUT", "180"))
PORTS = {k: int(setting(f"PORT_{k.upper()}", v)) for k, v in PORTS.items()}
HOST = "openstack-lab"  # the "host" of every agent, whatever the machine is called
REGION = "RegionOne"
HOST_END, NEUTRON_END, HOST_CIDR = "osl-host", "osl-public", "172.24.4.1/24"  # network "public"
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Unix socket paths are limited to 107 bytes and HOME may be long.
SOCKETS = "/run/openstack-lab-" + hashlib.sha1(HOME.encode()).hexdigest()[:8]
MYSQL_SOCKET = f"{SOCKETS}/mysql.sock"
STARTED = time.monotonic()


class Failed(Exception):
    pass


def say(text):
    print(f"[{time.monotonic() - STARTED:6.1f}s] {text}", flush=True)


def home(*parts):
    return os.path.join(HOME, *parts)


def url(service, path=""):
    return f"http://127.0.0.1:{PORTS[service]}{path}"


def db_url(name):
    return f"mysql+pymysql://osl:osl@localhost/{name}?unix_socket={MYSQL_SOCKET}&charset=utf8"


def write(path, text, mode=0o600):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)


def once(path, make):
    """The contents of a file that is made at the first start and kept."""
    if not os.path.exists(path):
        write(path, make())
    with open(path) as f:
        return f.read()
