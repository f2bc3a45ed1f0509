"""What a cloud must offer to take part: narrow asynchronous protocols, declared capabilities.

Rules that every implementation keeps, checked by ``tests/contract/``:

* every create is idempotent by the caller's name: the second call returns the first call's result;
* every delete of something absent succeeds;
* only ``coriolis.errors`` leave a provider, chained to their cause;
* blocking SDKs run in threads inside the provider; no call blocks the event loop;
* offsets and lengths are bytes; reads beyond the end raise ``InvalidInput``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, runtime_checkable

import msgspec

from coriolis.model.disk import Extent, Snapshot
from coriolis.model.finding import Finding
from coriolis.model.machine import MachineSpec
from coriolis.model.network import CloudConfiguration
from coriolis.model.resource import (
    BootProof,
    Instance,
    InstanceRequest,
    TaggedResource,
    Volume,
    VolumeRequest,
)
from coriolis.providers.capabilities import Capabilities
from coriolis.providers.surroundings import NOTHING, Surroundings

JsonSchema = Mapping[str, Any]


class Page(msgspec.Struct, frozen=True):
    """One page of an inventory: at most ``limit`` items after ``marker`` (an id; empty for the first page)."""

    limit: int = 1000
    marker: str = ""


class Named(msgspec.Struct, frozen=True):
    """A network, storage backend or flavor."""

    id: str
    name: str


@runtime_checkable
class BlockReader(Protocol):
    """Random-access reads of one immutable disk."""

    @property
    def size(self) -> int: ...

    @property
    def block_size(self) -> int:
        """The alignment, in bytes, at which reads are cheapest."""
        ...

    async def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes. Raises Unavailable, Corrupt, InvalidInput."""
        ...


class RawDescriptor(msgspec.Struct, frozen=True):
    """An open file or block device that holds a disk byte for byte, for blocking access by lanes' threads and
    processes. ``label`` names it in errors; ``identity``: the file must stay what this says, "" when it may change."""

    number: int
    label: str
    identity: str = ""


@runtime_checkable
class HasDescriptor(Protocol):
    """A reader or writer that can say where its bytes are. Optional; everything works without, only slower."""

    def descriptor(self) -> RawDescriptor: ...


def raw_descriptor(disk: BlockReader) -> RawDescriptor | None:
    """The descriptor of a reader or writer that has one."""
    return disk.descriptor() if isinstance(disk, HasDescriptor) else None


@runtime_checkable
class FrontToBack(Protocol):
    """A reader whose bytes pass by in their order: what is far ahead comes when its turn does, maybe in hours, and what
    is far behind costs the whole way again. Optional."""

    @property
    def span_bytes(self) -> int | None:
        """How far apart reads may be at one time; None: as far as they like."""
        ...


def span_of(reader: BlockReader) -> int | None:
    """``span_bytes`` of a reader that has one."""
    return reader.span_bytes if isinstance(reader, FrontToBack) else None


@runtime_checkable
class BlockWriter(BlockReader, Protocol):
    """Random-access writes of one volume. Overlapping writes are applied in call order."""

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Raises QuotaExceeded with sizes when the storage is full."""
        ...

    async def write_zeroes(self, offset: int, length: int) -> None:
        """Make the range read as zero, deallocating where the storage can."""
        ...

    async def flush(self) -> None:
        """Return only when everything written before survives a power cut."""
        ...


class Inventory(Protocol):
    """``instance`` arguments are a name, path or id as the user wrote it; an ambiguous one raises Conflict."""

    async def list_instances(self, page: Page) -> list[MachineSpec]: ...

    async def get_instance(self, instance: str) -> MachineSpec: ...

    async def list_networks(self) -> list[Named]: ...

    async def list_storage(self) -> list[Named]: ...

    async def list_flavors(self) -> list[Named]: ...

    async def configuration(self) -> CloudConfiguration:
        """What there is besides machines; ``coriolis.model.network_mapping`` compares."""
        ...


@runtime_checkable
class ExaminesInstances(Protocol):
    """An ``Inventory`` that knows what could go wrong with a machine before it is read."""

    async def examine(self, instance_id: str) -> list[Finding]:
        """``instance_id`` is ``MachineSpec.id``. Reads metadata only."""
        ...


class SnapshotSource(Protocol):
    """``instance_id`` is ``MachineSpec.id``."""

    async def create_snapshot(self, instance_id: str, name: str, base: str | None) -> Snapshot:
        """Freeze all disks at one moment. ``base`` names an earlier snapshot whose change log is wanted; it is a wish.

        A snapshot of that name that still stands is returned as it is; one that was lost is made anew with another
        ``identity``.
        """
        ...

    async def delete_snapshot(self, instance_id: str, name: str) -> None:
        """End reading access; the change log that starts at ``name`` is kept for the next pass."""
        ...

    async def delete_change_base(self, instance_id: str, name: str) -> None:
        """Remove every trace of the snapshot ``name`` from the origin, its change log included."""
        ...

    async def find_snapshots(self, instance_id: str) -> list[str]:
        """Names of all snapshots and change bases on the instance that carry our prefix ``coriolis-``."""
        ...

    def allocated_extents(self, snapshot: Snapshot, disk_id: str, starting_offset: int = 0) -> AsyncIterator[Extent]:
        """All ranges from ``starting_offset`` to the end: increasing, disjoint, without gaps."""
        ...

    def changed_extents(
        self, base: str, target: Snapshot, disk_id: str, starting_offset: int = 0
    ) -> AsyncIterator[Extent]:
        """Ranges that may differ from snapshot ``base``: increasing, disjoint. May over-report, never under.

        Raises ChangeLogLost when the origin's log is missing, was reset or belongs to somebody else.
        """
        ...

    def open_reader(self, snapshot: Snapshot, disk_id: str) -> AbstractAsyncContextManager[BlockReader]: ...


class PowerControl(Protocol):
    async def power_state(self, instance_id: str) -> str:
        """``running``, ``stopped``, ``paused`` or ``unknown``."""
        ...

    async def shut_down(self, instance_id: str, grace_s: float) -> bool:
        """Ask the guest to stop; False when it is still running after ``grace_s`` seconds."""
        ...

    async def power_off(self, instance_id: str) -> None: ...

    async def start(self, instance_id: str) -> None: ...


class VolumeTarget(Protocol):
    async def create_volume(self, request: VolumeRequest) -> Volume:
        """Raises QuotaExceeded with the sizes asked for and left, Conflict when the name is somebody else's."""
        ...

    async def delete_volume(self, volume_id: str) -> None: ...

    def open_writer(self, volume_id: str) -> AbstractAsyncContextManager[BlockWriter]: ...


class InstanceTarget(Protocol):
    async def validate(self, request: InstanceRequest) -> None:
        """Check everything that can be checked before a byte moves (``volumes`` may still be empty)."""
        ...

    async def create_instance(self, request: InstanceRequest) -> Instance:
        """Make the VM, stopped; where a cloud runs what it makes, all of it but the VM, which ``start`` makes then.

        Raises Conflict when the name belongs to a VM that is not ours.
        """
        ...

    async def start(self, instance_id: str) -> None:
        """Start it; success when it already runs."""
        ...

    async def delete_instance(self, instance_id: str) -> None:
        """Remove the VM, powering it off if need be; its volumes stay."""
        ...

    async def find_tagged(self, job_id: str) -> list[TaggedResource]:
        """All instances and volumes that carry a tag of ``job_id``."""
        ...


@runtime_checkable
class ProvesBoot(Protocol):
    """An ``InstanceTarget`` that can start a machine for a look; declared by ``Capabilities.proof_of_boot``."""

    async def prove_boot(self, request: InstanceRequest, timeout_s: float) -> BootProof:
        """Boot the machine that ``create_instance`` would make, without any network and without changing a volume.

        Raises TimedOut with the console's last screen, Unsupported when the machine stops by itself."""
        ...


@runtime_checkable
class ReservesNics(Protocol):
    """An ``InstanceTarget`` that can say beforehand which MACs a machine gets; declared by
    ``Capabilities.reserves_nics``."""

    async def reserve_nics(self, request: InstanceRequest) -> tuple[str, ...]:
        """MACs of the machine's NICs, in their order, lower case with colons: the ones that ``create_instance`` uses.

        What that takes carries the request's tag and is kept until ``delete_instance``; repeats give the same.
        """
        ...


class Connection(Protocol):
    """An open session with one cloud. Members a cloud does not offer are None, as its capabilities declare."""

    @property
    def inventory(self) -> Inventory: ...

    @property
    def snapshots(self) -> SnapshotSource | None: ...

    @property
    def power(self) -> PowerControl | None: ...

    @property
    def volumes(self) -> VolumeTarget | None: ...

    @property
    def instances(self) -> InstanceTarget | None: ...


class Provider(Protocol):
    """Entry point ``coriolis.providers``; constructing one must not import an SDK."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def connection_schema(self) -> JsonSchema:
        """JSON Schema of ``connection_info``; secret properties carry ``"writeOnly": true``."""
        ...

    @property
    def source_environment_schema(self) -> JsonSchema: ...

    @property
    def destination_environment_schema(self) -> JsonSchema: ...

    def connect(
        self, connection_info: Mapping[str, Any], surroundings: Surroundings = NOTHING
    ) -> AbstractAsyncContextManager[Connection]:
        """Open and check the connection. Raises Denied, Unavailable, InvalidInput, each naming the endpoint."""
        ...
