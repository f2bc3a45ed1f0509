"""Can this agent dial that one, and how far is it? One byte there and back inside of mTLS."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Sequence

from coriolis.agent.data_port import split_address
from coriolis.agent.preface import GO, CallerRole, Preface, encode_preface
from coriolis.errors import CoriolisError, Unavailable
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2 as pb
from coriolis.rpc.identity import identity_dns_name
from coriolis.rpc.tls import TlsFiles
from coriolis.rpc.tls_context import certificate_identity, client_context, server_context

PROBE_TIMEOUT_S = 3.0
ROUND_TRIPS = 3
MAX_TARGETS = 16
STREAM_BYTES = 4096


async def answer_probe(connection: socket.socket, tls: TlsFiles) -> None:
    """Echo a few single bytes to an agent of this mesh, then close. Ends within PROBE_TIMEOUT_S."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await loop.sock_sendall(connection, GO)
            reader = asyncio.StreamReader(limit=STREAM_BYTES)
            transport, protocol = await loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(reader), connection, ssl=server_context(tls)
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                if certificate_identity(writer.get_extra_info("peercert")).role != "agent":
                    return
                for _ in range(ROUND_TRIPS):
                    writer.write(await reader.readexactly(1))
                    await writer.drain()
                await reader.read(1)  # the caller closes first
            finally:
                transport.abort()
    except (OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError, CoriolisError):
        return  # the caller learns it from its own side
    finally:
        connection.close()


async def probe_peers(targets: Sequence[pb.ProbeTarget], tls: TlsFiles) -> pb.ProbeResults:
    """Results of all targets (at most MAX_TARGETS) within PROBE_TIMEOUT_S."""
    results: list[pb.ProbeResult] = []
    async with asyncio.TaskGroup() as group:
        for target in targets[:MAX_TARGETS]:
            group.create_task(_probe_into(results, target, tls))
    return pb.ProbeResults(results=results)


async def _probe_into(results: list[pb.ProbeResult], target: pb.ProbeTarget, tls: TlsFiles) -> None:
    result = pb.ProbeResult(agent_id=target.agent_id, address=target.address)
    try:
        result.rtt_ms = 1000 * await round_trip_s(target.address, target.identity, tls)
        result.reachable = True
    except TimeoutError:
        result.error = f"no answer from {target.address} within {PROBE_TIMEOUT_S:.0f} s"
    except ssl.SSLError as refused:
        result.error = f"TLS with {target.address} failed: {refused.reason or refused}"
    except asyncio.IncompleteReadError:
        result.error = f"{target.address} closed the connection"
    except OSError as failed:
        result.error = f"{target.address}: {os.strerror(failed.errno) if failed.errno else failed}"
    except CoriolisError as failed:
        result.error = failed.message
    results.append(result)


async def round_trip_s(address: str, identity: str, tls: TlsFiles) -> float:
    """The shortest of some round trips. Raises TimeoutError, OSError, ssl.SSLError, IncompleteReadError, our errors."""
    host, port = split_address(address)
    context = client_context(tls)
    async with asyncio.timeout(PROBE_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port, limit=STREAM_BYTES)
        try:
            writer.write(encode_preface(Preface(CallerRole.PROBE)))
            if await reader.readexactly(1) != GO:
                raise Unavailable(f"{address} is not the data port of an agent")
            await writer.start_tls(context, server_hostname=identity_dns_name(identity))
            times = []
            for _ in range(ROUND_TRIPS):
                began = time.monotonic()
                writer.write(b"\0")
                await reader.readexactly(1)
                times.append(time.monotonic() - began)
            return min(times)
        finally:
            writer.transport.abort()
