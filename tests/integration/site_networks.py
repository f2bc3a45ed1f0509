"""Sites in network namespaces on one bridge, with firewalls; and a forwarder that remembers what it carried."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence

BLOCK = 64 << 10


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def available() -> bool:
    return os.geteuid() == 0 and all(map(shutil.which, ("ip", "nft", "tc")))


class SiteNetworks:
    """``with SiteNetworks(names) as networks``: one namespace per site; this process is reached on ``hub``."""

    def __init__(self, sites: Sequence[str]) -> None:
        # the kernel takes its time to remove what an earlier one used
        self._name = f"cr{secrets.token_hex(3)}"
        self._net = f"10.{secrets.randbelow(50) + 200}.{secrets.randbelow(250)}"
        self._sites = {site: number for number, site in enumerate(sites, start=11)}
        self.hub = f"{self._net}.1"

    def address(self, site: str) -> str:
        return f"{self._net}.{self._sites[site]}"

    def prefix(self, site: str) -> list[str]:
        """What a command begins with to run at the site."""
        return ["ip", "netns", "exec", self._space(site)]

    def _space(self, site: str) -> str:
        return f"{self._name}-{self._sites[site]}"

    def __enter__(self) -> SiteNetworks:
        try:
            run("ip", "link", "add", self._name, "type", "bridge")
            run("ip", "address", "add", f"{self.hub}/24", "dev", self._name)
            run("ip", "link", "set", self._name, "up")
            for site, number in self._sites.items():
                space, near = self._space(site), f"{self._name}v{number}"
                run("ip", "netns", "add", space)
                run("ip", "link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", space)
                run("ip", "link", "set", near, "master", self._name, "up")
                run("ip", "-n", space, "address", "add", f"{self.address(site)}/24", "dev", "eth0")
                run("ip", "-n", space, "link", "set", "eth0", "up")
                run("ip", "-n", space, "link", "set", "lo", "up")
        except subprocess.CalledProcessError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for site, number in self._sites.items():
            subprocess.run(["ip", "link", "delete", f"{self._name}v{number}"], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "delete", self._space(site)], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self._name], check=False, capture_output=True)

    def refuse_inbound(self, site: str) -> None:
        """From now on nobody can open a connection to the site; it may dial out."""
        nft = ["ip", "netns", "exec", self._space(site), "nft"]
        run(*nft, "add table inet wall")
        run(*nft, "add chain inet wall input { type filter hook input priority 0 ; }")
        run(*nft, 'add rule inet wall input iifname "eth0" tcp flags & (syn | ack) == syn drop')

    def allow_inbound(self, site: str) -> None:
        run("ip", "netns", "exec", self._space(site), "nft", "delete table inet wall")

    def slow_down(self, site: str, megabits_per_s: int) -> None:
        """Limit what the site sends."""
        space = self._space(site)
        shape = f"tbf rate {megabits_per_s}mbit burst 256k latency 100ms".split()
        run("ip", "netns", "exec", space, "tc", "qdisc", "add", "dev", "eth0", "root", *shape)


class Wire:
    """``async with Wire(host, port, to_host, to_port)``: forwards TCP; ``carried``: all bytes if ``remember``."""

    def __init__(self, host: str, port: int, to_host: str, to_port: int, *, remember: bool = False) -> None:
        self._here, self._there = (host, port), (to_host, to_port)
        self._remember = remember
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.carried: list[bytearray] = []
        """One per direction and connection."""

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._accept, *self._here)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._there)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))
        except OSError:
            pass
        finally:
            writer.transport.abort()
            far_writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = bytearray()
        self.carried.append(seen)
        while data := await reader.read(BLOCK):
            if self._remember:
                seen += data
            writer.write(data)
            await writer.drain()
        writer.write_eof()
