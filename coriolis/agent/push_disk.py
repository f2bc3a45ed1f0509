"""The busy part of sending a disk: lanes that come and go, acks, and who is given what."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc
import msgspec
import structlog

from coriolis.agent.lanes.host_link import HostLink
from coriolis.agent.lanes.messages import CloseLane, FromHost, LaneDown, LaneUp, OpenLane, SendBatch, Sent
from coriolis.errors import CoriolisError, TimedOut, Unavailable, from_code
from coriolis.rpc.status import to_error
from coriolis.transfer.cells import CELL_BYTES, Run
from coriolis.transfer.codec import HEADER_BYTES, decode_acks
from coriolis.transfer.compression import Compression, Sample
from coriolis.transfer.lane_count import LONG_PATH_S, MIDDLE_PATH_S, LaneCount
from coriolis.transfer.pace import Pace
from coriolis.transfer.sender import Sender

log = structlog.get_logger(__name__)

STALL_S = 60.0
LANE_STALL_S = 15.0
"""A lane that was given something and reports nothing for this long is cut while others get on."""
MAX_FAILURES_IN_A_ROW = 8
"""Lanes lost without a single cell received in between; then the attempt fails and is assigned anew."""
RETRY_S = 0.2
MAX_RETRY_S = 3.0
RECHECK_S = 0.25
"""Longest time until who waits for its turn notices another rate."""
STEER_S = 0.5
BATCH_BYTES = 8 << 20
MIN_LANE_BYTES, MAX_LANE_BYTES = 2 << 20, 24 << 20
"""Given to one lane at once and not yet received: enough for its connection, little enough to lose with it."""

_LANE_NUMBERS = itertools.count()
"""Disks of a task share hosts, so a lane's number is unique in the process."""

OpenAcks = Callable[[], "grpc.aio.UnaryStreamCall[bytes, bytes]"]


class Offer(msgspec.Struct, frozen=True):
    """Ports of a sink: for direct lanes (0: none), and further ones for gRPC lanes."""

    direct_port: int = 0
    lane_ports: tuple[int, ...] = ()


class Route(msgspec.Struct, frozen=True):
    """How lanes reach the sink: they take turns at ``addresses``. ``rtt_s``: measured round-trip time, seconds."""

    transport: str
    addresses: tuple[str, ...]
    peer: str
    rtt_s: float


class Limits(msgspec.Struct, frozen=True):
    """What bounds a disk's lanes here: lanes at most, processor cores that compression may use."""

    lanes: int
    cores: int


class _Lane(msgspec.Struct):
    link: HostLink
    up: bool = False
    heard_s: float = 0.0


class PushDisk:
    """Sends what ``sender`` asks for until everything was received, no faster than ``pace``."""

    def __init__(
        self,
        disk_id: str,
        sender: Sender,
        links: Sequence[HostLink],
        route: Route,
        limits: Limits,
        open_acks: OpenAcks,
        pace: Pace,
        on_durable: Callable[[Sequence[Run]], None],
        come_near: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """``come_near``: of a disk that is streamed; returns when a byte of it can be read soon."""
        self.compression = Compression(limits.cores)
        self.lane_count = LaneCount(route.rtt_s, limits.lanes)
        self._disk_id, self._sender, self._links, self._route = disk_id, sender, links, route
        self._open_acks, self._pace, self._on_durable, self._come_near = open_acks, pace, on_durable, come_near
        self._lanes: dict[int, _Lane] = {}
        self._failures = 0
        self._given_bytes = 0
        self._turn: float | None = None
        self._turn_bytes = 0
        self._overtaken_bytes = 0
        self._reopen_at_s = 0.0
        self._paced = False
        self._last_ack_s = 0.0
        self._packing_s = self._work_s = self._send_s = 0.0
        self._changed = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def lanes_up(self) -> int:
        return sum(lane.up for lane in self._lanes.values())

    async def run(self) -> None:
        """Return when the sink has received everything. Raises TimedOut without acks for 60 s, what reading failed
        with, Corrupt, StaleGeneration, Unavailable when lanes break again and again."""
        self._last_ack_s = time.monotonic()
        for link in self._links:
            link.on_end.append(self._host_ended)
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(each) for each in (self._acks(), self._steer(), self._watch_stall())]
            feeding = group.create_task(self._feed())
            await asyncio.wait([feeding, self._failed], return_when=asyncio.FIRST_COMPLETED)
            for task in (*background, feeding):
                task.cancel()
            if self._failed.done():
                self._close_lanes(abort=True)
                self._failed.result()
        self._close_lanes(abort=False)

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    def _close_lanes(self, *, abort: bool) -> None:
        for number, lane in self._lanes.items():
            lane.link.takers.pop(number, None)
            lane.link.send(CloseLane(number, abort))
        self._lanes.clear()

    # -- lanes --------------------------------------------------------------------------------------------------

    def _adjust_lanes(self) -> None:
        wanted = self.lane_count.lanes
        while len(self._lanes) < wanted and not self._sender.exhausted:
            self._open_lane()
        for number in [*self._lanes][wanted:]:
            if self._sender.lane_cost(number) == 0:
                lane = self._lanes.pop(number)
                lane.link.takers.pop(number, None)
                lane.link.send(CloseLane(number))

    def _open_lane(self) -> None:
        number = next(_LANE_NUMBERS)
        link = min(self._links, key=lambda each: sum(lane.link is each for lane in self._lanes.values()))
        self._lanes[number] = _Lane(link, heard_s=time.monotonic())
        link.takers[number] = self._take
        route = self._route
        address = route.addresses[number % len(route.addresses)]
        opening = OpenLane(number, self._disk_id, route.transport, address, route.peer, route.rtt_s >= MIDDLE_PATH_S)
        link.send(opening)

    def _take(self, message: FromHost) -> None:
        match message:
            case Sent():
                before = self._sender.in_flight_bytes
                self._sent(message)
                if self._sender.in_flight_bytes == before:
                    return  # no ack has come for it: there is no more room than before
            case LaneUp(number):
                self._lanes[number].up = True
                self._lanes[number].heard_s = time.monotonic()
            case LaneDown(number, code, text, disk_failed):
                self._lane_down(number, from_code(code or Unavailable.code, text or "a lane ended"), disk_failed)
        self._changed.set()

    def _sent(self, sent: Sent) -> None:
        if sent.lane in self._lanes:
            self._lanes[sent.lane].heard_s = time.monotonic()
        durable: list[Run] = []
        for cell in sent.cells:
            durable += self._sender.reported(
                sent.lane,
                cell.cell,
                cell.digest or None,
                payload_bytes=cell.payload_bytes,
                wire_bytes=cell.wire_bytes,
                read_bytes=cell.read_bytes,
                packed=cell.packed,
            )
        if durable:
            self._on_durable(durable)
        self._packing_s += sent.packing_s
        self._work_s += sent.work_s
        self._send_s += sent.send_s

    def _lane_down(self, number: int, error: CoriolisError, disk_failed: bool) -> None:
        lane = self._lanes.pop(number, None)
        if lane is None:
            return
        lane.link.takers.pop(number, None)
        idle = lane.up and not self._sender.lane_cost(number)
        self._sender.lane_lost(number)
        if disk_failed or not error.retryable:
            self._fail(error)
            return
        if not idle:  # the sink ends lanes that bring nothing for a minute
            self._failures += 1
            log.warning("lane lost, its cells are sent again", disk=self._disk_id, lane=number, reason=error.message)
        if self._failures > MAX_FAILURES_IN_A_ROW:
            self._fail(error)
            return
        delay = min(MAX_RETRY_S, RETRY_S * 2 ** max(0, self._failures - 1))
        asyncio.get_running_loop().call_later(delay, self._changed.set)
        self._reopen_at_s = time.monotonic() + delay

    def _host_ended(self) -> None:
        self._fail(Unavailable("a lane host's process ended"))

    # -- work ---------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        sender, loop = self._sender, asyncio.get_running_loop()
        while not sender.exhausted:
            if time.monotonic() >= self._reopen_at_s:
                self._adjust_lanes()
            self._changed.clear()
            # a stream may take hours to the next cell: what was not given yet cannot stall
            if self._come_near is not None and (cell := sender.next_cell) is not None:
                try:
                    await self._come_near(cell * CELL_BYTES)
                except CoriolisError as error:
                    self._fail(error)
                    return
            wait = self._give_work()
            if sender.exhausted:
                return
            timer = None if wait is None else loop.call_later(wait, self._changed.set)
            try:
                await self._changed.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _give_work(self) -> float | None:
        """Fill the lanes; returns after how many seconds to try again at the latest, None: when something happens."""
        up = [(self._sender.lane_cost(number), number) for number, lane in self._lanes.items() if lane.up]
        if not up:
            return 1.0
        most = max(MIN_LANE_BYTES, min(MAX_LANE_BYTES, 2 * MAX_LANE_BYTES // len(up)))
        self._paced = False
        progress = True
        while progress:
            progress = False
            for _, number in sorted(up):
                # room for a whole batch, or nothing left to do: each message costs as much as hashing a cell
                if 0 < self._sender.lane_cost(number) > most - min(BATCH_BYTES, most // 2):
                    continue
                now = time.monotonic()
                wait = self._wait_for_turn(now)
                if wait:
                    self._paced = True
                    # who waits for its turn cannot be acknowledged: a low limit, or a pause, is no stall
                    self._last_ack_s = now
                    return min(wait, RECHECK_S)
                progress |= self._give(number, now)
        return None

    def _give(self, number: int, now: float) -> bool:
        taken, self._turn, self._turn_bytes = self._turn_bytes, None, 0
        batch = self._sender.assign(number, self._batch_bytes())
        if batch is None:
            self._overtaken_bytes -= taken
            return False
        given = sum(run.count for run in batch.data) * CELL_BYTES
        level = self.compression.level_for(self._given_bytes)
        self._given_bytes += given
        self._overtaken_bytes += int(given * self._wire_share()) + HEADER_BYTES * len(batch.zero) - taken
        lane = self._lanes[number]
        lane.heard_s = max(lane.heard_s, now)
        cells = tuple((run.first, run.count) for run in batch.data)
        zeros = tuple((run.first, run.count) for run in batch.zero)
        lane.link.send(SendBatch(number, cells, zeros, level))
        return True

    def _batch_bytes(self) -> int:
        return BATCH_BYTES if self._pace.rate is None else CELL_BYTES

    def _wait_for_turn(self, now: float) -> float:
        """Seconds until the next batch may go. A turn is taken for what a batch is expected to be on the wire; what it
        really was is made good with the next turn."""
        if self._turn is None:
            expected = int(self._batch_bytes() * self._wire_share())
            paid = max(0, expected + self._overtaken_bytes)
            self._turn = self._pace.take_turn(paid, now)
            self._overtaken_bytes += expected - paid
            self._turn_bytes = expected
        return self._pace.wait_s(self._turn, now)

    def _wire_share(self) -> float:
        stats = self._sender.stats
        return stats.wire_bytes / stats.read_bytes if stats.read_bytes > BATCH_BYTES else 1.0

    # -- acks ---------------------------------------------------------------------------------------------------

    async def _acks(self) -> None:
        """Take acks; a broken stream is opened again and begins with all that the sink knows."""
        wait = RETRY_S
        while True:
            try:
                async for message in self._open_acks():
                    self._on_acks(message)
                    wait = RETRY_S
                error: CoriolisError = Unavailable("the sink ended the stream of acks")
            except grpc.aio.AioRpcError as failed:
                error = to_error(failed)
            except CoriolisError as wrong:
                self._fail(wrong)
                return
            if not error.retryable:
                self._fail(error)
                return
            await asyncio.sleep(wait)
            wait = min(MAX_RETRY_S, wait * 2)

    def _on_acks(self, message: bytes) -> None:
        self._last_ack_s = time.monotonic()
        before = self._sender.covered_bytes()
        durable: list[Run] = []
        for ack in decode_acks(message):
            durable += self._sender.on_ack(ack)
        if durable:
            self._on_durable(durable)
        if self._sender.covered_bytes() > before:
            self._failures = 0
        self._changed.set()

    # -- watching -----------------------------------------------------------------------------------------------

    async def _watch_stall(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, STALL_S / 4))
            now = time.monotonic()
            waiting = self._sender.in_flight_bytes or self._sender.undurable_sent_bytes
            if waiting and now - self._last_ack_s > STALL_S:
                self._fail(TimedOut(f"disk {self._disk_id}: no acknowledgement for {STALL_S:.0f} s"))
                return
            if not waiting:
                self._last_ack_s = now
            for number in self._stalled(now):
                self._lanes[number].link.send(CloseLane(number, abort=True))
                self._lane_down(number, Unavailable(f"nothing moved for {LANE_STALL_S:.0f} s"), False)

    def _stalled(self, now: float) -> list[int]:
        """Lanes that hold work and do nothing while others get on, or have nothing left; and those that never come
        up. When all of them wait, it is the sink that is slow."""
        stalled = []
        for number, lane in self._lanes.items():
            if now - lane.heard_s <= LANE_STALL_S:
                continue
            others = [(each, self._sender.lane_cost(n)) for n, each in self._lanes.items() if n != number and each.up]
            moving = all(not cost for _, cost in others) or any(each.heard_s > lane.heard_s for each, _ in others)
            if not lane.up or (self._sender.lane_cost(number) and moving):
                stalled.append(number)
        return stalled

    async def _steer(self) -> None:
        """Adapt lanes and compression to what was measured."""
        last, before = time.monotonic(), msgspec.structs.replace(self._sender.stats)
        while True:
            await asyncio.sleep(STEER_S)
            now, stats = time.monotonic(), msgspec.structs.replace(self._sender.stats)
            sample = Sample(
                now - last,
                stats.sent_bytes - before.sent_bytes,
                stats.wire_bytes - before.wire_bytes,
                stats.packed_bytes - before.packed_bytes,
                stats.unpacked_bytes - before.unpacked_bytes,
                self._packing_s,
                self._work_s,
                self._send_s,
            )
            last, before = now, stats
            self._packing_s = self._work_s = self._send_s = 0.0
            level = self.compression.level
            if self.compression.observe(sample, limited=self._paced, lanes=max(1, self.lanes_up)) != level:
                log.info("compression", disk=self._disk_id, level=self.compression.level)
            starved = sample.send_s < 0.5 * (sample.send_s + sample.work_s)
            lanes = self.lane_count.lanes
            # reading or compressing bounds the rate: more connections would not help
            limited = self._paced or (starved and self._route.rtt_s < LONG_PATH_S)
            if self.lane_count.observe(now, self._sender.covered_bytes(), limited=limited) != lanes:
                log.info("lanes", disk=self._disk_id, lanes=self.lane_count.lanes)
            self._changed.set()
