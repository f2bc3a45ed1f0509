"""Control sessions with agents: who is connected, what they offer, assignments down, updates up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc
import structlog

from coriolis.coordinator.agent_session import AgentSession
from coriolis.coordinator.assignments import assign_message, assignment_id, parse_assignment_id
from coriolis.coordinator.driver import Driver
from coriolis.coordinator.events import (
    AssignPart,
    EventsReported,
    InstanceCommitted,
    PartCompleted,
    PartFailed,
    PartStarted,
    Placed,
    ResourceRecorded,
    SinkListening,
    WithdrawPart,
)
from coriolis.coordinator.placement import Candidate, Need, NotPlaced, choose, last_agent, side_of
from coriolis.coordinator.progress import ProgressBoard
from coriolis.coordinator.roads import Roads
from coriolis.coordinator.vault import Vault
from coriolis.errors import CredentialsLost, Denied, InvalidInput, NotFound, StaleEpoch, StaleGeneration, from_code
from coriolis.model.job import InstanceRun, LedgerEntry, Migration, ResourceState
from coriolis.model.task import ASSIGNED, Role, Side, Task, TaskEvent, TaskStatus
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2_grpc, cluster_pb2, types_pb2
from coriolis.rpc.identity import Identity, peer_identity

log = structlog.get_logger(__name__)

SILENCE_S = 15.0
RETURN_GRACE_S = 30.0
"""How long a task waits for the agent that worked on it before, when others could take over."""

Context = grpc.aio.ServicerContext[Any, Any]
Agents = dict[Role, str]


class Sessions(agent_control_pb2_grpc.AgentControlServiceServicer):
    """The agents' side of the leader. Also the driver's way to them (``Dispatcher``)."""

    def __init__(self, coordinator_id: str, epoch: int, vault: Vault, board: ProgressBoard) -> None:
        self.epoch = epoch
        self._coordinator_id = coordinator_id
        self._vault = vault
        self._board = board
        self._sessions: dict[str, AgentSession] = {}
        self._gone_since: dict[str, float] = {}
        self._changed = asyncio.Event()
        self.driver: Driver | None = None
        self.initial_rates: Callable[[str], dict[str, Any]] | None = None
        """What the source part of a task may send from its beginning (coriolis.coordinator.bandwidth)."""
        self.roads = Roads(self.send, vault.relay_key)

    # -- Dispatcher ---------------------------------------------------------------------------------------------

    async def place(self, migration: Migration, run: InstanceRun, task: Task) -> Placed | NotPlaced:
        needs = {
            Side.ORIGIN: Need(migration.transfer.origin.type, await self._shown(migration, Side.ORIGIN)),
            Side.DESTINATION: Need(migration.transfer.destination.type, await self._shown(migration, Side.DESTINATION)),
        }
        candidates = [session.candidate() for session in self._sessions.values()]
        chosen = choose(run, task, needs, candidates)
        if chosen is None:
            return NotPlaced("no agent that serves this endpoint is connected")
        for role, agent_id in chosen.items():
            before = last_agent(run, side_of(task, role))
            if before and agent_id != before and self._may_return(before):
                return NotPlaced(f"agent {before}, which worked on this before, may come back")
        return self._with_road(run, task, needs, candidates, chosen)

    def _with_road(
        self, run: InstanceRun, task: Task, needs: Mapping[Side, Need], candidates: Sequence[Candidate], chosen: Agents
    ) -> Placed | NotPlaced:
        if Role.SINK not in chosen:
            return Placed(task.id, chosen)
        first = self.roads.placed(task, run.project_id, chosen)
        if isinstance(first, Placed) or not first.tell:
            return first
        # others near the same endpoints may reach each other where the best ones do not
        for absent in chosen.values():
            other = choose(run, task, needs, [each for each in candidates if each.agent_id != absent])
            found = self.roads.placed(task, run.project_id, other, sure=True) if other else first
            if isinstance(found, Placed):
                return found
        return first

    async def _shown(self, migration: Migration, side: Side) -> dict[str, Any]:
        return await self._vault.connection_info(migration, side)

    def _may_return(self, agent_id: str) -> bool:
        since = self._gone_since.setdefault(agent_id, asyncio.get_running_loop().time())
        return asyncio.get_running_loop().time() - since < RETURN_GRACE_S

    async def agents_changed(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def assign(self, migration: Migration, run: InstanceRun, command: AssignPart) -> bool:
        session = self._sessions.get(command.agent_id)
        if session is None:
            return False
        rates = self.initial_rates(command.task_id) if self.initial_rates and command.role is Role.SOURCE else None
        task = run.task(command.task_id)
        if task.road is not None and task.road.meeting:
            self.roads.hand_out_keys(self._driver.all_runs())
        key = self._vault.relay_key(task.id, command.generation)
        message = assign_message(migration, run, command, self.epoch, self._identity_of, rates=rates, relay_key=key)
        return session.send(pb.SessionResponse(assign=message))

    def of_agent(self, agent_id: str) -> AgentSession | None:
        """The agent's session now."""
        return self._sessions.get(agent_id)

    def send(self, agent_id: str, message: pb.SessionResponse) -> bool:
        """False without a session, or when the agent does not read."""
        session = self._sessions.get(agent_id)
        return session is not None and session.send(message)

    def _identity_of(self, agent_id: str) -> str:
        session = self._sessions.get(agent_id)
        return str(session.identity) if session else ""

    def withdraw(self, command: WithdrawPart) -> None:
        session = self._sessions.get(command.agent_id)
        if session is not None:
            wanted = assignment_id(command.task_id, command.role, command.generation)
            session.send(_withdrawal(wanted, command.reason))

    def connected(self) -> dict[str, cluster_pb2.Agent]:
        """Agents with a session, by id, with their load filled in."""
        agents = {}
        for agent_id, session in self._sessions.items():
            agent = cluster_pb2.Agent()
            agent.CopyFrom(session.agent)
            agent.connected = True
            agent.running_tasks = session.running
            agents[agent_id] = agent
        return agents

    # -- the session --------------------------------------------------------------------------------------------

    @property
    def _driver(self) -> Driver:
        if self.driver is None:
            raise StaleEpoch("this coordinator is not ready to lead")
        return self.driver

    async def Session(
        self, request_iterator: AsyncIterator[pb.SessionRequest], context: Context
    ) -> AsyncIterator[pb.SessionResponse]:
        identity = peer_identity(context)
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidInput("a session begins with hello")
        hello = first.hello
        if hello.agent.id != identity.id:
            raise Denied(f"certificate of {identity.id} cannot speak for {hello.agent.id}")
        if hello.highest_epoch > self.epoch:
            raise StaleEpoch(f"the agent has obeyed epoch {hello.highest_epoch}, this coordinator leads {self.epoch}")
        session = self._open(hello.agent, identity)
        try:
            session.send(pb.SessionResponse(welcome=pb.Welcome(epoch=self.epoch, coordinator_id=self._coordinator_id)))
            # no TaskGroup around a yield: it would cancel gRPC's own task, and the reason would never reach the agent
            reader = asyncio.create_task(self._read(session, hello, request_iterator))
            try:
                while (message := await session.outbound.get()) is not None:
                    yield message
                if reader.done():
                    reader.result()
            finally:
                reader.cancel()
                await asyncio.wait([reader])
        finally:
            self._close(session)

    def _open(self, agent: cluster_pb2.Agent, identity: Identity) -> AgentSession:
        session = AgentSession(agent, identity)
        old = self._sessions.get(agent.id)
        self._sessions[agent.id] = session
        if old is not None:
            old.send_end()
        self._gone_since.pop(agent.id, None)
        self.roads.opened(session.peer())
        self._signal()
        log.info("agent connected", agent=agent.id, site=agent.site)
        return session

    def _close(self, session: AgentSession) -> None:
        if self._sessions.get(session.agent.id) is session:
            del self._sessions[session.agent.id]
            self._gone_since[session.agent.id] = asyncio.get_running_loop().time()
            self.roads.closed(session.agent.id)
            self._signal()
            log.info("agent disconnected", agent=session.agent.id)

    def close(self) -> None:
        """End all sessions: another coordinator leads."""
        for session in list(self._sessions.values()):
            session.send_end()

    def drop_silent(self) -> None:
        """End sessions whose agent said nothing for 15 s although it must every 3: it hangs, or its host is gone."""
        now = asyncio.get_running_loop().time()
        for session in list(self._sessions.values()):
            if now - session.last_heard > SILENCE_S:
                log.warning("agent is silent", agent=session.agent.id, seconds=round(now - session.last_heard))
                self._close(session)
                session.send_end()

    def _signal(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _read(self, session: AgentSession, hello: pb.Hello, messages: AsyncIterator[pb.SessionRequest]) -> None:
        try:
            await self._reconcile(session, hello)
            async for message in messages:
                session.last_heard = asyncio.get_running_loop().time()
                match message.WhichOneof("message"):
                    case "update":
                        await self._update(session, message.update)
                    case "progress":
                        await self._progress(message.progress)
                    case "probe_results":
                        self.roads.take_results(session.agent.id, message.probe_results)
                        self._signal()
                    case _:
                        pass
        except StaleEpoch:
            self._driver.lost.set()
        finally:
            session.send_end()

    async def _reconcile(self, session: AgentSession, hello: pb.Hello) -> None:
        """Compare what the agent holds with what the store says it was given."""
        held = {each.assignment_id for each in hello.held}
        expected = set()
        for run in self._driver.all_runs():
            for task in run.tasks:
                for part in task.parts:
                    if task.status not in ASSIGNED or part.agent_id != session.agent.id or part.done:
                        continue
                    if not handed_out(task, part.role):
                        continue
                    wanted = assignment_id(task.id, part.role, task.generation)
                    expected.add(wanted)
                    if wanted not in held:
                        await self._lost_assignment(run, task, part.role)
                    elif task.status is TaskStatus.CANCELLING:
                        # the first withdrawal may have been lost with a session or a leader
                        session.send(_withdrawal(wanted, "cancelled by the caller"))
        for stray in held - expected:
            session.send(_withdrawal(stray, "the task was given to another"))

    async def _lost_assignment(self, run: InstanceRun, task: Task, role: Role) -> None:
        await self._driver.feed(
            (run.migration_id, run.index),
            PartFailed(task.id, task.generation, role, "task_died", "the agent was restarted", True, True),
        )

    async def _update(self, session: AgentSession, update: pb.TaskUpdate) -> None:
        task_id, role, generation = parse_assignment_id(update.assignment_id)
        try:
            key = self._driver.key_of(task_id)
            await self._apply(key, task_id, role, generation, update)
        except (NotFound, StaleGeneration) as ignored:
            log.info("update of a replaced assignment ignored", assignment=update.assignment_id, reason=str(ignored))
        session.running = sum(
            1
            for run in self._driver.all_runs()
            for task in run.tasks
            if task.status in ASSIGNED
            for part in task.parts
            if part.agent_id == session.agent.id and not part.done
        )
        session.send(pb.SessionResponse(ack=pb.UpdateAck(assignment_id=update.assignment_id, state=update.state)))

    async def _apply(
        self, key: tuple[str, int], task_id: str, role: Role, generation: int, update: pb.TaskUpdate
    ) -> None:
        feed = self._driver.feed
        events = events_of(update.events)
        match update.state:
            case "STARTED":
                await feed(key, PartStarted(task_id, generation, role, update.process_id))
            case "LISTENING":
                await feed(key, SinkListening(task_id, generation, update.address))
            case "COMPLETED":
                result = json.loads(update.result_json or "{}")
                await feed(key, PartCompleted(task_id, generation, role, result, events))
            case "FAILED":
                error = from_code(update.error_code, update.error_message)
                if isinstance(error, CredentialsLost):
                    self._vault.refused(self._driver.migration_of(task_id))
                moved = self._board.moved_since_last_asked(key[0], task_id)
                await feed(
                    key,
                    PartFailed(task_id, generation, role, error.code, error.message, error.retryable, moved, events),
                )
            case unknown:
                raise InvalidInput(f"task state {unknown!r} is unknown")

    async def _progress(self, batch: pb.ProgressBatch) -> None:
        for disk in batch.disks:
            try:
                key = self._driver.key_of(disk.task_id)
            except NotFound:
                continue
            self.roads.moved(self._driver.run_of(disk.task_id).task(disk.task_id), disk)
            self._board.report(key[0], disk)
        for each in batch.events:
            task_id, _, generation = parse_assignment_id(each.assignment_id)
            try:
                await self._driver.feed(
                    self._driver.key_of(task_id), EventsReported(task_id, generation, events_of(each.events))
                )
            except NotFound:
                continue

    # -- calls during a task ------------------------------------------------------------------------------------

    def _current(self, context: Context, assignment: str) -> tuple[InstanceRun, Task, Role]:
        """The run, task and role of an assignment that the calling agent holds now; StaleGeneration otherwise."""
        agent_id = peer_identity(context).id
        task_id, role, generation = parse_assignment_id(assignment)
        run = self._driver.run_of(task_id)
        task = run.task(task_id)
        part = task.part(role)
        if part is None or part.agent_id != agent_id or task.generation != generation or task.status not in ASSIGNED:
            raise StaleGeneration("the assignment is not this agent's any more")
        return run, task, role

    async def ResolveConnection(
        self, request: pb.ResolveConnectionRequest, context: Context
    ) -> pb.ResolveConnectionResponse:
        _, task, role = self._current(context, request.assignment_id)
        migration = self._driver.migration_of(task.id)
        info = await self._vault.connection_info(migration, side_of(task, role))
        return pb.ResolveConnectionResponse(connection_info_json=json.dumps(info))

    async def RecordResource(self, request: pb.RecordResourceRequest, context: Context) -> pb.RecordResourceResponse:
        run, task, _ = self._current(context, request.assignment_id)
        entry = LedgerEntry(request.kind, request.name, request.side, ResourceState(request.state), request.cloud_id)
        await self._driver.feed((run.migration_id, run.index), ResourceRecorded(task.id, request.generation, entry))
        return pb.RecordResourceResponse()

    async def CommitInstance(self, request: pb.CommitInstanceRequest, context: Context) -> pb.CommitInstanceResponse:
        run, task, _ = self._current(context, request.assignment_id)
        after = await self._driver.feed(
            (run.migration_id, run.index), InstanceCommitted(task.id, request.generation, request.instance_id)
        )
        return pb.CommitInstanceResponse(instance_id=after.committed_instance)


def _withdrawal(assignment: str, reason: str) -> pb.SessionResponse:
    return pb.SessionResponse(withdraw=pb.Withdraw(assignment_id=assignment, reason=reason))


def handed_out(task: Task, role: Role) -> bool:
    """A source is assigned only when its sink listens."""
    sink = task.part(Role.SINK)
    return role is not Role.SOURCE or (sink is not None and bool(sink.address))


def events_of(messages: Any) -> tuple[TaskEvent, ...]:
    """Task events from the wire."""
    return tuple(
        TaskEvent(event.id, event.level, event.message[:1024], event.created_at)
        for event in messages
        if isinstance(event, types_pb2.TaskEvent)
    )
