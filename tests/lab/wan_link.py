"""Emulated long paths between network namespaces, made and removed by context managers. Needs root and gcc.

The kernels that CI runs on may lack netem, so ``wan_link.c`` carries the packets in user space.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
MTU = 1500
DEVICE_QUEUE_PACKETS = 10_000
"""The device's own queue must never be the one that drops: the link counts what it drops."""
COMMAND_TIMEOUT_S = 30.0
ALLOWED_CONGESTION = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
PREFIX = "cwan"
_numbers = itertools.count()


def missing() -> str:
    """Why no link can be made here, or an empty string."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    absent = [program for program in ("gcc", "ip") if shutil.which(program) is None]
    if absent:
        return f"needs {' and '.join(absent)}"
    return "" if Path("/dev/net/tun").exists() else "needs /dev/net/tun"


def build() -> Path:
    """The compiled program, from the lab's cache when its source has not changed."""
    cache = Path(os.environ.get("CORIOLIS_LAB_CACHE") or _user_cache() / "coriolis-lab")
    cache.mkdir(parents=True, exist_ok=True)
    program = cache / f"wan-link-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    with (cache / "wan-link.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            fresh = program.with_suffix(".new")
            subprocess.run(["gcc", "-O2", "-Wall", "-pthread", "-o", fresh, SOURCE], check=True)
            fresh.rename(program)
    return program


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@dataclass(frozen=True)
class End:
    """One end of a link: its namespace and the address that the other end dials."""

    namespace: str
    address: str

    @property
    def prefix(self) -> list[str]:
        """Put before a command, it runs the command in this namespace (same pid: ``ip`` replaces itself)."""
        return ["ip", "netns", "exec", self.namespace]


@dataclass(frozen=True)
class Counts:
    """Of one direction since the start. ``bytes`` of IP packets delivered."""

    packets: int
    bytes: int
    lost: int
    overflowed: int
    refused: int


@dataclass(frozen=True)
class Road:
    """Settings of both directions. ``delay_ms`` one way; ``loss`` is a share of packets, 0.001 for 0.1%."""

    delay_ms: float = 25.0
    rate_mbit: float = 1000.0
    loss: float = 0.0
    queue_bytes: int | None = None
    seed: int = 1

    @property
    def queue(self) -> int:
        """Bytes that may wait: twice what the line carries in a round trip, unless given."""
        if self.queue_bytes is not None:
            return self.queue_bytes
        return max(64 * MTU, int(2 * self.rate_mbit * 1e6 / 8 * self.delay_ms / 1e3 * 2))


class WanLink:
    """A running link. Its process ends with its standard input."""

    def __init__(self, process: subprocess.Popen[str], a: End, b: End) -> None:
        self.a, self.b = a, b
        self._process = process
        self._lock = threading.Lock()

    def stats(self) -> dict[str, Counts]:
        """By direction: ``ab``, ``ba``."""
        return self._command("stats")

    def set_road(self, road: Road) -> None:
        for number, way in enumerate(("ab", "ba")):
            rate, delay = int(road.rate_mbit * 1e6), int(road.delay_ms * 1000)
            self._command(f"set {way} {delay} {rate} {road.queue} {road.loss:.9f} {2 * road.seed + number}")

    def refuse_dialling(self, end: End, refused: bool = True) -> None:
        """Whether TCP connections *to* ``end`` time out, as behind a firewall that lets only outbound ones through."""
        self._command(f"refuse {'ba' if end == self.a else 'ab'} {int(refused)}")

    def cut(self, is_cut: bool = True) -> None:
        """Drop every packet, both ways."""
        self._command(f"cut {int(is_cut)}")

    def _command(self, line: str) -> dict[str, Counts]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer: Mapping[str, Mapping[str, int]] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise ValueError(f"the link refused {line!r}")
        return {way: Counts(**counts) for way, counts in answer.items()}


@contextmanager
def wan_link(
    delay_ms: float = 25.0,
    rate_mbit: float = 1000.0,
    loss: float = 0.0,
    *,
    queue_bytes: int | None = None,
    seed: int = 1,
    congestion: str = "cubic",
) -> Iterator[WanLink]:
    """Two namespaces and the link between them; ``delay_ms`` is one way, the queue is twice the round trip's bytes."""
    with ExitStack() as stack:
        a, b = (stack.enter_context(namespace(side, congestion)) for side in "ab")
        yield stack.enter_context(_link(a, b, 0, Road(delay_ms, rate_mbit, loss, queue_bytes, seed)))


@dataclass(frozen=True)
class RelayedPair:
    """Two ends that have no way to each other, and a relay that both can dial."""

    a: WanLink
    """From end ``a`` to the relay."""
    b: WanLink
    """From end ``b`` to the relay."""
    relay_namespace: str


@contextmanager
def relayed_pair(road: Road, congestion: str = "cubic") -> Iterator[RelayedPair]:
    """Three namespaces: a - relay - b. Each link has the settings of ``road``; the relay forwards no packets."""
    with ExitStack() as stack:
        a, b, relay = (stack.enter_context(namespace(side, congestion)) for side in ("a", "b", "r"))
        yield RelayedPair(
            stack.enter_context(_link(a, relay, 0, road)), stack.enter_context(_link(b, relay, 1, road)), relay
        )


@contextmanager
def namespace(side: str, congestion: str = "cubic") -> Iterator[str]:
    """A network namespace with a loopback device; yields its name. Those of dead processes are removed first."""
    _sweep()
    name = f"{PREFIX}{os.getpid()}-{next(_numbers)}{side}"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        settings = {
            # one run must not learn from the one before it
            "net.ipv4.tcp_no_metrics_save": "1",
            "net.ipv6.conf.all.disable_ipv6": "1",
        }
        for key, value in settings.items():
            _set_inside(name, key, value)
        _choose_congestion(name, congestion)
        yield name
    finally:
        _ip("netns", "delete", name)


@contextmanager
def _link(a: str, b: str, number: int, road: Road) -> Iterator[WanLink]:
    device = f"wan{number}"
    argv = [str(build()), f"/run/netns/{a}", f"/run/netns/{b}", device]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        link = WanLink(process, End(a, f"10.77.{number}.1"), End(b, f"10.77.{number}.2"))
        link.set_road(road)  # its answer says that the devices exist
        for end in (link.a, link.b):
            _ip("-n", end.namespace, "address", "add", f"{end.address}/24", "dev", device)
            _ip(
                "-n",
                end.namespace,
                "link",
                "set",
                device,
                "mtu",
                str(MTU),
                "txqueuelen",
                str(DEVICE_QUEUE_PACKETS),
                "up",
            )
        yield link
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(COMMAND_TIMEOUT_S)
        process.stdout.close()


def _set_inside(name: str, key: str, value: str) -> None:
    _run(["ip", "netns", "exec", name, "sysctl", "-q", "-w", f"{key}={value}"])


def _choose_congestion(name: str, wanted: str) -> None:
    # a namespace may only choose among what the host allows to everybody: allowed for this moment
    with build().open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = ALLOWED_CONGESTION.read_text()
        if wanted not in before.split():
            ALLOWED_CONGESTION.write_text(f"{before.strip()} {wanted}")
        try:
            _set_inside(name, "net.ipv4.tcp_congestion_control", wanted)
        finally:
            ALLOWED_CONGESTION.write_text(before)


def _sweep() -> None:
    """Remove namespaces that a killed process left behind."""
    listed = Path("/run/netns")
    for name in os.listdir(listed) if listed.is_dir() else ():
        found = re.fullmatch(rf"{PREFIX}(\d+)-\d+[abr]", name)
        if found and not Path(f"/proc/{found[1]}").exists():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=COMMAND_TIMEOUT_S)


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    if done.returncode:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")
