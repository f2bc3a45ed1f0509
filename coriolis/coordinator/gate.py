"""Services that only the leader offers: every other coordinator answers with the leader's address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from coriolis.errors import NotLeader

Behavior = Callable[[Any, Any], Any]


class LeaderGate:
    """Holds the services of the current term, by service name, and who leads otherwise."""

    def __init__(self) -> None:
        self._services: dict[str, object] = {}
        self.leader_address = ""

    def open(self, services: dict[str, object]) -> None:
        self._services = services

    def close(self) -> None:
        self._services = {}

    @property
    def is_open(self) -> bool:
        return bool(self._services)

    def method(self, service: str, name: str) -> Behavior:
        """The current term's method. Raises NotLeader."""
        servicer = self._services.get(service)
        if servicer is None:
            where = f"; {self.leader_address} does" if self.leader_address else "; an election is going on"
            raise NotLeader(f"this coordinator does not lead{where}", leader_address=self.leader_address)
        behavior: Behavior = getattr(servicer, name)
        return behavior


def gated(base: type, service: str, gate: LeaderGate, streaming: tuple[str, ...] = ()) -> object:
    """A servicer of the generated class ``base`` whose methods go through the gate."""

    def unary(name: str) -> Callable[..., Awaitable[Any]]:
        async def call(self: object, request: Any, context: Any) -> Any:
            return await gate.method(service, name)(request, context)

        return call

    def stream(name: str) -> Callable[..., AsyncIterator[Any]]:
        async def call(self: object, request: Any, context: Any) -> AsyncIterator[Any]:
            async for message in gate.method(service, name)(request, context):
                yield message

        return call

    names = [name for name in vars(base) if name[0].isupper()]
    methods = {name: stream(name) if name in streaming else unary(name) for name in names}
    servicer: object = type(f"Gated{base.__name__}", (base,), methods)()
    return servicer
