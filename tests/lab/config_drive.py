"""A config drive as OpenStack's compute service makes it: an ISO labelled ``config-2`` with metadata for cloud-init."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

INSTANCE_ID = "6f1c3b9e-5a0d-4c39-9d0a-0f6a2f9f7c11"
HOSTNAME = "named-by-openstack"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEqLkrPYRjpIhCZBqPmGfyAyzqg1tYcAEdmSuHTj1p4s lab"


def make_config_drive(iso: Path, scratch: Path, mac: str) -> Path:
    """Write ``iso``. Its network data gives ``mac`` an address that no guest of the lab has."""
    latest = scratch / "openstack" / "latest"
    latest.mkdir(parents=True)
    meta_data = {
        "uuid": INSTANCE_ID,
        "name": HOSTNAME,
        "hostname": HOSTNAME,
        "public_keys": {"lab": PUBLIC_KEY},
        "availability_zone": "nova",
        "launch_index": 0,
    }
    network_data = {
        "links": [{"id": "port0", "type": "ovs", "ethernet_mac_address": mac, "mtu": 1450}],
        "networks": [
            {
                "id": "network0",
                "link": "port0",
                "type": "ipv4",
                "ip_address": "10.20.30.40",
                "netmask": "255.255.255.0",
                "routes": [],
            }
        ],
        "services": [],
    }
    for name, content in (("meta_data.json", meta_data), ("network_data.json", network_data), ("vendor_data.json", {})):
        (latest / name).write_text(json.dumps(content))
    command = ["genisoimage", "-quiet", "-V", "config-2", "-r", "-J", "-o", str(iso), str(scratch)]
    subprocess.run(command, check=True)
    return iso
