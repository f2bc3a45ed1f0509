"""Writes a stream-optimised VMDK front to back, as ``stream_vmdk`` reads it: no seek, bounded memory. Pure.

Layout: VMware Virtual Disk Format 1.1, "Stream-Optimized Compressed Sparse Extents". Grains that are not written read
as zero. Behind every 32 MiB of disk that hold a grain comes their grain table, at the end the grain directory, a copy
of the header that says where the directory is, and the end marker.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from coriolis.errors import InvalidInput, QuotaExceeded

SECTOR = 512
GRAIN_BYTES = 65536
MAX_SIZE_BYTES = 62 << 40
"""vSphere's largest virtual disk (Configuration Maximums)."""
MEDIA_TYPE = "application/x-vnd.vmware-streamVmdk"

_GRAIN_SECTORS = GRAIN_BYTES // SECTOR
_TABLE_ENTRIES = 512
_TABLE_BYTES = _TABLE_ENTRIES * 4
_OVERHEAD_SECTORS = 128
_DESCRIPTOR_SECTORS = 20
_MAX_SECTOR = 0xFFFFFFFF
"""Tables hold sector numbers of 32 bits."""
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_FLAGS = 0x1 | 1 << 16 | 1 << 17  # the newline test is there; grains are compressed; there are markers
_DIRECTORY_AT_END = 0xFFFFFFFFFFFFFFFF
_GRAIN_MARKER = struct.Struct("<QI")
_MARKER = struct.Struct("<QII")
_END, _TABLE, _DIRECTORY, _FOOTER = range(4)

_DESCRIPTOR = """# Disk DescriptorFile
version=1
CID={cid:08x}
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {sectors} SPARSE "disk.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.virtualHWVersion = "4"
"""


def capacity_of(size_bytes: int) -> int:
    """The size in bytes of the virtual disk that holds ``size_bytes``: vSphere counts in KiB, and has no empty disk.

    Raises QuotaExceeded beyond 62 TiB, InvalidInput below 0.
    """
    if size_bytes < 0:
        raise InvalidInput(f"a disk cannot have {size_bytes} bytes")
    capacity = max(1024, -(-size_bytes // 1024) * 1024)
    if capacity > MAX_SIZE_BYTES:
        raise QuotaExceeded(f"the disk has {size_bytes} bytes; vSphere takes at most {MAX_SIZE_BYTES} (62 TiB)")
    return capacity


class StreamWriter:
    """``begin``, then ``grain`` with increasing offsets, then ``finish``; what they give, in order, is the file.

    ``capacity``: bytes, a multiple of 512. ``cid``: any number of 32 bits that tells contents apart.
    """

    def __init__(self, capacity: int, cid: int = 0xFFFFFFFE) -> None:
        if capacity <= 0 or capacity % SECTOR:
            raise InvalidInput(f"a VMDK cannot have a capacity of {capacity} bytes")
        self._capacity, self._cid = capacity, cid
        self._position = 0
        self._next = 0
        self._table: list[int] = []
        self._table_number = 0
        tables = -(-capacity // (GRAIN_BYTES * _TABLE_ENTRIES))
        self._directory = bytearray(tables * 4)

    def begin(self) -> bytes:
        """Header and descriptor."""
        sectors = self._capacity // SECTOR
        text = _DESCRIPTOR.format(cid=self._cid, sectors=sectors, cylinders=max(1, sectors // (255 * 63))).encode()
        head = self._header(_DIRECTORY_AT_END) + text.ljust(_DESCRIPTOR_SECTORS * SECTOR, b"\0")
        return self._put(head.ljust(_OVERHEAD_SECTORS * SECTOR, b"\0"))

    def grain(self, offset: int, packed: bytes) -> bytes:
        """The 64 KiB at ``offset`` (the last ones filled up with zero bytes), as zlib packed them.

        Raises QuotaExceeded when the file would pass 2 TiB, which its tables cannot express.
        """
        if offset < self._next or offset % GRAIN_BYTES or offset >= self._capacity:
            raise InvalidInput(f"a grain at {offset} is out of order")
        self._next = offset + GRAIN_BYTES
        number, entry = divmod(offset // GRAIN_BYTES, _TABLE_ENTRIES)
        before = self._end_table() if self._table and number != self._table_number else b""
        if not self._table:
            self._table, self._table_number = [0] * _TABLE_ENTRIES, number
        self._table[entry] = self._sector()
        return before + self._put(_GRAIN_MARKER.pack(offset // SECTOR, len(packed)) + packed)

    def finish(self) -> Iterator[bytes]:
        """The rest of the file, in pieces."""
        if self._table:
            yield self._end_table()
        yield self._put(_MARKER.pack(-(-len(self._directory) // SECTOR), 0, _DIRECTORY))
        at = self._sector()
        yield self._put(bytes(self._directory))
        yield self._put(_MARKER.pack(1, 0, _FOOTER))
        yield self._put(self._header(at))
        yield self._put(_MARKER.pack(0, 0, _END))

    def _end_table(self) -> bytes:
        marker = self._put(_MARKER.pack(_TABLE_BYTES // SECTOR, 0, _TABLE))
        struct.pack_into("<I", self._directory, self._table_number * 4, self._sector())
        table = self._put(struct.pack(f"<{_TABLE_ENTRIES}I", *self._table))
        self._table = []
        return marker + table

    def _header(self, directory: int) -> bytes:
        fields = (b"KDMV", 3, _FLAGS, self._capacity // SECTOR, _GRAIN_SECTORS, 1, _DESCRIPTOR_SECTORS)
        rest = (_TABLE_ENTRIES, 0, directory, _OVERHEAD_SECTORS, 0, b"\n \r\n", 1)
        return _HEADER.pack(*fields, *rest).ljust(SECTOR, b"\0")

    def _sector(self) -> int:
        sector = self._position // SECTOR
        if sector > _MAX_SECTOR:
            raise QuotaExceeded(
                "the disk still has more than 2 TiB when compressed; a VMDK stream cannot hold it: move part of its "
                "content to another disk, or choose another destination"
            )
        return sector

    def _put(self, data: bytes) -> bytes:
        whole = data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")
        self._position += len(whole)
        return whole
