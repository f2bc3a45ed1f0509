"""Election of the leading coordinator: one key in etcd under a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import structlog

from coriolis.clock import Clock, SystemClock
from coriolis.coordinator.keys import LEADER
from coriolis.coordinator.leadership import LeadershipTerm, encode_record, fence, read_leader
from coriolis.coordinator.timeouts import Timeouts, validate
from coriolis.errors import CoriolisError, NotFound, StaleEpoch, Unavailable
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.failures import Compacted
from coriolis.etcd.lease import Lease, hold_lease
from coriolis.etcd.txn import Delete, Get, Put, Txn, absent, modified_at
from coriolis.etcd.watch import watch

RETRY_PAUSE_S = 0.5
RESIGN_TIMEOUT_S = 2.0

Lead = Callable[[LeadershipTerm], Coroutine[Any, Any, None]]

_SYSTEM_CLOCK = SystemClock()
_log = structlog.get_logger(__name__)


class Election:
    """One coordinator's part in the election."""

    def __init__(
        self,
        client: EtcdClient,
        coordinator_id: str,
        address: str,
        timeouts: Timeouts | None = None,
        *,
        clock: Clock = _SYSTEM_CLOCK,
    ) -> None:
        """``address`` (host:port) is what others dial. InvalidInput for timeouts that are not safe."""
        self._client = client
        self._id = coordinator_id
        self._record = encode_record(coordinator_id, address)
        self._timeouts = timeouts if timeouts is not None else Timeouts()
        self._clock = clock
        validate(self._timeouts)

    async def run(self, lead: Lead) -> None:
        """Campaign for ever; while leading run ``lead(term)``, which is cancelled and awaited when the term
        is lost.

        ``lead`` raising StaleEpoch counts as a lost term. When it returns we resign and return; any other
        error of it is raised after resigning. Cancelling ``run`` ends ``lead`` and resigns, so that a
        successor need not wait for the TTL. An etcd that is away is waited for; Denied and the like are
        raised.
        """
        while True:
            work: asyncio.Task[None] | None = None
            try:
                await self._wait_until_free()
                work = await self._campaign(lead)
            except CoriolisError as error:
                # NotFound: our lease expired before it could be used.
                if not error.retryable and not isinstance(error, NotFound | Compacted):
                    raise
                _log.warning("cannot campaign", error=error.message)
                await asyncio.sleep(RETRY_PAUSE_S)
            if work is not None and not _was_overtaken(work):
                return work.result()

    async def _wait_until_free(self) -> None:
        """Return when there is no leader key, or it was just cleared."""
        while (found := await self._client.get(LEADER)) is not None:
            if found.lease_id == 0:
                # Put by hand: it would never expire.
                _log.warning("clearing a leader key without a lease", revision=found.mod_revision)
                untouched = modified_at(LEADER, found.mod_revision)
                await self._client.commit(Txn((untouched,), (Delete(LEADER),)), idempotent=True)
                continue
            changes = watch(self._client, LEADER, start_revision=found.mod_revision + 1)
            async with aclosing(changes) as batches:
                await anext(batches)

    async def _campaign(self, lead: Lead) -> asyncio.Task[None] | None:
        """Claim the key once. The finished ``lead``, or None if the claim failed or the term was lost."""
        limits = self._timeouts
        async with hold_lease(
            self._client,
            ttl_s=limits.leader_ttl_s,
            keepalive_s=limits.leader_keepalive_s,
            give_up_s=limits.leader_step_down_s,
            clock=self._clock,
        ) as lease:
            epoch = await self._claim(lease)
            if epoch is None:
                return None
            _log.info("leading", coordinator=self._id, epoch=epoch)
            try:
                return await self._serve(LeadershipTerm(epoch, lease), lead)
            finally:
                await self._resign(epoch)

    async def _claim(self, lease: Lease) -> int | None:
        """The epoch if the key became ours."""
        claim = Txn((absent(LEADER),), (Put(LEADER, self._record, lease.id),), (Get(LEADER),))
        try:
            result = await self._client.commit(claim)
        except Unavailable as error:
            if not error.outcome_unknown:
                raise
            # Should the claim take effect only after this read, it dies with the lease that we leave now.
            found = await self._client.get(LEADER)
            return found.create_revision if found is not None and found.lease_id == lease.id else None
        return result.revision if result.succeeded else None

    async def _serve(self, term: LeadershipTerm, lead: Lead) -> asyncio.Task[None] | None:
        work = asyncio.create_task(lead(term), name=f"lead-{term.epoch}")
        ends = [
            asyncio.create_task(_wait(term.lease.lost), name=f"lease-lost-{term.epoch}"),
            asyncio.create_task(self._overthrown(term.epoch), name=f"overthrown-{term.epoch}"),
        ]
        try:
            await asyncio.wait([work, *ends], return_when=asyncio.FIRST_COMPLETED)
            ended_by_itself = work.done()
        finally:
            term.lost.set()
            for task in (work, *ends):
                task.cancel()
            await asyncio.wait([work, *ends])
        for task in ends:
            if not task.cancelled():
                task.result()  # raises what kept us from watching
        if ended_by_itself:
            return work
        _log.warning("stepped down", coordinator=self._id, epoch=term.epoch)
        if not work.cancelled() and work.exception() is not None:
            _log.error("leading ended badly after the term", epoch=term.epoch, exc_info=work.exception())
        return None

    async def _overthrown(self, epoch: int) -> None:
        """Return when the leader key was deleted or overwritten by anybody, us included."""
        revision = epoch
        while True:
            try:
                changes = watch(self._client, LEADER, start_revision=revision + 1)
                async with aclosing(changes) as batches:
                    await anext(batches)
                    return
            except Compacted:
                found, revision = await read_leader(self._client)
                if found is None or found.mod_revision != epoch:
                    return
            except Unavailable as error:
                # The lease's clock decides how long we may lead without etcd.
                _log.info("leader key not watched", error=error.message)
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _resign(self, epoch: int) -> None:
        """Clear the key if it is still of our term (a value put by hand keeps the create revision)."""
        try:
            await self._client.commit(
                Txn((fence(epoch),), (Delete(LEADER),)), idempotent=True, timeout_s=RESIGN_TIMEOUT_S
            )
        except CoriolisError as error:
            _log.info("leader key left to expire", epoch=epoch, error=error.message)


def _was_overtaken(work: asyncio.Task[None]) -> bool:
    return not work.cancelled() and isinstance(work.exception(), StaleEpoch)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
