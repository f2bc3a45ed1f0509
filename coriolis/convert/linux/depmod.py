"""Index a set of kernel modules with this machine's own depmod, in a scratch tree."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from coriolis.convert.linux.compression import Buffer, plain_module
from coriolis.convert.linux.host_tools import run_tool, scratch_directory
from coriolis.convert.text import shown
from coriolis.errors import Corrupt, Unsupported

INDEX_FILES = ("modules.dep.bin", "modules.alias.bin", "modules.softdep")
MAX_INDEXED_MODULES = 8000
MAX_INDEXED_BYTES = 1 << 30
MAX_MODULE_BYTES = 64 << 20
_SAFE_PATH = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*(/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)*")


def index_of(version: str, modules: Mapping[str, Buffer], lists: Mapping[str, bytes]) -> dict[str, bytes]:
    """The index files for ``modules`` (path below ``lib/modules/<version>`` -> content, packed as its name says).

    ``lists``: ``modules.order``, ``modules.builtin`` and the like, which depmod reads. Raises Corrupt, Unsupported,
    TimedOut.
    """
    if len(modules) > MAX_INDEXED_MODULES:
        raise Unsupported(f"an initramfs of the guest has more than {MAX_INDEXED_MODULES} kernel modules")
    with tempfile.TemporaryDirectory(dir=scratch_directory(), prefix="depmod.") as name:
        top = Path(name) / "lib/modules" / version
        left = MAX_INDEXED_BYTES
        for path, data in {**lists, **modules}.items():
            # depmod looks at the content, not at the ending: so it needs no decompression of its own
            plain = plain_module(path, bytes(data), MAX_MODULE_BYTES)
            left -= len(plain)
            if left < 0:
                raise Unsupported(f"the kernel modules of an initramfs have more than {MAX_INDEXED_BYTES} bytes")
            _place(top, path, plain)
        (Path(name) / "none").mkdir()  # this machine's depmod.d is nothing to the guest
        command = ("depmod", "-C", f"{name}/none", "-b", name, version)
        run_tool(command, "kmod", b"", MAX_MODULE_BYTES)
        return {one: (top / one).read_bytes() for one in INDEX_FILES if (top / one).is_file()}


def _place(top: Path, path: str, data: bytes) -> None:
    """Write below ``top``. The path is a guest's: it must not lead elsewhere."""
    if not _SAFE_PATH.fullmatch(path) or len(path) > 1000:
        raise Corrupt(f"an initramfs of the guest has a kernel module at an impossible path: {shown(path)}")
    try:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_bytes(data)
    except OSError as error:
        raise Corrupt(f"the kernel module {shown(path)} of the guest cannot be laid out here") from error
