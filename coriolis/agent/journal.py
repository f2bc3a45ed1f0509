"""The agent's own memory across restarts: its fence. Written and synced before an assignment is obeyed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from coriolis.agent.fencing import Fence, admit_leader, admit_task
from coriolis.durable_file import replace_file
from coriolis.errors import Corrupt


class FenceJournal:
    """The fence, kept in ``<state_dir>/fence.json`` by atomic replacement."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "fence.json"
        self.fence = self._load()

    def _load(self) -> Fence:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Fence)
        except FileNotFoundError:
            return Fence()
        except msgspec.DecodeError as broken:
            raise Corrupt(
                f"{self._path} is damaged; move it away only if no older coordinator can come back"
            ) from broken

    def admit_leader(self, epoch: int) -> None:
        """Raises StaleEpoch."""
        self._store(admit_leader(self.fence, epoch))

    def admit_task(self, epoch: int, key: str, generation: int) -> None:
        """Raises StaleEpoch, StaleGeneration."""
        self._store(admit_task(self.fence, epoch, key, generation))

    def _store(self, fence: Fence) -> None:
        if fence == self.fence:
            return
        replace_file(self._path, msgspec.json.encode(fence))
        self.fence = fence
