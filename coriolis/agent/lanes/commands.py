"""A host's end of the link: what its task tells it, until the task closes its end."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from coriolis.agent.lanes.messages import MAX_PACKET_BYTES, ToHost, decode_to_host

MAX_DESCRIPTORS = 3
"""With one message: a volume, the touched bytes, the journal's lock."""


def commands(link: socket.socket) -> Iterator[tuple[ToHost, list[int]]]:
    """(message, descriptors that came with it); the descriptors are the receiver's to close."""
    while True:
        try:
            packet, descriptors, _, _ = socket.recv_fds(link, MAX_PACKET_BYTES, MAX_DESCRIPTORS)
        except ConnectionResetError:
            return  # closed while words of ours were on their way
        if not packet:
            return
        yield decode_to_host(packet), descriptors
