"""The control session: find the leader, say hello, take assignments, send updates. Survives any loss of the leader."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import structlog

from coriolis.agent.assignment import Assignment, RoadOrder
from coriolis.agent.child_protocol import Rates
from coriolis.agent.journal import FenceJournal
from coriolis.agent.probe import probe_peers
from coriolis.agent.relay import Relay
from coriolis.agent.supervisor import Supervisor
from coriolis.errors import CoriolisError, NotLeader, StaleEpoch, StaleGeneration, TimedOut, Unavailable
from coriolis.rpc.channel import open_channel
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2_grpc, cluster_pb2
from coriolis.rpc.status import to_error
from coriolis.rpc.tls import TlsFiles

log = structlog.get_logger(__name__)

HEARTBEAT_S = 3.0
BATCH_S = 1.0
WELCOME_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 15.0
RETRY_MIN_S = 0.3
RETRY_MAX_S = 3.0
OUTBOUND_MESSAGES = 10_000


class ControlSession:
    """One per agent; ``leader`` gives the address of the current leader or an empty string."""

    def __init__(
        self,
        agent: cluster_pb2.Agent,
        tls: TlsFiles,
        journal: FenceJournal,
        leader: Callable[[], str],
        relay: Relay,
    ) -> None:
        self._agent = agent
        self._tls = tls
        self._journal = journal
        self._leader = leader
        self._relay = relay
        self._stub: agent_control_pb2_grpc.AgentControlServiceAsyncStub | None = None
        self._connected = asyncio.Event()
        self._outbound: asyncio.Queue[pb.SessionRequest] = asyncio.Queue(OUTBOUND_MESSAGES)
        self.supervisor: Supervisor | None = None

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    # -- Coordinator (for the supervisor) -----------------------------------------------------------------------

    async def call(self, assignment: Assignment, method: str, arguments: dict[str, str]) -> dict[str, Any]:
        """Ask the leader; waits through elections. A refusal of the leader is final."""
        while True:
            await self._connected.wait()
            try:
                return await self._call_once(assignment, method, arguments)
            except grpc.aio.AioRpcError as failed:
                error = to_error(failed)
                if not isinstance(error, Unavailable | TimedOut | StaleEpoch):
                    raise error from failed
                await asyncio.sleep(RETRY_MIN_S)

    async def _call_once(self, assignment: Assignment, method: str, arguments: dict[str, str]) -> dict[str, Any]:
        stub = self._stub
        if stub is None:
            await asyncio.sleep(RETRY_MIN_S)
            return await self.call(assignment, method, arguments)
        held, generation = assignment.assignment_id, assignment.generation
        if method == "connection_info":
            resolve = pb.ResolveConnectionRequest(assignment_id=held, generation=generation)
            answer = await stub.ResolveConnection(resolve, timeout=CALL_TIMEOUT_S)
            info: dict[str, Any] = json.loads(answer.connection_info_json)
            return info
        if method == "record":
            record = pb.RecordResourceRequest(
                assignment_id=held,
                generation=generation,
                kind=arguments["kind"],
                name=arguments["name"],
                state=arguments["state"],
                cloud_id=arguments["cloud_id"],
                side=arguments["side"],
            )
            await stub.RecordResource(record, timeout=CALL_TIMEOUT_S)
            return {}
        commit = pb.CommitInstanceRequest(
            assignment_id=held, generation=generation, instance_id=arguments["instance_id"]
        )
        await stub.CommitInstance(commit, timeout=CALL_TIMEOUT_S)
        return {}

    # -- updates ------------------------------------------------------------------------------------------------

    def report(self, assignment: Assignment, state: str, fields: dict[str, Any]) -> None:
        """Queue an update. Outcomes lost with a session are reported again by ``report_again``."""
        events = self.supervisor.events.pop(assignment.assignment_id, []) if self.supervisor else []
        update = pb.TaskUpdate(
            assignment_id=assignment.assignment_id,
            generation=assignment.generation,
            state=state,
            events=events,
            **fields,
        )
        if state in ("COMPLETED", "FAILED"):
            # the last numbers first: who sees the end shall see all of it
            self._queue_progress()
        self._queue(pb.SessionRequest(update=update))

    def _queue(self, message: pb.SessionRequest) -> None:
        if self._connected.is_set() and not self._outbound.full():
            self._outbound.put_nowait(message)

    # -- the loop -----------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Keep a session with whoever leads, until cancelled."""
        wait = RETRY_MIN_S
        while True:
            address = self._leader()
            if address:
                try:
                    await self._session(address)
                    wait = RETRY_MIN_S
                except* (grpc.aio.AioRpcError, CoriolisError) as failed:
                    self._log_failure(address, failed.exceptions[0])
            # jitter spreads a thousand agents over the first second of a new leader
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(RETRY_MAX_S, wait * 1.5)

    def _log_failure(self, address: str, failed: BaseException) -> None:
        error = to_error(failed) if isinstance(failed, grpc.aio.AioRpcError) else failed
        level = log.info if isinstance(error, NotLeader | Unavailable) else log.warning
        level("no session", leader=address, reason=str(error))

    async def _session(self, address: str) -> None:
        assert self.supervisor is not None
        async with open_channel(address, self._tls, expected_role="coordinator") as channel:
            stub = agent_control_pb2_grpc.AgentControlServiceStub(channel)
            self._outbound = asyncio.Queue(OUTBOUND_MESSAGES)
            stream = stub.Session(self._requests(self._outbound))
            messages = stream.__aiter__()
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                first = await anext(messages, None)
            if first is None or first.WhichOneof("message") != "welcome":
                raise Unavailable("the coordinator closed the session")
            self._journal.admit_leader(first.welcome.epoch)
            log.info("session", coordinator=first.welcome.coordinator_id, epoch=first.welcome.epoch)
            self._stub = stub
            self._connected.set()
            try:
                self.supervisor.report_again()
                async with asyncio.TaskGroup() as group:
                    beat = group.create_task(self._beat())
                    async for message in messages:
                        if message.WhichOneof("message") == "probe_peers":
                            group.create_task(self._probe(message.probe_peers))
                        self._take(message)
                    beat.cancel()
            finally:
                self._connected.clear()
                self._stub = None

    async def _requests(self, outbound: asyncio.Queue[pb.SessionRequest]) -> AsyncIterator[pb.SessionRequest]:
        assert self.supervisor is not None
        held = [
            pb.HeldAssignment(assignment_id=each.assignment_id, generation=each.generation)
            for each in self.supervisor.held()
        ]
        yield pb.SessionRequest(hello=pb.Hello(agent=self._agent, highest_epoch=self._journal.fence.epoch, held=held))
        while True:
            yield await outbound.get()

    def _take(self, message: pb.SessionResponse) -> None:
        assert self.supervisor is not None
        match message.WhichOneof("message"):
            case "assign":
                self._assign(message.assign)
            case "withdraw":
                self.supervisor.withdraw(message.withdraw.assignment_id)
            case "rates":
                rates = Rates(dict(message.rates.bytes_per_s), message.rates.unlimited)
                self.supervisor.set_rates(message.rates.assignment_id, rates)
            case "ack":
                if message.ack.state in ("COMPLETED", "FAILED"):
                    self.supervisor.acknowledged(message.ack.assignment_id)
            case "relay_sessions":
                self._relay.set_keys(message.relay_sessions.keys)
            case _:
                pass

    async def _probe(self, wish: pb.ProbePeers) -> None:
        self._queue(pb.SessionRequest(probe_results=await probe_peers(wish.targets, self._tls)))

    def _assign(self, message: pb.Assign) -> None:
        assert self.supervisor is not None
        assignment = Assignment(
            assignment_id=message.assignment_id,
            project_id=message.project_id,
            migration_id=message.migration_id,
            task_id=message.task_id,
            task_type=message.task_type,
            instance=message.instance,
            instance_index=message.instance_index,
            role=message.role,
            generation=message.generation,
            epoch=message.epoch,
            provider=message.provider,
            input=json.loads(message.input_json),
            peer_address=message.peer_address,
            peer_identity=message.peer_identity,
            allowed_identity=message.allowed_identity,
            road=RoadOrder(message.road.path or "dialled", message.road.relay_address, message.road.relay_key),
        )
        try:
            self._journal.admit_task(message.epoch, f"{message.task_id}:{message.role}", message.generation)
        except (StaleEpoch, StaleGeneration) as stale:
            log.warning("assignment refused", task=message.task_type, reason=stale.message)
            return
        self.supervisor.assign(assignment)

    async def _beat(self) -> None:
        """One progress batch a second at most; a heartbeat when there is nothing to say."""
        quiet = 0.0
        while True:
            await asyncio.sleep(BATCH_S)
            quiet += BATCH_S
            if self._queue_progress():
                quiet = 0.0
            elif quiet >= HEARTBEAT_S:
                self._queue(pb.SessionRequest(heartbeat=pb.Heartbeat()))
                quiet = 0.0

    def _queue_progress(self) -> bool:
        """Queue what has been reported since the last time; False when there is nothing."""
        if self.supervisor is None or not self._connected.is_set():
            return False
        disks = list(self.supervisor.progress.values())
        events = [pb.AssignmentEvents(assignment_id=key, events=lines) for key, lines in self.supervisor.events.items()]
        self.supervisor.progress.clear()
        self.supervisor.events.clear()
        if not disks and not events:
            return False
        self._queue(pb.SessionRequest(progress=pb.ProgressBatch(disks=disks, events=events)))
        return True
