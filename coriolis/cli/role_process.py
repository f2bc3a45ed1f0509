"""One role as a child process of ``coriolis up``: logged to a file, restarted when it dies, stopped with its parent."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import structlog

from coriolis.etcd import parent_death

log = structlog.get_logger(__name__)

STOP_GRACE_S = 10.0
RESTART_PAUSE_S = 1.0


class RoleProcess:
    """Not started until ``start``."""

    def __init__(self, name: str, arguments: list[str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        # a session of its own: Ctrl-C in the terminal reaches only the parent, which stops the roles in order
        with self.log_path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                parent_death.__file__,
                str(os.getpid()),
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def keep_running(self) -> None:
        """Start it again whenever it ends, until cancelled."""
        while True:
            assert self._process is not None
            code = await self._process.wait()
            log.warning("role ended, starting it again", role=self.name, code=code, log=str(self.log_path))
            await asyncio.sleep(RESTART_PAUSE_S)
            await self.start()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after ten seconds."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
