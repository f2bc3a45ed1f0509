"""Holding a lease: kept alive in the background, given up by our own clock before etcd could give it away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from coriolis.clock import Clock, SystemClock
from coriolis.errors import CoriolisError, InvalidInput, NotFound
from coriolis.etcd.client import EtcdClient

KEEPALIVE_TIMEOUT_S = 1.5
KEEPALIVE_RETRY_S = 0.2
REVOKE_TIMEOUT_S = 2.0

_SYSTEM_CLOCK = SystemClock()
_log = structlog.get_logger(__name__)


class Lease:
    """A lease of ours. ``lost`` is set once, when it can no longer be relied on."""

    def __init__(self, lease_id: int, give_up_s: float, confirmed_at: float, clock: Clock) -> None:
        self.id = lease_id
        self.lost = asyncio.Event()
        self._give_up_s = give_up_s
        self._confirmed_at = confirmed_at
        self._clock = clock

    @property
    def remaining_s(self) -> float:
        """Seconds for which the lease may still be relied on; at most 0 when it is lost."""
        if self.lost.is_set():
            return 0.0
        return self._confirmed_at + self._give_up_s - self._clock.monotonic()

    def is_held(self) -> bool:
        """Right even at once after a pause of the process, before any task could set ``lost``."""
        return self.remaining_s > 0

    async def keep(self, client: EtcdClient, keepalive_s: float) -> None:
        """Confirm until the lease is lost, then return. Time counts from *before* a keep-alive was sent."""
        pause_s = keepalive_s
        try:
            while True:
                await asyncio.sleep(max(0.0, min(pause_s, self.remaining_s)))
                if not self.is_held():
                    _log.warning("lease not confirmed in time", lease_id=f"{self.id:x}")
                    return
                sent_at = self._clock.monotonic()
                try:
                    await client.keep_alive(self.id, timeout_s=min(KEEPALIVE_TIMEOUT_S, self.remaining_s))
                except NotFound:
                    _log.warning("lease expired at etcd", lease_id=f"{self.id:x}")
                    return
                except CoriolisError as error:
                    _log.info("lease not confirmed", lease_id=f"{self.id:x}", error=error.message)
                    pause_s = KEEPALIVE_RETRY_S
                    continue
                if not self.is_held():
                    return  # the answer lay unread while we were paused
                self._confirmed_at = sent_at
                pause_s = keepalive_s
        finally:
            self.lost.set()


@asynccontextmanager
async def hold_lease(
    client: EtcdClient, *, ttl_s: int, keepalive_s: float, give_up_s: float, clock: Clock = _SYSTEM_CLOCK
) -> AsyncIterator[Lease]:
    """A lease for the length of the block; it is revoked at the end, its keys with it.

    ``lease.lost`` is set when etcd says it is gone or when ``give_up_s`` passed since the last confirmed
    keep-alive was sent. The block goes on then: it must watch ``lost`` or ask ``is_held``.
    """
    if not 0 < keepalive_s < give_up_s <= ttl_s:
        raise InvalidInput("a lease needs keepalive_s < give_up_s <= ttl_s")
    asked_at = clock.monotonic()
    lease = Lease(await client.grant_lease(ttl_s), give_up_s, asked_at, clock)
    keeper = asyncio.create_task(lease.keep(client, keepalive_s), name=f"lease-{lease.id:x}")
    try:
        yield lease
    finally:
        keeper.cancel()
        await asyncio.wait([keeper])
        lease.lost.set()
        try:
            await client.revoke_lease(lease.id, timeout_s=REVOKE_TIMEOUT_S)
        except CoriolisError as error:
            _log.info("lease left to expire", lease_id=f"{lease.id:x}", error=error.message)
        if not keeper.cancelled():
            keeper.result()  # raises what broke the keeper


async def announce(
    client: EtcdClient, key: str, value: bytes, *, ttl_s: int, keepalive_s: float, retry_s: float = 1.0
) -> None:
    """Keep ``key`` present while this runs: it vanishes within ``ttl_s`` after we die. Runs until cancelled.

    Denied and InvalidInput end it; an unreachable etcd is waited for.
    """
    while True:
        try:
            async with hold_lease(client, ttl_s=ttl_s, keepalive_s=keepalive_s, give_up_s=ttl_s) as lease:
                await client.put(key, value, lease_id=lease.id, idempotent=True)
                await lease.lost.wait()
        except CoriolisError as error:
            if not error.retryable and not isinstance(error, NotFound):
                raise
            _log.warning("cannot announce", key=key, error=error.message)
        await asyncio.sleep(retry_s)
