"""A thin asyncio client of etcd: several members, bounded repeats, honest about unknown outcomes.

Only errors of ``coriolis.errors`` leave it. A write that was sent and not answered raises Unavailable with
``outcome_unknown``; the caller re-reads and decides. Reads and writes that the caller declares idempotent
are repeated on another member until their deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from coriolis.errors import NotFound, Unavailable
from coriolis.etcd.endpoints import Endpoint, Endpoints
from coriolis.etcd.failures import is_interruption, is_stale_token, to_etcd_error
from coriolis.etcd.records import KeyValue, Listing, encode_key, key_value, prefix_end
from coriolis.etcd.txn import Txn, TxnResult, check_size, from_response, to_request
from coriolis.rpc.gen.etcd import rpc_pb2
from coriolis.rpc.tls import TlsFiles

CALL_TIMEOUT_S = 5.0
"""Deadline of a call, repeats included. Long enough for etcd's own election (1 to 2 s)."""
ATTEMPT_TIMEOUT_S = 2.0
"""After this a repeatable call tries another member: a paused one keeps its connection and says nothing."""
REPEAT_PAUSE_S = 0.1
MAX_ATTEMPTS = 20
PAGE_KEYS = 20
"""At 1.5 MB a value, the most etcd takes, a page stays within what one answer may hold."""
MAX_LISTED_KEYS = 200_000

# With this a member that lost its quorum fails calls at once instead of waiting.
_REQUIRE_LEADER = ("hasleader", "true")


@dataclass(frozen=True, slots=True)
class Credentials:
    """An etcd user."""

    user: str
    password: str = field(repr=False)


class _Send(Protocol):
    def __call__(self, member: Endpoint) -> Callable[..., Any]: ...


class EtcdClient:
    """Use as ``async with EtcdClient([...]) as client``. Safe for many tasks of one event loop."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: TlsFiles | None = None,
        server_name: str | None = None,
        credentials: Credentials | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        """``endpoints``: host:port or http(s)://host:port. ``server_name``: the name that every member's
        certificate carries, when it is not the host in the endpoint.
        """
        self.endpoints = Endpoints(endpoints, tls, server_name)
        self._credentials = credentials
        self._token: str | None = None
        self._token_lock = asyncio.Lock()
        self._call_timeout_s = call_timeout_s

    async def __aenter__(self) -> EtcdClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self.endpoints.close()

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        """The key now (linearizable), or as of ``revision``; None if absent."""
        request = rpc_pb2.RangeRequest(key=encode_key(key), revision=revision)
        answer = await self._call(lambda member: member.kv.Range, request, repeatable=True)
        return key_value(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> Listing:
        """All keys under ``prefix`` as of one revision, read in pages; Unavailable above 200,000 keys."""
        found: dict[str, KeyValue] = {}
        start, end, revision = encode_key(prefix) or b"\x00", prefix_end(prefix), 0
        while True:
            request = rpc_pb2.RangeRequest(key=start, range_end=end, limit=PAGE_KEYS, revision=revision)
            answer = await self._call(lambda member: member.kv.Range, request, repeatable=True)
            revision = revision or answer.header.revision
            found.update((item.key, item) for item in map(key_value, answer.kvs))
            if not answer.more:
                return Listing(revision, found)
            if len(found) >= MAX_LISTED_KEYS:
                raise Unavailable(f"more than {MAX_LISTED_KEYS} keys under {prefix} in etcd")
            start = answer.kvs[-1].key + b"\x00"

    async def put(self, key: str, value: bytes, *, lease_id: int = 0, idempotent: bool = False) -> int:
        """Set a key unconditionally and return its mod_revision.

        State that a leader owns is never written so: use ``commit`` with the fence.
        """
        request = rpc_pb2.PutRequest(key=encode_key(key), value=value, lease=lease_id)
        check_size(request.ByteSize())
        answer = await self._call(lambda member: member.kv.Put, request, repeatable=idempotent)
        return int(answer.header.revision)

    async def delete(self, key: str) -> bool:
        """Remove a key unconditionally; whether it was there (an interrupted repeat may say False)."""
        request = rpc_pb2.DeleteRangeRequest(key=encode_key(key))
        answer = await self._call(lambda member: member.kv.DeleteRange, request, repeatable=True)
        return int(answer.deleted) > 0

    async def commit(self, txn: Txn, *, idempotent: bool = False, timeout_s: float | None = None) -> TxnResult:
        """Run a transaction. A compare that fails is a result, not an error.

        ``idempotent`` states that running it twice does no harm *and* that the caller understands a failed
        compare as maybe its own first run.
        """
        request = to_request(txn)
        answer = await self._call(lambda member: member.kv.Txn, request, repeatable=idempotent, timeout_s=timeout_s)
        return from_response(answer)

    async def grant_lease(self, ttl_s: int) -> int:
        """A new lease's id. One whose answer was lost expires by itself, so this is repeated freely."""
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s)
        answer = await self._call(lambda member: member.lease.LeaseGrant, request, repeatable=True)
        return int(answer.ID)

    async def revoke_lease(self, lease_id: int, *, timeout_s: float | None = None) -> None:
        """End a lease and delete its keys; one that is gone is fine."""
        request = rpc_pb2.LeaseRevokeRequest(ID=lease_id)
        try:
            await self._call(lambda member: member.lease.LeaseRevoke, request, repeatable=True, timeout_s=timeout_s)
        except NotFound:
            pass

    async def keep_alive(self, lease_id: int, *, timeout_s: float) -> None:
        """Restart a lease's time to live; NotFound if it is gone, Unavailable without an answer in time."""
        deadline = time.monotonic() + timeout_s
        member = await self.endpoints.ready(deadline)
        # The pause of one keep-alive per stream is small beside its interval, and no stream state needs an
        # owner.
        stream: Any = member.lease.LeaseKeepAlive  # the typing stubs lack calls without an iterator
        call = stream(metadata=await self.metadata(deadline))
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id))
                answer = await call.read()
        except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError) as failure:
            self.endpoints.leave(member)
            if isinstance(failure, grpc.aio.AioRpcError) and is_stale_token(failure):
                self.forget_token()
            raise Unavailable(f"etcd member {member.address} did not confirm a lease") from failure
        finally:
            call.cancel()
        if not isinstance(answer, rpc_pb2.LeaseKeepAliveResponse):
            self.endpoints.leave(member)
            raise Unavailable(f"etcd member {member.address} ended the keep-alive stream")
        if answer.TTL <= 0:
            raise NotFound(f"etcd lease {lease_id:x} has expired")

    async def compact(self, revision: int) -> None:
        """Forget history up to ``revision``."""
        request = rpc_pb2.CompactionRequest(revision=revision, physical=True)
        await self._call(lambda member: member.kv.Compact, request, repeatable=False)

    async def reclaim_space(self) -> None:
        """After a space alarm: defragment the members one by one and clear the alarm (compact first)."""
        for member in self.endpoints.members:
            if await member.is_ready(1.0, wait_out_failures=False):
                await self._send(member, member.maintenance.Defragment, rpc_pb2.DefragmentRequest(), 60.0)
        answer = await self._alarm(rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET))
        for alarm in answer.alarms:
            if alarm.alarm == rpc_pb2.AlarmType.NOSPACE:
                action = rpc_pb2.AlarmRequest.DEACTIVATE
                await self._alarm(rpc_pb2.AlarmRequest(action=action, memberID=alarm.memberID, alarm=alarm.alarm))

    async def _alarm(self, request: rpc_pb2.AlarmRequest) -> rpc_pb2.AlarmResponse:
        answer: rpc_pb2.AlarmResponse = await self._call(
            lambda member: member.maintenance.Alarm, request, repeatable=True
        )
        return answer

    async def status(self) -> rpc_pb2.StatusResponse:
        """Version, sizes and raft state of the member in use; ``errors`` names alarms."""
        answer: rpc_pb2.StatusResponse = await self._call(
            lambda member: member.maintenance.Status, rpc_pb2.StatusRequest(), repeatable=True
        )
        return answer

    async def metadata(self, deadline: float) -> tuple[tuple[str, str], ...]:
        """What every call carries; fetches a token first if there is a user and no token yet."""
        if self._credentials is None:
            return (_REQUIRE_LEADER,)
        async with self._token_lock:
            if self._token is None:
                self._token = await self._authenticate(self._credentials, deadline)
            return (_REQUIRE_LEADER, ("token", self._token))

    async def _authenticate(self, credentials: Credentials, deadline: float) -> str:
        request = rpc_pb2.AuthenticateRequest(name=credentials.user, password=credentials.password)
        for _ in range(MAX_ATTEMPTS):
            member = await self.endpoints.ready(deadline)
            try:
                answer = await member.auth.Authenticate(request, timeout=self._attempt_s(deadline))
                return str(answer.token)
            except grpc.aio.AioRpcError as failure:
                if not is_interruption(failure):
                    raise to_etcd_error(failure) from failure
                self.endpoints.leave(member)
                await asyncio.sleep(REPEAT_PAUSE_S)
        raise Unavailable("etcd did not answer an authentication")

    def forget_token(self) -> None:
        """Authenticate anew before the next call."""
        self._token = None

    async def _call(self, method: _Send, request: Any, *, repeatable: bool, timeout_s: float | None = None) -> Any:
        """Send on a standing connection until answered, at most once unless ``repeatable``."""
        deadline = time.monotonic() + (self._call_timeout_s if timeout_s is None else timeout_s)
        last: BaseException | None = None
        for _ in range(MAX_ATTEMPTS):
            member = await self.endpoints.ready(deadline)
            metadata = await self.metadata(deadline)
            limit = self._attempt_s(deadline) if repeatable else max(0.0, deadline - time.monotonic())
            try:
                return await method(member)(request, timeout=limit, metadata=metadata)
            except grpc.aio.AioRpcError as failure:
                last = failure
                if self._credentials is not None and is_stale_token(failure):
                    self.forget_token()
                    continue  # etcd refused before doing anything
                if not is_interruption(failure):
                    raise to_etcd_error(failure) from failure
                self.endpoints.leave(member)
                if not repeatable:
                    raise _unknown(member, failure) from failure
            await asyncio.sleep(REPEAT_PAUSE_S)
        raise Unavailable(f"etcd did not answer in {MAX_ATTEMPTS} attempts") from last

    async def _send(self, member: Endpoint, method: Callable[..., Any], request: Any, timeout_s: float) -> None:
        """One call on one given member."""
        metadata = await self.metadata(time.monotonic() + timeout_s)
        try:
            await method(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as failure:
            raise to_etcd_error(failure) from failure

    @staticmethod
    def _attempt_s(deadline: float) -> float:
        return max(0.0, min(ATTEMPT_TIMEOUT_S, deadline - time.monotonic()))


def _unknown(member: Endpoint, failure: grpc.aio.AioRpcError) -> Unavailable:
    error = Unavailable(f"etcd member {member.address} did not answer a write: {failure.details()}")
    error.outcome_unknown = True
    return error
