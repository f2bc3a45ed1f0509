"""Listeners on any port or in a range; addresses as text; the first bytes of a connection."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.agent.data_port import PortRange, bind_data_socket, bind_server, join_address, local_host, split_address
from coriolis.agent.preface import (
    KEY_BYTES,
    PREFACE_BYTES,
    CallerRole,
    Preface,
    Service,
    decode_preface,
    encode_preface,
)
from coriolis.errors import InvalidInput, Unavailable
from coriolis.rpc.server import build_server
from tests.unit.agent.pair import certificates

HOST = "127.0.0.1"


def free_range(count: int) -> PortRange:
    """``count`` ports in a row that nobody uses now."""
    for first in range(21000, 30000, count):
        try:
            for port in range(first, first + count):
                bind_data_socket(HOST, PortRange(port, port)).close()
        except Unavailable:
            continue
        return PortRange(first, first + count - 1)
    raise AssertionError("no free ports")


def test_the_first_free_port_of_the_range_is_taken() -> None:
    ports = free_range(2)
    with bind_data_socket(HOST, ports) as one, bind_data_socket(HOST, ports) as two:
        assert [listener.getsockname()[1] for listener in (one, two)] == [ports.first, ports.last]
        with pytest.raises(Unavailable, match="widen data_ports"):
            bind_data_socket(HOST, ports)
    with bind_data_socket(HOST, ports, prefer=ports.last) as again:
        assert again.getsockname()[1] == ports.last
    with bind_data_socket(HOST, ports, prefer=80) as inside:
        assert inside.getsockname()[1] == ports.first


def test_any_port_will_do_without_a_range() -> None:
    with bind_data_socket(HOST, None) as one, bind_data_socket(HOST, None) as two:
        assert one.getsockname() != two.getsockname()


async def test_a_grpc_server_finds_a_port_of_the_range(tmp_path: Path) -> None:
    tls = certificates(tmp_path, "a")["a"]
    ports = free_range(2)
    servers = []
    try:
        with bind_data_socket(HOST, PortRange(ports.first, ports.first)):
            server, port = bind_server(HOST, ports, lambda at: build_server(at, tls, []))
            servers.append(server)
            await server.start()
            assert port == ports.last
            with pytest.raises(Unavailable, match="in use"):
                bind_server(HOST, ports, lambda at: build_server(at, tls, []))
        # one that is taken only after it was looked at: the next one
        tried = []

        def too_late(at: str) -> tuple[str, int]:
            tried.append(at)
            if len(tried) == 1:
                raise Unavailable("somebody was faster")
            return "server", 1

        assert bind_server(HOST, free_range(3), too_late) == ("server", 1)
        assert len(tried) == 2
    finally:
        for server in servers:
            await server.stop(0)


@pytest.mark.parametrize("text", ["7700-", "x", "7800-7700", "0-5", "1-70000", "-"])
def test_a_wrong_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="data_ports"):
        PortRange.parse(text)


def test_ranges_and_addresses_as_text() -> None:
    assert PortRange.parse("") is None
    assert PortRange.parse("7700") == PortRange(7700, 7700)
    assert PortRange.parse("7700-7799") == PortRange(7700, 7799)
    for host in ("10.0.0.1", "fd00::1", "agent.example"):
        assert split_address(join_address(host, 7700)) == (host, 7700)
    assert (local_host("0.0.0.0"), local_host("::"), local_host("10.0.0.1")) == ("127.0.0.1", "::1", "10.0.0.1")
    for wrong in ("host", "host:", ":1", ""):
        with pytest.raises(InvalidInput):
            split_address(wrong)


@given(st.sampled_from(CallerRole), st.sampled_from(Service), st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES))
def test_a_preface_says_the_same_at_the_other_end(role: CallerRole, service: Service, key: bytes) -> None:
    data = encode_preface(Preface(role, service, key))
    assert len(data) == PREFACE_BYTES
    assert decode_preface(data) == Preface(role, service, key)
    assert repr(key) not in repr(Preface(role, service, key))


@given(st.binary(max_size=2 * PREFACE_BYTES))
def test_no_other_bytes_are_a_preface(data: bytes) -> None:
    if data[:5] != b"CRLS\x01":
        with pytest.raises(InvalidInput):
            decode_preface(data)


def test_unknown_roles_and_versions_are_refused() -> None:
    good = bytearray(encode_preface(Preface(CallerRole.PARKER)))
    for position, value in ((4, 2), (5, 9), (6, 9)):
        wrong = bytearray(good)
        wrong[position] = value
        with pytest.raises(InvalidInput):
            decode_preface(bytes(wrong))
