"""Entry of a lane host's process: ``python -m coriolis.agent.lanes.process``; its standard input is the link."""

from __future__ import annotations

import os
import socket

from coriolis.agent.lanes.malloc import keep_freed_memory
from coriolis.agent.lanes.messages import MAX_PACKET_BYTES, HostStart, Serving, decode_to_host, encode_message
from coriolis.parent import die_with_parent


def main() -> None:
    """Serve until the task closes its end. Each role loads only what it needs: a start takes a fraction of a second."""
    keep_freed_memory()
    link = socket.socket(fileno=0)
    start = decode_to_host(link.recv(MAX_PACKET_BYTES))
    assert isinstance(start, HostStart)
    die_with_parent(start.parent_pid)
    if start.role == "source":
        from coriolis.agent.lanes.source_host import SourceHost

        SourceHost(link, start.tls, {}).run()
    else:
        from coriolis.agent.lanes.sink_host import SinkHost

        host = SinkHost(link, start.tls, start.allowed, {})
        if start.bind_host:
            from coriolis.agent.lanes.grpc_sink import serve_grpc_lanes

            port = serve_grpc_lanes(host, start.tls, start.bind_host, start.ports)
            link.send(encode_message(Serving(port)))
        host.run()
    # nothing is left to be done, and an interpreter's own end takes as long as sending some megabytes
    os._exit(0)


if __name__ == "__main__":
    main()
