"""A real Ceph for a test: ``with ceph_site() as ceph``. One monitor and one OSD (BlueStore on a file), cephx on.

Debian's ceph-mon and ceph-osd (``make ceph-lab``) as plain processes on 127.0.0.1, everything else in one temporary
folder; no root, no systemd, no device mapper, no manager daemon (only statistics need one).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coriolis.etcd.embedded import free_port

PROGRAMS = ("ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool")
START_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
POLL_S = 0.05
OSD_BYTES = 16 << 30
"""A sparse file."""
POOLS = ("volumes", "images")
CINDER = {"mon": "profile rbd", "osd": "profile rbd pool=volumes, profile rbd pool=images"}
"""As Ceph's documentation, "Block Devices and OpenStack", gives Cinder and Nova."""
READ_ONLY = {"mon": "allow r", "osd": "profile rbd-read-only pool=volumes, profile rbd-read-only pool=images"}
"""What docs/providers/openstack.md tells operators to give."""


@dataclass(frozen=True)
class Ceph:
    """``folder`` holds ``ceph.conf`` and ``keyring`` (of client.admin and the daemons)."""

    folder: Path
    mon_host: str
    osd: subprocess.Popen[bytes]
    monitor: subprocess.Popen[bytes]

    def connect(self, user: str = "admin") -> Any:
        """A ``rados.Rados``, to be shut down by the caller."""
        import rados

        conf = {"keyring": str(self.folder / "keyring"), "client_mount_timeout": "20", "rados_mon_op_timeout": "20"}
        cluster = rados.Rados(conffile=str(self.folder / "ceph.conf"), rados_id=user, conf=conf)
        cluster.connect()
        return cluster

    def command(self, prefix: str, **arguments: Any) -> Any:
        """The JSON answer of a monitor's command as client.admin. RuntimeError with what it said."""
        cluster = self.connect()
        try:
            return _ask(cluster, prefix, **arguments)
        finally:
            cluster.shutdown()

    def connection_info(self) -> dict[str, Any]:
        """What stands as ``ceph`` in an OpenStack's connection_info: a user who may only read."""
        return {"mon_host": self.mon_host, "user": "coriolis", "key": self.user("coriolis")}

    def snapshots(self, pool: str = "volumes") -> list[str]:
        """``image@snapshot`` of all there are."""
        import rbd

        cluster = self.connect()
        try:
            with cluster.open_ioctx(pool) as ioctx:
                found = []
                for name in rbd.RBD().list(ioctx):
                    with rbd.Image(ioctx, name, read_only=True) as image:
                        found += [f"{name}@{one['name']}" for one in image.list_snaps()]
                return sorted(found)
        finally:
            cluster.shutdown()

    def user(self, name: str, caps: dict[str, str] | None = None) -> str:
        """The key of ``client.<name>``, made with these capabilities; ``ceph.conf`` finds it too."""
        pairs = [text for pair in (caps or READ_ONLY).items() for text in pair]
        made = self.command("auth get-or-create", entity=f"client.{name}", caps=pairs)
        key = str(made[0]["key"])
        keyring = self.folder / f"client.{name}.keyring"
        keyring.touch(0o600)
        keyring.write_text(f"[client.{name}]\nkey = {key}\n")
        return key


def _ask(cluster: Any, prefix: str, data: bytes = b"", **arguments: Any) -> Any:
    order = json.dumps({"prefix": prefix, "format": "json", **arguments})
    code, answer, said = cluster.mon_command(order, data, timeout=COMMAND_TIMEOUT_S)
    if code:
        raise RuntimeError(f"ceph {prefix}: {code} {said}")
    return json.loads(answer) if answer.strip() else None


def _configuration(folder: Path, mon_host: str, fsid: str) -> str:
    values = {
        "fsid": fsid,
        "mon_host": mon_host,
        "mon_initial_members": "a",
        "public_addr": "127.0.0.1",
        "cluster_addr": "127.0.0.1",
        "ms_bind_ipv6": "false",
        "auth_cluster_required": "cephx",
        "auth_service_required": "cephx",
        "auth_client_required": "cephx",
        "run_dir": str(folder),
        "admin_socket": "",
        "pid_file": "",
        "log_file": f"{folder}/$name.log",
        "mon_cluster_log_file": f"{folder}/cluster.log",
        # every change of a map would wait for a second
        "paxos_propose_interval": "0.05",
        "paxos_min_wait": "0.01",
        "osd_pool_default_size": "1",
        "osd_pool_default_min_size": "1",
        "osd_crush_chooseleaf_type": "0",
        "mon_allow_pool_size_one": "true",
        "mon_osd_full_ratio": "0.99",
        "osd_objectstore": "bluestore",
        "bluestore_block_size": str(OSD_BYTES),
        "bluestore_cache_size": str(64 << 20),
        "osd_memory_target": str(1 << 30),
    }
    lines = ["[global]", *(f"{name} = {value}" for name, value in values.items())]
    lines += ["[client]", f"keyring = {folder}/$name.keyring"]
    return "\n".join([*lines, "[mon.a]", f"mon_data = {folder}/mon", "[osd.0]", f"osd_data = {folder}/osd", ""])


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-1000:]}{done.stderr[-2000:]}")


def _daemon(stack: ExitStack, folder: Path, program: str, identity: str) -> subprocess.Popen[bytes]:
    """In the foreground, as this user; ends with ``stack``."""
    output = stack.enter_context((folder / f"{program}.out").open("wb"))
    process = subprocess.Popen(
        [program, "-f", "-i", identity, "-c", str(folder / "ceph.conf"), "-k", str(folder / "keyring")],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until_up(ceph: Ceph, cluster: Any) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while _ask(cluster, "osd stat")["num_up_osds"] < 1:
        if time.monotonic() >= deadline or ceph.osd.poll() is not None:
            said = (ceph.folder / "ceph-osd.out").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the OSD did not come up: {said}")
        time.sleep(POLL_S)


def _keys(folder: Path) -> None:
    keyring = str(folder / "keyring")
    caps = {
        "mon.": {"mon": "allow *"},
        "client.admin": {"mon": "allow *", "osd": "allow *"},
        "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    }
    for entity, allowed in caps.items():
        pairs = [text for kind, what in allowed.items() for text in ("--cap", kind, what)]
        create = ["--create-keyring"] if entity == "mon." else []
        _run("ceph-authtool", keyring, *create, "--gen-key", "-n", entity, *pairs)


@contextmanager
def ceph_site() -> Iterator[Ceph]:
    """A fresh cluster with the pools ``volumes`` and ``images``. RuntimeError when something does not start in time."""
    folder = Path(tempfile.mkdtemp(prefix="coriolis-ceph-"))
    folder.chmod(0o755)  # other users' QEMU reads ceph.conf; the keyring is closed to them
    fsid, mon_host = str(uuid.uuid4()), f"[v2:127.0.0.1:{free_port()},v1:127.0.0.1:{free_port()}]"
    conf, keyring, map_file = folder / "ceph.conf", folder / "keyring", folder / "monmap"
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        conf.write_text(_configuration(folder, mon_host, fsid))
        (folder / "mon").mkdir()
        (folder / "osd").mkdir()
        _keys(folder)
        _run("monmaptool", "--create", "--addv", "a", mon_host, "--fsid", fsid, str(map_file))
        _run("ceph-mon", "--mkfs", "-i", "a", "-c", str(conf), "--monmap", str(map_file), "-k", str(keyring))
        monitor = _daemon(stack, folder, "ceph-mon", "a")
        osd_uuid = str(uuid.uuid4())
        cluster = Ceph(folder, mon_host, monitor, monitor).connect()
        stack.callback(cluster.shutdown)
        _ask(cluster, "osd new", uuid=osd_uuid)
        _run("ceph-osd", "--mkfs", "-i", "0", "-c", str(conf), "--osd-uuid", osd_uuid, "-k", str(keyring))
        ceph = Ceph(folder, mon_host, _daemon(stack, folder, "ceph-osd", "0"), monitor)
        for pool in POOLS:
            _ask(cluster, "osd pool create", pool=pool, pg_num=8)
            _ask(cluster, "osd pool application enable", pool=pool, app="rbd", **{"yes_i_really_mean_it": True})
        _until_up(ceph, cluster)
        yield ceph
