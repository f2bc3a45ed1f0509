"""Entry of a lane host's process: ``python -m coriolis.agent.lanes.process``; its standard input is the link."""

from __future__ import annotations

import socket

from coriolis.agent.lanes.malloc import keep_freed_memory
from coriolis.agent.lanes.messages import MAX_PACKET_BYTES, HostStart, decode_to_host
from coriolis.agent.lanes.parent import die_with_parent


def main() -> None:
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

        SinkHost(link, start.tls, start.allowed, {}).run()


if __name__ == "__main__":
    main()
