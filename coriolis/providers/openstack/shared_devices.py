"""One attachment of a volume for all who read it in this process: extents are asked for while a reader is open."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from coriolis.providers.openstack.attachment import Attacher, Device


class _Held:
    def __init__(self, device: Device, stack: AsyncExitStack) -> None:
        self.device, self.stack, self.users = device, stack, 0


class SharedDevices:
    """The last who leaves detaches."""

    def __init__(self, attacher: Attacher) -> None:
        self._attacher = attacher
        self._held: dict[str, _Held] = {}
        self._guards: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def device(self, volume_id: str) -> AsyncIterator[Device]:
        """Raises what attaching raises."""
        async with self._guards[volume_id]:
            held = self._held.get(volume_id)
            if held is None:
                async with AsyncExitStack() as stack:
                    device = await stack.enter_async_context(self._attacher.attached(volume_id))
                    held = self._held[volume_id] = _Held(device, stack.pop_all())
            held.users += 1
        try:
            yield held.device
        finally:
            async with self._guards[volume_id]:
                held.users -= 1
                if not held.users:
                    del self._held[volume_id]
                    await held.stack.aclose()
