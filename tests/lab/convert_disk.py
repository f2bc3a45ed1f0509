"""Convert a raw disk file: ``python -m tests.lab.convert_disk REPLICA VOLUME --work-dir DIR``.

VOLUME holds a copy of REPLICA and is written; ``--second`` gives the same for a further disk. Events go to standard
output with the seconds since the start, then the result as JSON. ``--kill-after-writes N`` ends the process by SIGKILL
before write N + 1 to the volume.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from pathlib import Path

import msgspec

from coriolis.convert.convert import convert
from coriolis.convert.platforms import PLATFORMS
from coriolis.convert.request import ConversionRequest, ConversionSettings, NicIdentity
from tests.lab.boot import DEFAULT_MAC
from tests.lab.file_volume import FileVolume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("replica", type=Path)
    parser.add_argument("volume", type=Path)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--state-dir", type=Path)
    parser.add_argument("--mac", action="append", metavar="MAC[=NAME]")
    parser.add_argument("--uefi", action="store_true")
    parser.add_argument("--platform", choices=sorted(PLATFORMS), default="kvm")
    parser.add_argument("--second", type=Path, nargs=2, metavar=("REPLICA", "VOLUME"))
    parser.add_argument("--way", choices=["auto", "fast", "full"], default="auto")
    parser.add_argument("--passphrase", action="append", default=[])
    parser.add_argument("--identity", default="replica-1")
    parser.add_argument("--kill-after-writes", type=int)
    asyncio.run(run(parser.parse_args()))


async def run(args: argparse.Namespace) -> None:
    left = args.kill_after_writes

    def before_write() -> None:
        nonlocal left
        if left is not None:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    nics = tuple(NicIdentity(*nic.split("=", 1)) for nic in args.mac or [DEFAULT_MAC])
    request = ConversionRequest("linux", args.platform, "EFI" if args.uefi else "BIOS", args.identity, nics, args.way)
    started = time.monotonic()
    pairs = [(args.replica, args.volume), *([args.second] if args.second else [])]
    result = await convert(
        request,
        [FileVolume(replica) for replica, _ in pairs],
        [FileVolume(volume, writable=True, before_write=before_write) for _, volume in pairs],
        args.work_dir,
        lambda text: print(f"[{time.monotonic() - started:5.1f}] {text}", flush=True),
        settings=ConversionSettings(state_dir=args.state_dir, passphrases=tuple(args.passphrase)),
    )
    print(msgspec.json.encode(result).decode(), flush=True)


if __name__ == "__main__":
    main()
