"""Lane processes: they hold what fences the volume as long as they live, and die with their task."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from coriolis.agent import disk_journal
from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.lanes import sink_host
from coriolis.agent.lanes.hosts import WORTH_A_PROCESS_BYTES, SinkHosts
from coriolis.agent.sink_disk import SinkDisk
from coriolis.errors import Conflict
from coriolis.model.resource import Volume
from coriolis.providers.block.raw_file import RawWriter
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.rpc.tls import TlsFiles
from coriolis.transfer.cells import CELL_BYTES
from tests.unit.agent.pair import Lab, agent

SIZE = WORTH_A_PROCESS_BYTES
Tls = dict[str, TlsFiles]


def opened(journal: DiskJournal, writer: RawWriter, manifest: Path) -> SinkDisk:
    disk = SinkDisk("t", "d", 1, 1, Volume("v", "v", SIZE), writer, journal, manifest)
    disk.open(
        pb.OpenDiskRequest(
            transfer_id="t", disk_id="d", generation=1, pass_number=1, size_bytes=SIZE, snapshot_identity="s",
            cell_bytes=CELL_BYTES,
        )
    )  # fmt: skip
    return disk


async def test_a_successor_waits_for_every_process_that_can_write(
    tmp_path: Path, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed task's own lock is free at once; its lane process may still sit in a write to slow storage."""
    monkeypatch.setattr(disk_journal, "LOCK_WAIT_S", 0.2)
    path = tmp_path / "volume"
    path.touch()
    os.truncate(path, SIZE)
    descriptor = os.open(path, os.O_RDWR)
    journal = DiskJournal(tmp_path / "j")
    disk = opened(journal, RawWriter(descriptor, str(path)), tmp_path / "m")
    hosts = SinkHosts(tls["sink"], agent("source"), "127.0.0.1")
    try:
        [*ports] = await hosts.start([disk])
        assert ports, "processes"
        hosts.attach(disk)
        # what a task's death leaves: its descriptors are closed, the processes are still there
        journal.close()
        with pytest.raises(Conflict):
            DiskJournal(tmp_path / "j")
    finally:
        await hosts.close()
    DiskJournal(tmp_path / "j").close()
    os.close(descriptor)


_TASK = """
import asyncio, sys
from pathlib import Path
from coriolis.agent.lanes.hosts import source_hosts, lane_processes
from coriolis.agent.lanes.host_link import HostLink
from coriolis.rpc.tls import TlsFiles
tls = TlsFiles(*(Path(each) for each in sys.argv[1:4]))
async def main():
    async with source_hosts(tls, [1 << 40]) as hosts:
        await hosts._started()
        print(*(link._process.pid for link in hosts._processes), flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_no_lane_process_outlives_its_task(tls: Tls, end: signal.Signals) -> None:
    files = tls["source"]
    task = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", _TASK, str(files.ca), str(files.cert), str(files.key)],
        stdout=subprocess.PIPE,
        env={**os.environ},
    )
    assert task.stdout is not None
    pids = [int(each) for each in (await asyncio.to_thread(task.stdout.readline)).split()]
    try:
        assert pids
        assert all(_alive(pid) for pid in pids)
    finally:
        task.send_signal(end)
        await asyncio.to_thread(task.wait)
        task.stdout.close()
    async with asyncio.timeout(5):
        while any(_alive(pid) for pid in pids):  # noqa: ASYNC110 - the kernel tells nobody but the parent
            await asyncio.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_connection_that_says_nothing_does_not_keep_its_place(
    lab: object, tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers may connect as well: 64 of them must not keep the source out for a minute."""
    monkeypatch.setattr(sink_host, "GREETING_TIMEOUT_S", 0.3)
    assert callable(lab)
    here: Lab = lab(1)
    async with here.sink() as (_, port), here.source(port, b"x") as source:
        from coriolis.rpc.gen.coriolis.v1 import transfer_pb2_grpc

        async with source._wiring.open_control() as control:
            direct_port = (await source._open(transfer_pb2_grpc.TransferServiceStub(control))).direct_port
        with socket.create_connection(("127.0.0.1", direct_port), 5) as silent:
            silent.settimeout(5)
            assert await asyncio.to_thread(silent.recv, 1) == b""
