"""The peers' runs: curl, curl piped into a plain decoder, the plain decoder alone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pyVim.connect import Disconnect, SmartConnect

from bench.vsphere.simulated import NAME, Scene
from bench.vsphere.verdicts import CURL, DECODER, PROCESSES, ZLIB, Run
from coriolis.providers.vmware_vsphere.certificate import tls_context
from coriolis.providers.vmware_vsphere.folder_reader import CONNECTIONS
from tests.lab.vcsim import PASSWORD, USER

TIMEOUT_S = 900


def ranges(size: int, count: int) -> list[str]:
    """A whole file in ``count`` parts at most, as curl wants them."""
    part = -(-size // count)
    return [f"{at}-{min(at + part, size) - 1}" for at in range(0, size, part)]


def curl_config(url: str, cookie: str, parts: list[str]) -> str:
    """For ``curl -K -``: each part of a file, thrown away."""
    block = f'url = "{url}"\nheader = "Cookie: {cookie}"\noutput = "/dev/null"\ninsecure\nfail\nsilent\nshow-error\n'
    return "next\n".join(f'{block}range = "{part}"\n' for part in parts)


def curl_parallel(scene: Scene) -> Run:
    """One curl with as many connections as we have, each with its part."""
    count = str(CONNECTIONS)
    command = ["curl", "-Z", "--parallel-immediate", "--parallel-max", count, "-K", "-"]
    config = curl_config(scene.flat_url(), scene.cookie, ranges(scene.size, CONNECTIONS))
    began = time.monotonic()
    done = subprocess.run(command, input=config, text=True, capture_output=True, timeout=TIMEOUT_S, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise click.ClickException(f"curl failed: {done.stderr[-400:]}")
    return Run(seconds, scene.size)


def _curl(scene: Scene, url: str, *more: str) -> list[str]:
    return ["curl", "-sS", "--insecure", "--fail", "-H", f"Cookie: {scene.cookie}", *more, url]


def curl_processes(scene: Scene) -> Run:
    """As many curl processes as we have connections, each with its part."""
    began = time.monotonic()
    running = [
        subprocess.Popen(_curl(scene, scene.flat_url(), "-o", "/dev/null", "-r", part))
        for part in ranges(scene.size, CONNECTIONS)
    ]
    for one in running:
        if one.wait(TIMEOUT_S):
            raise click.ClickException("curl failed")
    return Run(time.monotonic() - began, scene.size)


def curl_decoder(scene: Scene) -> Run:
    """A lease of its own, then ``curl | plain_decoder``; the clock starts with the lease."""
    info = scene.simulator.connection_info()
    instance = SmartConnect(host=info["host"], port=info["port"], user=USER, pwd=PASSWORD, sslContext=tls_context(info))
    try:
        vm = instance.content.searchIndex.FindByInventoryPath(f"DC0/vm/{NAME}")
        task = vm.CreateSnapshot_Task(name="peer", memory=False, quiesce=False)
        while task.info.state not in ("success", "error"):
            time.sleep(0.01)
        snapshot = task.info.result
        began = time.monotonic()
        lease = snapshot.ExportSnapshot()
        url = next(one.url for one in lease.info.deviceUrl if one.targetId == "disk1.vmdk")
        with subprocess.Popen(_curl(scene, url), stdout=subprocess.PIPE) as fetch:
            _decode(fetch.stdout)
        seconds = time.monotonic() - began
        lease.HttpNfcLeaseComplete()
        snapshot.RemoveSnapshot_Task(removeChildren=False)
    finally:
        Disconnect(instance)
    return Run(seconds, scene.size)


def decoder(scene: Scene) -> Run:
    """The plain decoder alone on the exported file of one disk."""
    began = time.monotonic()
    with scene.exported[0].open("rb") as file:
        _decode(file)
    return Run(time.monotonic() - began, scene.size)


def _decode(source: Any) -> None:
    command = [sys.executable, str(Path(__file__).with_name("plain_decoder.py"))]
    subprocess.run(command, stdin=source, capture_output=True, check=True, timeout=TIMEOUT_S)


RUNS: dict[str, Callable[[Scene], Run]] = {
    CURL: curl_parallel,
    PROCESSES: curl_processes,
    DECODER: curl_decoder,
    ZLIB: decoder,
}
