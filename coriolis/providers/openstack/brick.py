"""Runs os-brick in a process of its own and opens what it connected."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from coriolis.errors import CoriolisError, TimedOut, Unavailable, Unsupported
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.surroundings import CinderAccess

TIMEOUT_S = 180.0
"""A storage network that does not answer must not hold a task for longer."""
MAX_ANSWER_BYTES = 1 << 20
_PROGRAM = Path(__file__).with_name("brick_program.py")
_ABSENT = "No module named 'os_brick'"


def host_label() -> str:
    """Under which name this host attaches volumes; Cinder shows it as their device."""
    return f"coriolis:{socket.gethostname()}"[:255]


class Brick:
    """What the operator allows is checked before os-brick hears of it: the cloud says what is to be attached."""

    def __init__(self, access: CinderAccess) -> None:
        self._access = access
        self._properties: dict[str, Any] | None = None

    async def properties(self) -> dict[str, Any]:
        """What Cinder asks of a host that attaches: names, addresses, initiators."""
        if self._properties is None:
            order = {"command": "properties", "host": socket.gethostname(), "ip": "127.0.0.1"}
            self._properties = {**await self._run(order), "mountpoint": host_label(), "mode": "rw"}
        return self._properties

    async def connect(self, connection: dict[str, Any]) -> dict[str, Any]:
        """Device information of os-brick: ``path`` and what a disconnection needs."""
        self._check(connection)
        device: dict[str, Any] = await self._run(self._order("connect", connection))
        if not isinstance(device, dict) or not isinstance(device.get("path"), str):
            raise Unsupported(f"os-brick gave no path for a volume by {printable(connection['driver_volume_type'])}")
        return device

    async def disconnect(self, connection: dict[str, Any], device: dict[str, Any]) -> None:
        self._check(connection)
        if connection["driver_volume_type"] == "nfs":
            return  # os-brick would do nothing: the share stays mounted, for other volumes and for the next pass
        await self._run({**self._order("disconnect", connection), "device": device})

    def inside(self, connection: dict[str, Any]) -> str:
        """The directory that the volume's file must not leave; "" for block devices."""
        return str(self._access.mount_dir) if connection["driver_volume_type"] == "nfs" else ""

    def _check(self, connection: dict[str, Any]) -> None:
        driver = str(connection.get("driver_volume_type", ""))
        if driver not in self._access.drivers:
            raise Unsupported(
                f"the volume is attached by {printable(driver, 40)}; this agent's operator allows"
                f" {', '.join(self._access.drivers)} (cinder_drivers): allow it, or set data_path to upload"
            )
        if connection.get("encrypted"):
            raise Unsupported("volumes that Cinder encrypts are not attached: choose another volume type")

    def _order(self, command: str, connection: dict[str, Any]) -> dict[str, Any]:
        driver = connection["driver_volume_type"]
        return {
            "command": command,
            "driver": driver,
            "connection": connection,
            "mount_dir": str(self._access.mount_dir),
        }

    async def _run(self, order: dict[str, Any]) -> Any:
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OS_"))}
        try:
            process = await asyncio.create_subprocess_exec(
                self._access.python,
                "-I",
                str(_PROGRAM),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=environ,
            )
        except OSError as error:
            raise Unsupported(f"cinder_python {self._access.python} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer, _ = await process.communicate(json.dumps(order).encode())
        except TimeoutError as error:
            raise TimedOut(
                f"os-brick did not {order['command']} within {TIMEOUT_S:.0f} s: is the storage in reach?"
            ) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return _value(answer[:MAX_ANSWER_BYTES], order["command"])


def _value(answer: bytes, command: str) -> Any:
    try:
        said = json.loads(answer)
    except ValueError as error:
        raise CoriolisError(f"os-brick's program ended without an answer to {command}") from error
    if "error" not in said:
        return said["value"]
    text = printable(said["error"])
    if _ABSENT in text:
        raise Unsupported("os-brick is not installed for cinder_python: install python3-os-brick")
    raise Unavailable(f"os-brick could not {command} a volume on this host: {text}")
