"""An agent's data port alone, for the bench: ``python -m bench.wan.meeting HOST TLS_DIRECTORY``.

The key that may meet comes as a line of hex on standard input; the port goes out as a line. Ends with its input.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path

from coriolis.rpc.tls import TlsFiles


async def serve(host: str, tls: TlsFiles, key: bytes) -> None:
    """Join connections of the one key until standard input ends."""
    # by name: they come with the paths feature, and the bench also measures trees from before it
    relays, ports, listeners = (
        importlib.import_module(f"coriolis.agent.{name}") for name in ("relay", "data_port", "data_listener")
    )
    relay = relays.Relay()
    relay.set_keys([key])
    listener = listeners.DataListener(ports.bind_data_socket(host, None), relay, tls)
    serving = asyncio.create_task(listener.serve())
    print(listener.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    serving.cancel()
    await asyncio.wait([serving])


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], TlsFiles.in_directory(Path(sys.argv[2])), bytes.fromhex(sys.stdin.readline())))
