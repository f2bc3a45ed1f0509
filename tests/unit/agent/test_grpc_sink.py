"""The gRPC server of a sink's lane process."""

from __future__ import annotations

import gc
import socket
import time
from pathlib import Path

from coriolis.agent.lanes.grpc_sink import serve_grpc_lanes
from coriolis.agent.lanes.sink_host import SinkHost
from tests.unit.agent.pair import agent, certificates

DEALLOCATION_CHECK_S = 1.0
"""How often gRPC looks whether a server is still held (grpc/_server.py)."""


def test_it_serves_as_long_as_its_host(tmp_path: Path) -> None:
    """Found over a long path: lanes that came after a second were refused."""
    tls = certificates(tmp_path, "sink")["sink"]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        host = SinkHost(theirs, tls, agent("source"), {})
        port = serve_grpc_lanes(host, tls, "127.0.0.1", (0, 0))
        gc.collect()
        time.sleep(DEALLOCATION_CHECK_S + 0.5)
        socket.create_connection(("127.0.0.1", port), 2).close()


def test_no_free_port_means_no_server(tmp_path: Path) -> None:
    tls = certificates(tmp_path, "sink")["sink"]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve_grpc_lanes(SinkHost(theirs, tls, agent("source"), {}), tls, "127.0.0.1", (port, port)) == 0
