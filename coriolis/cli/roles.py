"""Running one role in the foreground: coordinator, agent. SIGTERM and Ctrl-C end it cleanly."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from coriolis.config import AgentConfig, CoordinatorConfig, load_config
from coriolis.observability.logging import configure_logging

log = structlog.get_logger(__name__)


def run_coordinator(config: Path | None = None, **flags: Any) -> None:
    """Run a coordinator until stopped. ``flags`` are fields of ``CoordinatorConfig``; None means not given."""
    from coriolis.coordinator.app import Coordinator

    run_until_stopped(lambda: Coordinator(load_config(CoordinatorConfig, config, flags)).serve())


def run_agent(config: Path | None = None, *, listen: str | None = None, **flags: Any) -> None:
    """Run an agent until stopped. ``flags`` are fields of ``AgentConfig``; None means not given.

    ``listen`` is the address its data listeners bind to; they choose their ports.
    """
    from coriolis.agent.app import Agent

    flags["data_bind"] = listen
    run_until_stopped(lambda: Agent(load_config(AgentConfig, config, flags)).serve())


def run_until_stopped(serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``serve()`` until it ends, or SIGTERM or SIGINT cancels it."""
    configure_logging()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        work = asyncio.create_task(serve())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, work.cancel)
        try:
            await work
        except asyncio.CancelledError:
            log.info("stopped")

    asyncio.run(main())
