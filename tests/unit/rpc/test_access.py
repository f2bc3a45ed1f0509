"""Real gRPC servers and channels on loopback: who gets through, and what an error becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coriolis.errors import (
    CoriolisError,
    Denied,
    InvalidInput,
    NotFound,
    NotLeader,
    Throttled,
    Unavailable,
    all_errors,
)
from coriolis.rpc.channel import open_channel
from coriolis.rpc.identity import identity_dns_name
from coriolis.rpc.interceptors import INTERNAL_ERROR_TEXT, MethodPolicy
from coriolis.rpc.status import to_error
from coriolis.rpc.tls import TlsFiles
from coriolis.security.pki import create_ca, issue
from tests.unit.rpc.mesh import DOMAIN, SERVICE, Echo, Members, identity, serving

SINK = identity("agent", "sink-1")


@pytest.fixture
def members(tmp_path: Path) -> Members:
    return Members(tmp_path)


async def call(address: str, tls: TlsFiles, method: str = "Unary", request: bytes = b"x", **options: Any) -> bytes:
    async with open_channel(address, tls, **options) as channel:
        try:
            answer: bytes = await channel.unary_unary(SERVICE + method)(request, timeout=5)
            return answer
        except grpc.aio.AioRpcError as failure:
            raise to_error(failure) from failure


async def test_members_reach_each_other_and_the_caller_is_known(members: Members) -> None:
    echo = Echo()
    async with serving(members.files("agent", "sink-1"), echo) as address:
        agent = members.files("agent", "source-1")
        assert await call(address, agent) == b"x"
        assert await call(address, agent, expected_identity=SINK) == b"x"
        assert await call(address, agent, expected_role="agent") == b"x"
    assert set(echo.callers) == {identity("agent", "source-1")}


@pytest.mark.parametrize(
    "options",
    [
        {"expected_identity": identity("agent", "sink-2")},
        {"expected_identity": identity("coordinator", "sink-1")},
        {"expected_role": "coordinator"},
    ],
)
async def test_a_member_that_is_not_the_one_meant_is_refused(members: Members, options: dict[str, Any]) -> None:
    echo = Echo()
    async with serving(members.files("agent", "sink-1"), echo) as address:
        with pytest.raises(Unavailable):
            await call(address, members.files("agent", "source-1"), **options)
    assert not echo.callers


async def test_hosts_of_a_certificate_cannot_imitate_an_identity(members: Members) -> None:
    with pytest.raises(InvalidInput):
        issue(
            members.directory / "ca",
            members.directory / "evil",
            identity("agent", "evil"),
            [identity_dns_name(SINK)],
        )


async def test_another_authority_is_refused_by_both_sides(members: Members, tmp_path: Path) -> None:
    create_ca(tmp_path / "other", DOMAIN)
    foreign = issue(tmp_path / "other", tmp_path / "foreign", SINK, ["localhost"])
    ours = members.files("agent", "source-1")
    trusting = TlsFiles(ours.ca, foreign.cert, foreign.key)
    echo = Echo()
    async with serving(members.files("agent", "sink-1"), echo) as address:
        with pytest.raises(Unavailable):
            await call(address, foreign)
        with pytest.raises(Unavailable):
            await call(address, trusting)
    async with serving(foreign, echo) as address:
        with pytest.raises(Unavailable):
            await call(address, ours, expected_identity=SINK)
    assert not echo.callers


async def test_no_client_certificate_and_no_tls_are_refused(members: Members) -> None:
    sink = members.files("agent", "sink-1")
    echo = Echo()
    async with serving(sink, echo) as address:
        anonymous = grpc.ssl_channel_credentials(root_certificates=sink.ca.read_bytes())
        override = [("grpc.ssl_target_name_override", "coriolis-mesh")]
        for channel in (
            grpc.aio.secure_channel(address, anonymous, options=override),
            grpc.aio.insecure_channel(address),
        ):
            async with channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(SERVICE + "Unary")(b"x", timeout=5)
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert not echo.callers


async def test_a_method_nobody_listed_and_a_role_not_listed_are_denied(members: Members) -> None:
    echo = Echo()
    async with serving(members.files("coordinator", "c1"), echo) as address:
        with pytest.raises(Denied):
            await call(address, members.files("agent", "a1"), "Unlisted")
        with pytest.raises(Denied):
            await call(address, members.files("client", "project-1/alice"))
        async with open_channel(address, members.files("gateway", "g1")) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in channel.stream_stream(SERVICE + "Push")(iter([b"x"])):
                    pass
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert not echo.callers


async def test_a_renewed_certificate_is_served_without_restart(members: Members) -> None:
    sink, source = members.files("agent", "sink-1"), members.files("agent", "source-1")
    async with serving(sink, Echo()) as address:
        assert await call(address, source, expected_identity=SINK) == b"x"
        renewed = members.files("agent", "sink-2")
        sink.key.write_bytes(renewed.key.read_bytes())
        sink.cert.write_bytes(renewed.cert.read_bytes())
        assert await call(address, source, expected_identity=identity("agent", "sink-2")) == b"x"


def test_the_methods_own_entry_replaces_that_of_its_service() -> None:
    policy = MethodPolicy({"/a.B/": ("gateway",), "/a.B/Drop": ("operator",)})
    assert policy.allows("gateway", "/a.B/Get")
    assert policy.allows("operator", "/a.B/Drop")
    assert not policy.allows("gateway", "/a.B/Drop")
    assert not policy.allows("gateway", "/a.BC/Get")
    assert not policy.allows("gateway", "a.B/Get")


async def test_every_error_crosses_the_wire_and_comes_back(members: Members) -> None:
    echo, agent = Echo(), members.files("agent", "a1")
    async with serving(members.files("coordinator", "c1"), echo) as address:
        for cls in all_errors():
            echo.failure = cls("the volume – 3 GiB – is gone")
            with pytest.raises(CoriolisError) as caught:
                await call(address, agent)
            assert type(caught.value) is cls
            assert caught.value.message == "the volume – 3 GiB – is gone"
            cause = caught.value.__cause__
            assert isinstance(cause, grpc.aio.AioRpcError)
            assert cause.code() == grpc.StatusCode[cls.grpc_status]


async def test_what_an_error_carries_comes_back_too(members: Members) -> None:
    echo, agent = Echo(), members.files("agent", "a1")
    async with serving(members.files("coordinator", "c1"), echo) as address:
        echo.failure = Throttled("slow down", retry_after_s=2.5)
        with pytest.raises(Throttled) as throttled:
            await call(address, agent)
        assert throttled.value.retry_after_s == 2.5
        echo.failure = NotLeader("ask the other", leader_address="10.0.0.7:7700")
        with pytest.raises(NotLeader) as elsewhere:
            await call(address, agent)
        assert elsewhere.value.leader_address == "10.0.0.7:7700"
        echo.failure = ExceptionGroup("tasks", [NotFound("gone")])
        with pytest.raises(NotFound):
            await call(address, agent)


async def test_an_unexpected_exception_says_nothing_about_itself(members: Members) -> None:
    echo, agent = Echo(failure=KeyError("password=hunter2")), members.files("agent", "a1")
    async with serving(members.files("coordinator", "c1"), echo) as address:
        with pytest.raises(CoriolisError) as caught:
            await call(address, agent)
        assert type(caught.value) is CoriolisError
        assert caught.value.message == INTERNAL_ERROR_TEXT


async def test_every_kind_of_method_works_and_fails_alike(members: Members) -> None:
    echo, agent = Echo(), members.files("agent", "a1")

    async def frames() -> AsyncIterator[bytes]:
        for frame in (b"a", b"b", b"c"):
            yield frame

    async with (
        serving(members.files("agent", "sink"), echo) as address,
        open_channel(address, agent) as channel,
    ):
        push, collect = channel.stream_stream(SERVICE + "Push"), channel.stream_unary(SERVICE + "Collect")
        assert [frame async for frame in push(frames())] == [b"a", b"b", b"c"]
        assert await collect(frames()) == b"abc"
        assert [n async for n in channel.unary_stream(SERVICE + "Count")(b"3")] == [b"0", b"1", b"2"]
        assert [n async for n in channel.unary_stream(SERVICE + "Written")(b"w")] == [b"w", b"w"]

        echo.failure, echo.before_failure = NotFound("gone"), 2
        pushing = push(frames())
        assert [await pushing.read(), await pushing.read()] == [b"a", b"b"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pushing.read()
        assert isinstance(to_error(caught.value), NotFound)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collect(frames())
        assert isinstance(to_error(caught.value), NotFound)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(SERVICE + "Missing")(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_cancellation_reaches_the_servicer(members: Members) -> None:
    echo = Echo()
    async with (
        serving(members.files("coordinator", "c1"), echo) as address,
        open_channel(address, members.files("agent", "a1")) as channel,
    ):
        pending = channel.unary_unary(SERVICE + "Hang")(b"")
        await pending.initial_metadata() if pending.done() else await asyncio.sleep(0.3)
        pending.cancel()
        await asyncio.wait_for(echo.cancelled.wait(), 5)


async def test_a_message_above_the_limit_is_refused(members: Members) -> None:
    async with serving(members.files("agent", "sink"), Echo()) as address:
        with pytest.raises(CoriolisError) as caught:
            await call(address, members.files("agent", "a1"), request=bytes(5 * 1024 * 1024))
        assert caught.value.code == "quota_exceeded"
