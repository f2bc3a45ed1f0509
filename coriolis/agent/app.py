"""Wires an agent: etcd registration, control session, supervisor, health."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import msgspec
import structlog

from coriolis import __version__
from coriolis.agent.data_listener import DataListener, allow_descriptors
from coriolis.agent.data_port import PortRange, bind_data_socket, join_address, local_host
from coriolis.agent.journal import FenceJournal
from coriolis.agent.relay import Relay
from coriolis.agent.session import ControlSession
from coriolis.agent.supervisor import Supervisor
from coriolis.agent.workplace import Workplace
from coriolis.config import AgentConfig, OfferConfig, default_id
from coriolis.coordinator import keys
from coriolis.coordinator.leadership import leader_changes
from coriolis.errors import InvalidInput, Unavailable
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.connect import connect
from coriolis.etcd.lease import announce
from coriolis.observability.metrics import Metrics, serve_metrics
from coriolis.providers.registry import load_provider, provider_names
from coriolis.providers.surroundings import CinderAccess
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2
from coriolis.rpc.tls import TlsFiles
from coriolis.security.pki import identity_of

log = structlog.get_logger(__name__)

AGENT_TTL_S = 15
AGENT_KEEPALIVE_S = 5.0
ANNOUNCE_RETRY_S = 1.0
LOOPBACK = "127.0.0.1"


class Agent:
    """One agent process."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._tls = TlsFiles.in_directory(Path(config.tls_dir))
        identity = identity_of(self._tls.cert)
        self._id = config.id or identity.id or default_id("agent")
        if identity.role != "agent" or identity.id != self._id:
            raise InvalidInput(f"{self._tls.cert} is for {identity}, not for agent {self._id}")
        self._state_dir = Path(config.state_dir).absolute()
        self._state_dir.mkdir(parents=True, exist_ok=True)
        self._leader = ""

    def description(self, data_port: int) -> cluster_pb2.Agent:
        """What this agent announces: where it is and what it can do."""
        config = self._config
        offers = config.offers or [OfferConfig(name) for name in provider_names()]
        return cluster_pb2.Agent(
            id=self._id,
            site=config.site or self._id,
            version=__version__,
            providers=[_provider_info(offer) for offer in offers],
            data_address="" if config.inbound == "none" else join_address(self._advertise_host, data_port),
            projects=config.projects,
            relay=config.relay,
        )

    @property
    def _advertise_host(self) -> str:
        return self._config.data_advertise or self._config.data_bind

    def _data_listener(self, relay: Relay) -> DataListener:
        """On the port of the last run if it is free: running transfers know it."""
        config, remembered = self._config, self._state_dir / "data_port"
        last = remembered.read_text().strip() if remembered.exists() else ""
        # who cannot be dialled has no use for a port that others see
        host = LOOPBACK if config.inbound == "none" else config.data_bind
        ports = PortRange.parse(config.data_ports)
        listener = DataListener(
            bind_data_socket(host, ports, prefer=int(last) if last.isdigit() else 0), relay, self._tls
        )
        remembered.write_text(f"{listener.port}\n")
        return listener

    async def serve(self) -> None:
        """Run until cancelled; task processes end with it."""
        allow_descriptors()
        relay = Relay()
        listener = self._data_listener(relay)
        workplace = Workplace(
            agent_id=self._id,
            state_dir=self._state_dir,
            tls=self._tls,
            bind_host=self._config.data_bind,
            advertise_host=self._advertise_host,
            read_limit_bytes_per_s=self._config.read_limit_bytes_per_s,
            data_ports=PortRange.parse(self._config.data_ports),
            package_bundle=_given_path(self._config.package_bundle),
            virtio_win=_given_path(self._config.virtio_win),
            vddk_dir=_given_path(self._config.vddk_dir),
            staging_dir=_given_path(self._config.staging_dir),
            cinder=_cinder_access(self._config, self._state_dir),
            meeting_address=join_address(local_host(self._config.data_bind), listener.port),
        )
        me = self.description(listener.port)
        session = ControlSession(me, self._tls, FenceJournal(self._state_dir), lambda: self._leader, relay)
        supervisor = Supervisor(workplace, session)
        session.supervisor = supervisor
        supervisor.report = session.report
        ready = asyncio.Event()
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(connect(self._config.etcd))
            if self._config.metrics_listen:
                host, _, port = self._config.metrics_listen.rpartition(":")
                metrics = _metrics(session, supervisor, relay)
                await stack.enter_async_context(
                    serve_metrics(
                        host, int(port), metrics, lambda: [] if session.connected else ["no session with a leader"]
                    )
                )
            async with asyncio.TaskGroup() as group:
                group.create_task(listener.serve())
                group.create_task(supervisor.serve(ready))
                await ready.wait()
                group.create_task(self._announce(client, me))
                group.create_task(
                    announce(
                        client,
                        keys.agent_live(self._id),
                        b"1",
                        ttl_s=AGENT_TTL_S,
                        keepalive_s=AGENT_KEEPALIVE_S,
                    )
                )
                group.create_task(self._follow_leader(client))
                group.create_task(session.serve())
                log.info("agent runs", id=self._id, site=me.site, providers=[info.type for info in me.providers])

    async def _announce(self, client: EtcdClient, me: cluster_pb2.Agent) -> None:
        """Write what this agent is once; it stays readable while the agent is away."""
        while True:
            try:
                await client.put(keys.agent_announcement(self._id), me.SerializeToString(), idempotent=True)
            except Unavailable as down:
                log.warning("not announced", reason=down.message)
                await asyncio.sleep(ANNOUNCE_RETRY_S)
            else:
                return

    async def _follow_leader(self, client: EtcdClient) -> None:
        while True:
            try:
                async with aclosing(leader_changes(client)) as changes:
                    async for record in changes:
                        self._leader = record.address if record is not None else ""
            except Unavailable as down:
                # the last known leader may still be right: sessions need no etcd
                log.warning("leader not followed", reason=down.message)


def _metrics(session: ControlSession, supervisor: Supervisor, relay: Relay) -> Metrics:
    metrics = Metrics()
    running = metrics.gauge("agent_running_tasks", "Task processes of this agent")
    running.set_function(supervisor.running)
    connected = metrics.gauge("agent_connected", "1 while a control session with a leader stands")
    connected.set_function(lambda: float(session.connected))
    joined = metrics.gauge("agent_relayed_connections", "Connections of other agents that are joined here now")
    joined.set_function(relay.pairs)
    return metrics


def _provider_info(offer: OfferConfig) -> cluster_pb2.ProviderInfo:
    provider = load_provider(offer.type)
    return cluster_pb2.ProviderInfo(
        type=provider.name,
        capabilities_json=json.dumps(msgspec.to_builtins(provider.capabilities)),
        connection_schema_json=json.dumps(provider.connection_schema),
        source_environment_schema_json=json.dumps(provider.source_environment_schema),
        destination_environment_schema_json=json.dumps(provider.destination_environment_schema),
        match_json=json.dumps(offer.match),
    )


def _cinder_access(config: AgentConfig, state_dir: Path) -> CinderAccess | None:
    """What the operator allows; None when this host attaches no volumes. Raises InvalidInput."""
    if not config.cinder_drivers:
        return None
    mount_dir = _given_path(config.cinder_mount_dir) or state_dir / "cinder"
    return CinderAccess(tuple(config.cinder_drivers), mount_dir.resolve(), config.cinder_python)


def _given_path(text: str) -> Path | None:
    """A path of the configuration that must exist, None when it is empty. Raises InvalidInput."""
    if text and not Path(text).exists():
        raise InvalidInput(f"the configuration names {text}, which does not exist on this agent")
    return Path(text) if text else None
