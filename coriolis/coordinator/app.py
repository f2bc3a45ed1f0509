"""Wires a coordinator: gRPC server for all, election, and everything that a term of leadership needs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from coriolis import __version__
from coriolis.clock import SystemClock
from coriolis.config import CoordinatorConfig, KeystoneConfig, default_id
from coriolis.coordinator import keys
from coriolis.coordinator.agent_watch import check_lost_agents, follow_agents
from coriolis.coordinator.bandwidth import Bandwidth
from coriolis.coordinator.bandwidth_service import BandwidthService
from coriolis.coordinator.cluster_service import ClusterService, SecretService
from coriolis.coordinator.directory import AgentDirectory
from coriolis.coordinator.driver import Driver
from coriolis.coordinator.election import Election
from coriolis.coordinator.etcd_store import EtcdStore
from coriolis.coordinator.gate import LeaderGate, gated
from coriolis.coordinator.inspection import Inspections
from coriolis.coordinator.janitor import Janitor
from coriolis.coordinator.job_service import ChangePublisher, JobService
from coriolis.coordinator.leadership import LeadershipTerm, leader_changes
from coriolis.coordinator.progress import ProgressBoard
from coriolis.coordinator.sessions import Sessions
from coriolis.coordinator.survey import Surveys
from coriolis.coordinator.transfer_metrics import TransferCollector
from coriolis.coordinator.trust_sweep import TrustSweep
from coriolis.coordinator.vault import Vault
from coriolis.coordinator.verification import Verifications
from coriolis.errors import InvalidInput, Unavailable
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.connect import connect
from coriolis.etcd.lease import announce
from coriolis.observability.metrics import Metrics, serve_metrics
from coriolis.rpc.gen.coriolis.v1 import (
    agent_control_pb2_grpc,
    bandwidth_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    endpoint_pb2_grpc,
    job_pb2_grpc,
)
from coriolis.rpc.identity import Role
from coriolis.rpc.interceptors import AccessInterceptor, MethodPolicy
from coriolis.rpc.server import build_server
from coriolis.rpc.tls import TlsFiles
from coriolis.security.secrets import FileSecretStore, SecretBox

if TYPE_CHECKING:
    from coriolis.keystone.trusts import Delegations

log = structlog.get_logger(__name__)

COORDINATOR_TTL_S = 15
COORDINATOR_KEEPALIVE_S = 5.0
STOP_GRACE_S = 1.0

POLICY: dict[str, tuple[Role, ...]] = {
    "/coriolis.v1.JobService/": ("gateway", "client", "operator"),
    "/coriolis.v1.SecretService/": ("gateway", "client", "operator"),
    "/coriolis.v1.BandwidthService/": ("gateway", "client", "operator"),
    "/coriolis.v1.ClusterService/": ("gateway", "operator"),
    "/coriolis.v1.ClusterService/GetLeader": ("gateway", "operator", "client", "agent", "coordinator"),
    "/coriolis.v1.AgentControlService/": ("agent",),
}


def _delegations(config: KeystoneConfig) -> Delegations:
    """Raises InvalidInput, also when the libraries are absent."""
    try:
        from coriolis.keystone.service_account import ServiceAccount
        from coriolis.keystone.trusts import Delegations
    except ModuleNotFoundError as missing:
        raise InvalidInput(f"[keystone]: {missing}; install coriolis-mesh[openstack]") from missing
    return Delegations(ServiceAccount(config))


class Coordinator:
    """One coordinator process."""

    def __init__(self, config: CoordinatorConfig) -> None:
        self._config = config
        self._id = config.id or default_id("coordinator")
        self._gate = LeaderGate()
        self._leader = cluster_pb2.GetLeaderResponse()
        self._driver: Driver | None = None
        self._metrics = Metrics()
        self._transfers = TransferCollector()
        self._metrics.registry.register(self._transfers)
        self._limit_gauge = self._metrics.gauge(
            "bandwidth_limit_bytes_per_s",
            "Limit in force now; +Inf is none; only the leader shows it",
            ("scope", "name"),
        )
        box = SecretBox.from_key_file(Path(config.secret_key_file))
        store = FileSecretStore(Path(config.secrets_dir), box)
        self._trusts = _delegations(config.keystone) if config.keystone else None
        barbican = config.secret_store == "barbican"
        self._vault = Vault(box, store, self._trusts, barbican=barbican)
        self._secrets = None if barbican else store

    async def serve(self) -> None:
        """Run until cancelled."""
        config = self._config
        tls = TlsFiles.in_directory(Path(config.tls_dir))
        server, port = build_server(config.listen, tls, [AccessInterceptor(MethodPolicy(POLICY))])
        self._register(server)
        host = config.listen.rpartition(":")[0]
        address = config.advertise or f"{host}:{port}"
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(connect(config.etcd))
            if config.metrics_listen:
                metrics_host, _, metrics_port = config.metrics_listen.rpartition(":")
                await stack.enter_async_context(
                    serve_metrics(metrics_host, int(metrics_port), self._measure(), self._unready)
                )
            await server.start()
            log.info("coordinator listens", id=self._id, address=address)
            me = cluster_pb2.Coordinator(id=self._id, address=address, version=__version__)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(
                        announce(
                            client,
                            keys.coordinator(self._id),
                            me.SerializeToString(),
                            ttl_s=COORDINATOR_TTL_S,
                            keepalive_s=COORDINATOR_KEEPALIVE_S,
                        )
                    )
                    group.create_task(self._follow_leader(client))
                    await Election(client, self._id, address).run(lambda term: self._lead(client, term))
            finally:
                await server.stop(STOP_GRACE_S)

    def _unready(self) -> list[str]:
        return [] if self._leader.address else ["no leader is known"]

    def _measure(self) -> Metrics:
        metrics = self._metrics
        leading = metrics.gauge("coordinator_leading", "1 while this coordinator leads")
        leading.set_function(lambda: float(self._gate.is_open))
        epoch = metrics.gauge("coordinator_epoch", "Epoch of the leader that this coordinator knows")
        epoch.set_function(lambda: float(self._leader.epoch))
        active = metrics.gauge("coordinator_migrations", "Migrations known to the leader")
        active.set_function(lambda: float(len(self._driver.migrations)) if self._driver else 0.0)
        return metrics

    def _register(self, server: object) -> None:
        gate = self._gate
        jobs = gated(job_pb2_grpc.JobServiceServicer, "jobs", gate, ("WatchMigration",))
        agents = gated(agent_control_pb2_grpc.AgentControlServiceServicer, "agents", gate, ("Session",))
        secrets = gated(endpoint_pb2_grpc.SecretServiceServicer, "secrets", gate)
        bandwidth = gated(bandwidth_pb2_grpc.BandwidthServiceServicer, "bandwidth", gate)
        cluster = gated(cluster_pb2_grpc.ClusterServiceServicer, "cluster", gate)
        leader = self._leader

        async def get_leader(self: object, request: object, context: object) -> cluster_pb2.GetLeaderResponse:
            return leader

        type(cluster).GetLeader = get_leader  # type: ignore[attr-defined]  # the one call every coordinator answers
        job_pb2_grpc.add_JobServiceServicer_to_server(jobs, server)  # type: ignore[arg-type]  # built by gated()
        agent_control_pb2_grpc.add_AgentControlServiceServicer_to_server(agents, server)  # type: ignore[arg-type]
        endpoint_pb2_grpc.add_SecretServiceServicer_to_server(secrets, server)  # type: ignore[arg-type]
        bandwidth_pb2_grpc.add_BandwidthServiceServicer_to_server(bandwidth, server)  # type: ignore[arg-type]
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(cluster, server)  # type: ignore[arg-type]

    async def _follow_leader(self, client: EtcdClient) -> None:
        """Keep the answer of GetLeader current."""
        while True:
            try:
                async with aclosing(leader_changes(client)) as changes:
                    async for record in changes:
                        self._leader.Clear()
                        if record is not None:
                            self._leader.coordinator_id = record.id
                            self._leader.address = record.address
                            self._leader.epoch = record.epoch
                        self._gate.leader_address = self._leader.address
            except Unavailable as down:
                log.warning("leader not known", reason=down.message)
                self._leader.Clear()

    async def _lead(self, client: EtcdClient, term: LeadershipTerm) -> None:
        """One term: load all jobs, open the services, run until the term is lost."""
        store = EtcdStore(client, term.epoch)
        board = ProgressBoard()
        directory = AgentDirectory()
        publisher = ChangePublisher(board)
        sessions = Sessions(self._id, term.epoch, self._vault, board)
        clock = SystemClock()
        driver = Driver(store, sessions, clock, publisher)
        sessions.driver = publisher.driver = self._driver = driver
        bandwidth = Bandwidth(store, driver, sessions, board, directory, clock, self._limit_gauge)
        sessions.initial_rates = bandwidth.initial_rates
        verifications = Verifications(driver)
        inspections = Inspections(driver, self._vault)
        surveys = Surveys(driver, self._vault)
        ready = asyncio.Event()
        self._transfers.watch(board, sessions.roads)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(follow_agents(client, directory))
                await bandwidth.load()
                group.create_task(driver.serve(ready))
                await ready.wait()
                group.create_task(check_lost_agents(driver, sessions, directory))
                group.create_task(sessions.roads.serve(driver.all_runs))
                group.create_task(Janitor(driver).serve())
                group.create_task(bandwidth.serve())
                if self._trusts is not None:
                    group.create_task(TrustSweep(self._trusts, self._vault, driver, clock).serve())
                self._gate.open(
                    {
                        "jobs": JobService(
                            store,
                            driver,
                            board,
                            directory,
                            self._vault,
                            verifications,
                            inspections,
                            surveys,
                            sessions.send,
                        ),
                        "agents": sessions,
                        "secrets": SecretService(self._secrets),
                        "bandwidth": BandwidthService(bandwidth, clock),
                        "cluster": ClusterService(client, directory, sessions, bandwidth.of_link),
                    }
                )
                log.info("leading", epoch=term.epoch, migrations=len(driver.migrations))
        finally:
            self._gate.close()
            self._driver = None
            self._limit_gauge.clear()
            self._transfers.watch(None, None)
            sessions.close()
            board.end_all_watchers()
            log.info("no longer leading", epoch=term.epoch)
