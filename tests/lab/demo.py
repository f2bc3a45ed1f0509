"""``make demo``: a running Debian guest moves from one libvirt to another through the REST API, and boots on virtio.

Everything is real: two libvirt daemons (sites A and B), a guest whose initramfs knows only VMware's drivers, the mesh
as ``coriolis up`` starts it, mTLS, conversion. The proof is the login prompt on site B's console. Emulated (TCG), so
that it runs where KVM does not. Whatever it started ends with it, unless ``--keep``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from coriolis.etcd import parent_death
from tests.lab import guest_domain as lab
from tests.lab.demo_api import Api, read_openrc
from tests.lab.demo_view import View, size

DOMAIN = "src-vm"
ROOT = lab.LAB.parents[1]
# short (unix sockets live below it) and on disk (/tmp may be in memory)
WORK_PARENT = Path("/var/tmp")
WORK_PREFIX = "coriolis-demo-"
REST_PORT = 7667
NEEDED_BYTES = 6 << 30
READY_TIMEOUT_S = 90.0
BUILD_TIMEOUT_S = 600.0
BOOT_TIMEOUT_S = 300.0
MIGRATION_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 30.0
LOG_TAIL_LINES = 15
CONSOLE_TAIL_LINES = 8


class DemoFailed(Exception):
    """The message says what failed and what was seen."""


class Demo:
    """What is started below ``work``. ``stop`` ends it, started or not."""

    def __init__(self, view: View, work: Path, *, keep: bool) -> None:
        self._view = view
        self.keep = keep
        self.work = work
        self.sites = (work / "a", work / "b")
        self.uris = ("", "")

    def run(self) -> str:
        """Returns the last line. Raises DemoFailed, GuestFailed."""
        say = self._view.say
        guest = self._guest()
        say("starting two libvirt daemons: site A and site B")
        with ThreadPoolExecutor() as threads:
            origin, destination = threads.map(lab.start_site, self.sites)
        self.uris = (origin, destination)
        origin_console = self._start_origin(guest)
        api = self._start_mesh()
        say("waiting for the guest's login prompt on site A")
        lab.wait_for_login(origin_console, BOOT_TIMEOUT_S)
        say(f"{DOMAIN} runs on site A (pvscsi and vmxnet3, as on VMware); it keeps running while its disk is copied")
        return self._migrate(api)

    def stop(self) -> None:
        """The mesh by its pid, then both sites with their domains."""
        pid_file = self.work / "up.pid"
        if pid_file.exists():
            _stop_process(int(pid_file.read_text()))
            pid_file.unlink()
        for folder in self.sites:
            if folder.exists():
                lab.stop_site(folder)

    # -- the parts ----------------------------------------------------------------------------------------------

    def _guest(self) -> Path:
        """The cached guest, built when it is absent; its build log goes to the screen."""
        command = [str(lab.LAB / "guest_cache")]
        self._view.say("Debian guest with VMware's drivers only: from the cache, or built now (about a minute)")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as build:
            assert build.stdout is not None
            assert build.stderr is not None
            log: list[str] = []
            began = time.monotonic()
            for line in build.stderr:
                log.append(line.rstrip())
                if line.startswith("["):
                    self._view.say(f"  {line.split(']', 1)[1].strip()}")
                if time.monotonic() - began > BUILD_TIMEOUT_S:
                    build.kill()
            path = build.stdout.read().strip()
        if build.returncode != 0:
            raise DemoFailed("the guest could not be built:\n" + "\n".join(log[-LOG_TAIL_LINES:]))
        return Path(path)

    def _start_origin(self, guest: Path) -> Path:
        uri, folder = self.uris[0], self.sites[0]
        disk = folder / "pool" / "guest.qcow2"
        shutil.copy(guest, disk)
        disk.chmod(0o600)
        console = folder / "console" / "origin.log"
        lab.define_guest(uri, DOMAIN, disk, console)
        lab.start_domain(uri, DOMAIN)
        return console

    def _start_mesh(self) -> Api:
        data_dir, log = self.work / "mesh", self.work / "up.log"
        listen = f"127.0.0.1:{_port()}"
        self._view.say(f"coriolis up --data-dir {data_dir} --listen {listen}")
        arguments = [sys.executable, "-m", "coriolis.cli.main", "up", "--data-dir", str(data_dir), "--listen", listen]
        if not self.keep:
            # however this process ends, the mesh does not outlive it
            arguments = [sys.executable, parent_death.__file__, str(os.getpid()), *arguments]
        with log.open("wb") as output:
            # a session of its own: Ctrl-C reaches only this process, which stops the mesh in order
            up = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT, start_new_session=True
            )
        (self.work / "up.pid").write_text(str(up.pid))
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not _ready(listen):
            if up.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed(f"coriolis up is not ready:\n{_tail(log, LOG_TAIL_LINES)}")
            time.sleep(0.2)
        api = Api(read_openrc(data_dir / "admin-openrc"))
        self._view.say(f"the mesh is up; logged in with {data_dir / 'admin-openrc'}")
        return api

    # -- the migration ------------------------------------------------------------------------------------------

    def _migrate(self, api: Api) -> str:
        began = time.monotonic()
        made = api.create(self._request())
        migration_id = str(made["id"])
        self._view.say(f"POST {api.migrations_url} -> migration {migration_id}")
        for kind, document in api.follow(migration_id, MIGRATION_TIMEOUT_S):
            self._view.event(kind, document)
        found = api.show(migration_id)
        seconds = time.monotonic() - began
        if found["status"] != "COMPLETED":
            raise DemoFailed(_story(found))
        console = self.sites[1] / "console" / f"{DOMAIN}-serial0.log"
        self._view.say("waiting for the login prompt on site B")
        lab.wait_for_login(console, BOOT_TIMEOUT_S)
        login_s = time.monotonic() - began
        self._check_sites()
        self._view.say(f"login prompt on site B, on {self._hardware()}; the console's last lines:")
        for line in _until_login(lab.console_text(console)):
            self._view.say(f"  | {line}")
        return self._last_line(found, seconds, login_s)

    def _request(self) -> dict[str, Any]:
        """The founding description's body."""
        return {
            "origin": {
                "type": "libvirt",
                "connection_info": lab.connection_info(self.uris[0], self.sites[0]),
                "source_environment": {"shutdown_grace_s": 60},
            },
            "destination": {
                "type": "libvirt",
                "connection_info": lab.connection_info(self.uris[1], self.sites[1]),
                "target_environment": {"network_map": {"user": "user"}, "domain_type": "qemu"},
            },
            "instances": [DOMAIN],
        }

    def _check_sites(self) -> None:
        """One machine runs, and it is the one on site B."""
        origin, destination = lab.domain_states(self.uris[0]), lab.domain_states(self.uris[1])
        if origin != {DOMAIN: False} or destination != {DOMAIN: True}:
            raise DemoFailed(f"site A has {origin}, site B has {destination} (name: running)")

    def _hardware(self) -> str:
        """What the destination's machine has, as its libvirt tells it."""
        domain = ET.fromstring(lab.domain_xml(self.uris[1], DOMAIN))
        buses = sorted({disk.get("bus", "") for disk in domain.findall("devices/disk/target")})
        models = sorted({nic.get("type", "") for nic in domain.findall("devices/interface/model")})
        return f"disk {', '.join(buses)} and NIC {', '.join(models)}"

    def _last_line(self, found: dict[str, Any], seconds: float, login_s: float) -> str:
        read, sent = (sum(disk[name] for disk in found["disks"]) for name in ("read_bytes", "sent_bytes"))
        down_from = self._view.task_times.get("SHUTDOWN_INSTANCE")
        if down_from is not None:
            up_again = self._view.task_times.get("FINALIZE_INSTANCE_DEPLOYMENT", time.monotonic())
            self._view.say(f"powered off for {up_again - down_from:.0f} s, between the two machines")
        verb = "runs" if self.keep else "ran (DEMO_ARGS=--keep leaves it running)"
        return (
            f"migration {found['id']}: read {size(read)} ({read} bytes), sent {size(sent)} ({sent} bytes) "
            f"in {seconds:.0f} s, login prompt after {login_s:.0f} s; domain {DOMAIN} of {self.uris[1]} {verb}"
        )


def _until_login(console: str) -> list[str]:
    """The console's last lines up to the prompt; the kernel may have written more after it."""
    prompt = lab.LOGIN_PROMPT.search(console)
    shown = console[: prompt.end()] if prompt else console
    return [line for line in shown.splitlines() if line.strip()][-CONSOLE_TAIL_LINES:]


def _story(found: dict[str, Any]) -> str:
    """What a migration that failed has to say."""
    lines = [f"migration {found['id']} ended in {found['status']}"]
    for task in found["tasks"]:
        lines.append(f"  {task['task_type']:<38} {task['status']:<12} {task['exception_details'] or ''}")
        lines += [f"      {event['level']}: {event['message']}" for event in task["events"]]
    return "\n".join(lines)


def _port() -> int:
    """7667, or a free one when something listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", REST_PORT))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready(listen: str) -> bool:
    try:
        return httpx.get(f"http://{listen}/readyz", trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _stop_process(pid: int) -> None:
    """SIGTERM, then SIGKILL; reaps it when it is a child of this process."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    try:
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    return
            except ChildProcessError:
                os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _tail(log: Path, lines: int) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _drop_disks(work: Path) -> None:
    """After a failure: what is large goes, what tells the reason stays."""
    for disk in (*work.glob("[ab]/pool/*"), *work.glob("[ab]/scratch/*")):
        shutil.rmtree(disk) if disk.is_dir() else disk.unlink(missing_ok=True)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise DemoFailed("the demo's libvirt daemons need root: run `make demo` as root or with sudo at hand")
    free = shutil.disk_usage(WORK_PARENT).free
    if free < NEEDED_BYTES:
        raise DemoFailed(f"{WORK_PARENT} has {size(free)} free, the demo needs {size(NEEDED_BYTES)}")


def _stop_kept(work: Path) -> int:
    if not (work.name.startswith(WORK_PREFIX) and work.is_dir()):
        print(f"{work} was not left by a demo", file=sys.stderr)
        return 2
    Demo(View(), work, keep=True).stop()
    shutil.rmtree(work)
    return 0


def _run(demo: Demo, view: View) -> tuple[int, str]:
    """(exit code, last line). Only a demo that succeeded and was asked to leaves anything running."""
    work, left_running = demo.work, False
    try:
        last_line = demo.run()
        left_running = demo.keep
    except KeyboardInterrupt:
        view.say("interrupted, stopping everything")
        demo.stop()
        shutil.rmtree(work, ignore_errors=True)
        return 130, ""
    except (DemoFailed, lab.GuestFailed, OSError, RuntimeError, subprocess.SubprocessError, httpx.HTTPError) as failed:
        view.say(f"the demo failed: {failed}", "red")
        if (log := work / "up.log").exists():
            view.say(f"coriolis up said last:\n{_tail(log, LOG_TAIL_LINES)}")
        demo.stop()
        _drop_disks(work)
        view.say(f"logs: {work}/up.log, {work}/mesh/log/*.log, {work}/[ab]/log, consoles in {work}/[ab]/console")
        return 1, ""
    else:
        if left_running:
            view.say(f"everything runs on; log in with: . {work}/mesh/admin-openrc")
            view.say(f"end it with: make demo DEMO_ARGS='--stop {work}'")
        else:
            demo.stop()
            shutil.rmtree(work, ignore_errors=True)
        return 0, last_line
    finally:
        if not left_running:
            demo.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the mesh, both sites and the VM running")
    parser.add_argument("--stop", type=Path, metavar="DIR", help="end what an earlier --keep left in DIR")
    arguments = parser.parse_args()
    if arguments.stop:
        return _stop_kept(arguments.stop)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with View() as view:
        try:
            _check_machine()
        except DemoFailed as failed:
            view.say(str(failed), "red")
            return 2
        work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=WORK_PARENT))
        code, last_line = _run(Demo(view, work, keep=arguments.keep), view)
    if code == 0:
        print(last_line)
    return code


if __name__ == "__main__":
    sys.exit(main())
