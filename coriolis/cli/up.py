"""``coriolis up``: the whole mesh on this machine, as the same processes and protocols as in production."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import click
import tomli_w
from rich.console import Console

from coriolis.cli.role_process import RoleProcess
from coriolis.errors import CoriolisError, Unavailable
from coriolis.etcd.embedded import EmbeddedEtcd
from coriolis.rpc.identity import Identity
from coriolis.rpc.tls import TlsFiles
from coriolis.security.pki import create_ca, issue

TRUST_DOMAIN = "coriolis.local"
CERTIFICATE_HOURS = 24 * 90
"""A development authority on one machine; production certificates live a day (``coriolis pki issue``)."""
READY_TIMEOUT_S = 60.0
LOOPBACK = "127.0.0.1"
STATE_MODE = 0o700

console = Console(stderr=True)


@click.command("up")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("coriolis-data"),
    show_default=True,
    help="Where everything is kept: etcd, certificates, logs, journals, admin-openrc.",
)
@click.option("--listen", default="127.0.0.1:7667", show_default=True, help="host:port of the REST gateway.")
@click.option("--site", "sites", multiple=True, default=("site-a", "site-b"), show_default=True, help="One agent each.")
def up(data_dir: Path, listen: str, sites: tuple[str, ...]) -> None:
    """Run etcd, a coordinator, the gateway and an agent per site on this machine.

    The first start makes a development authority, a user and a project. Ctrl-C stops everything; the next start on the
    same --data-dir goes on with every unfinished migration.

    \b
    coriolis up --data-dir ./mesh
    . ./mesh/admin-openrc && coriolis migration list
    """
    try:
        asyncio.run(Mesh(data_dir.absolute(), listen, sites).run())
    except CoriolisError as failed:
        raise click.ClickException(failed.message) from failed


class Mesh:
    """All roles of one machine."""

    def __init__(self, data_dir: Path, listen: str, sites: tuple[str, ...]) -> None:
        self._dir = data_dir
        self._listen = listen
        self._sites = sites
        self._metrics: dict[str, str] = {}
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit():
            raise click.BadParameter(f"{listen!r} is not host:port", param_hint="--listen")

    async def run(self) -> None:
        """Start in order of need, wait until the gateway is ready, keep the roles running until stopped."""
        self._dir.mkdir(mode=STATE_MODE, parents=True, exist_ok=True)
        (self._dir / "log").mkdir(exist_ok=True)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        etcd_tls = self._certificate("coordinator", "etcd")
        async with AsyncExitStack() as stack:
            etcd = await stack.enter_async_context(EmbeddedEtcd(self._dir / "etcd", tls=etcd_tls))
            roles = self._roles(etcd.endpoint)
            for role in roles:
                await role.start()
                stack.push_async_callback(role.stop)
            await self._wait_ready(roles)
            self._greet()
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(role.keep_running()) for role in roles]
                keepers.append(group.create_task(_etcd_must_live(etcd)))
                await stop.wait()
                console.print("stopping…")
                for keeper in keepers:
                    keeper.cancel()

    # -- what each role needs -----------------------------------------------------------------------------------

    def _certificate(self, role: str, name: str) -> TlsFiles:
        ca_dir = create_ca(self._dir / "ca", TRUST_DOMAIN).parent
        identity = Identity.parse(f"spiffe://{TRUST_DOMAIN}/{role}/{name}")
        return issue(ca_dir, self._dir / "tls" / f"{role}-{name}", identity, (LOOPBACK,), hours=CERTIFICATE_HOURS)

    def _roles(self, etcd_endpoint: str) -> list[RoleProcess]:
        coordinator_port = _free_port()
        coordinator = f"{LOOPBACK}:{coordinator_port}"
        key = self._dir / "secret.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(32))

        def etcd(tls: TlsFiles) -> dict[str, object]:
            return {
                "endpoints": [etcd_endpoint],
                "tls_dir": str(tls.cert.parent),
                "server_name": "coriolis-mesh",
            }

        tls = self._certificate("coordinator", "local")
        roles = [
            self._role(
                "coordinator",
                "coordinator",
                {
                    "id": "local",
                    "listen": coordinator,
                    "tls_dir": str(tls.cert.parent),
                    "secret_key_file": str(key),
                    "secrets_dir": str(self._dir / "secrets"),
                    "etcd": etcd(tls),
                },
            )
        ]
        for site in self._sites:
            tls = self._certificate("agent", site)
            settings: dict[str, object] = {
                "id": site,
                "site": site,
                "state_dir": str(self._dir / f"agent-{site}"),
                "tls_dir": str(tls.cert.parent),
                "etcd": etcd(tls),
            }
            roles.append(self._role(f"agent-{site}", "agent", settings))
        tls = self._certificate("gateway", "local")
        roles.append(self._role("gateway", "gateway", self._gateway_settings(coordinator, tls)))
        return roles

    def _gateway_settings(self, coordinator: str, tls: TlsFiles) -> dict[str, object]:
        from gateway.users_file import write_default_users

        users, openrc = self._dir / "users.json", self._dir / "admin-openrc"
        public_url = f"http://{self._listen}"
        if not (users.exists() and openrc.exists()):
            # the password stands in admin-openrc only: without it, a new one is the way back in
            users.unlink(missing_ok=True)
            made = write_default_users(users)
            openrc.touch(mode=0o600)
            openrc.write_text(made.openrc(f"{public_url}/v3"))
        return {
            "listen": self._listen,
            "public_url": public_url,
            "coordinators": [coordinator],
            "tls_dir": str(tls.cert.parent),
            "users_file": str(users),
            "token_key_file": str(self._dir / "token.key"),
        }

    def _role(self, name: str, command: str, settings: dict[str, object]) -> RoleProcess:
        if command != "gateway":  # which serves its own beside the API
            self._metrics[name] = f"{LOOPBACK}:{_free_port()}"
            settings["metrics_listen"] = self._metrics[name]
        config = self._dir / "config" / f"{name}.toml"
        config.parent.mkdir(exist_ok=True)
        config.write_text(tomli_w.dumps(settings))
        arguments = [sys.executable, "-m", "coriolis.cli.main", command, "--config", str(config)]
        return RoleProcess(name, arguments, self._dir / "log" / f"{name}.log")

    # -- ready and greeting -------------------------------------------------------------------------------------

    async def _wait_ready(self, roles: list[RoleProcess]) -> None:
        """Until the gateway says it is ready: it asks the coordinator, so all stand behind it."""
        import httpx

        async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(READY_TIMEOUT_S):
            while True:
                for role in roles:
                    if role.returncode is not None:
                        raise Unavailable(f"{role.name} ended at once; its log is {role.log_path}")
                try:
                    answer = await client.get(f"http://{self._listen}/readyz")
                    if answer.status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.2)

    def _greet(self) -> None:
        openrc = min(str(self._dir / "admin-openrc"), os.path.relpath(self._dir / "admin-openrc"), key=len)
        console.print(f"[bold green]Coriolis is up[/] on http://{self._listen}   (logs: {self._dir / 'log'})")
        console.print(f"log in:   . {openrc}")
        console.print("then:     coriolis agent list;  coriolis migration create --help")
        shown = {"gateway": self._listen, **self._metrics}
        console.print("metrics:  " + "  ".join(f"{name} http://{address}/metrics" for name, address in shown.items()))
        console.print("Ctrl-C stops everything; unfinished migrations go on at the next start.")


async def _etcd_must_live(etcd: EmbeddedEtcd) -> None:
    await etcd.wait()
    raise Unavailable(f"etcd ended; its log is {etcd.log_path}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
