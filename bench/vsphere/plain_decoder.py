"""The peer: decodes a stream-optimised VMDK from standard input with zlib, on one thread, and drops what comes out.

What one would write in an afternoon: buffered input, one grain after the other. Prints the decoded bytes to standard
error.
"""

from __future__ import annotations

import struct
import sys
import zlib
from typing import BinaryIO

SECTOR = 512
MARKER = struct.Struct("<QII")


def decode(stream: BinaryIO, out: BinaryIO) -> int:
    """Bytes decoded."""
    overhead = struct.unpack_from("<Q", stream.read(SECTOR), 64)[0]
    stream.read((overhead - 1) * SECTOR)
    done = 0
    while head := stream.read(SECTOR):
        value, size, kind = MARKER.unpack_from(head)
        if size:
            rest = -(-(12 + size) // SECTOR) * SECTOR - SECTOR
            data = zlib.decompress((head + stream.read(rest))[12 : 12 + size])
            out.write(data)
            done += len(data)
        elif kind == 0:
            break
        else:
            stream.read(value * SECTOR)
    stream.read()
    return done


if __name__ == "__main__":
    with open("/dev/null", "wb", buffering=1 << 20) as null:
        print(decode(sys.stdin.buffer, null), file=sys.stderr)
