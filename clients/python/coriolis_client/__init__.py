"""Client of the Coriolis mesh: ``Client`` for asyncio, ``SyncClient`` with the same methods for everyone else."""

from coriolis_client.client import Client
from coriolis_client.records import (
    Disk,
    DiskProgressed,
    Endpoint,
    Event,
    Manifest,
    Migration,
    StateChanged,
    Task,
    TaskChanged,
)
from coriolis_client.sync import SyncClient

__all__ = [
    "Client",
    "Disk",
    "DiskProgressed",
    "Endpoint",
    "Event",
    "Manifest",
    "Migration",
    "StateChanged",
    "SyncClient",
    "Task",
    "TaskChanged",
]
