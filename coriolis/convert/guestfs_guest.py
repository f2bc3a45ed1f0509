"""A guest's disks opened by libguestfs in its appliance.

Runs in the worker process; standard library and guestfs only.

Everything libguestfs says of a guest is hostile: it becomes Corrupt or Unsupported with a bounded, escaped
text.
"""

from __future__ import annotations

import errno
import os
import posixpath
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import guestfs

from coriolis.convert.appliance_limit import appliance_limit
from coriolis.convert.guest import MAX_LISTING
from coriolis.convert.guest_shell import guest_command, outcome, timed_out
from coriolis.convert.linux.devices import Devices
from coriolis.convert.linux.host_tools import scratch_directory
from coriolis.convert.text import shown
from coriolis.errors import Corrupt, TimedOut, Unavailable, Unsupported

PIECE_BYTES = 1 << 20  # the appliance's protocol carries at most 4 MiB a message
MAX_LAST_WORDS = 300
MAX_LISTING_BYTES = MAX_LISTING * 256
UMOUNT_TRIES = 15
UMOUNT_PAUSE_S = 1.0
_LEADS_NOWHERE = (os.strerror(errno.ELOOP), os.strerror(errno.ENAMETOOLONG))
_SELINUX = "security.selinux"

_T = TypeVar("_T")


@contextmanager
def launched(disks: Sequence[str], accelerator: str, memory_mb: int, *, network: bool = False) -> Iterator[Any]:
    """An appliance with the qcow2 files ``disks`` as sda, sdb, ...; a 1 MiB scratch disk when there are none.

    ``network``: programs of the guest reach the host's network; libguestfs lends them its resolv.conf meanwhile.

    Raises Unavailable when it does not start. Leaving without an error flushes and checks that.
    """
    handle = guestfs.GuestFS(python_return_dict=True)
    handle.set_backend("direct")
    handle.set_backend_settings(["force_kvm" if accelerator == "kvm" else "force_tcg"])
    handle.set_memsize(memory_mb)
    handle.set_smp(2)
    handle.set_network(network)
    try:
        try:
            for disk in disks:
                handle.add_drive_opts(disk, format="qcow2", cachemode="unsafe")
            if not disks:
                handle.add_drive_scratch(1 << 20)
            handle.launch()
        except RuntimeError as error:
            raise Unavailable(
                f"the conversion appliance did not start ({accelerator}): {shown(_first_line(error))}"
            ) from error
        yield handle
        try:
            _umount_all(handle)
            handle.shutdown()
        except RuntimeError as error:
            raise Corrupt(f"the converted file systems could not be flushed: {shown(error)}") from error
    finally:
        handle.close()


def _umount_all(handle: Any) -> None:
    """A program of the guest that was ended may need some seconds to be gone; until then its tree is busy."""
    for _ in range(UMOUNT_TRIES - 1):
        try:
            handle.umount_all()
            return
        except RuntimeError:
            time.sleep(UMOUNT_PAUSE_S)
    handle.umount_all()


class GuestfsGuest:
    """Implements ``coriolis.convert.guest.Guest`` over what is mounted in the appliance.

    Most calls of libguestfs change root into the guest. ``cp`` and the mounts do not: to them a link of the guest leads
    into the appliance's own tree, so they get the paths that ``realpath`` found inside.
    """

    def __init__(self, handle: Any, devices: Devices) -> None:
        self._g = handle
        self._devices = devices

    def is_file(self, path: str) -> bool:
        return ask(f"look at {path}", lambda: is_regular(self._g, path))

    def is_dir(self, path: str) -> bool:
        return ask(f"look at {path}", lambda: _leads_to(self._g.is_dir, path))

    def listdir(self, path: str) -> list[str]:
        if not self.is_dir(path):
            return []
        with tempfile.NamedTemporaryFile(dir=scratch_directory()) as listing:
            ask(
                f"list {path}", lambda: self._g.ls0(path, listing.name)
            )  # ls() fails for all names when one is no UTF-8
            raw = listing.read(MAX_LISTING_BYTES + 1)
        names = raw.split(b"\0")[:-1]
        if len(names) > MAX_LISTING or len(raw) > MAX_LISTING_BYTES:
            raise Unsupported(f"{shown(path)} of the guest holds more than {MAX_LISTING} files")
        return sorted(_texts(names))

    def size(self, path: str) -> int:
        return int(ask(f"look at {path}", lambda: self._g.filesize(path)))

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        out = bytearray()
        while len(out) < length:
            count, at = min(PIECE_BYTES, length - len(out)), offset + len(out)
            piece: bytes = ask(f"read {path}", partial(self._g.pread, path, count, at))
            if not piece:
                break
            out += piece
        return bytes(out)

    def write(self, path: str, data: bytes, mode: int | None = None) -> None:
        if not self.is_file(path) and ask(f"look at {path}", lambda: self._g.exists(path)):
            raise Unsupported(f"{shown(path)} of the guest is no regular file")  # a pipe would hang us
        self._make_directory_of(path)
        is_new = not self.is_file(path)
        ask(f"write {path}", lambda: self._g.write(path, data[:PIECE_BYTES]))
        if is_new:
            self._label_as_its_directory(path)
        if len(data) > PIECE_BYTES:
            self.write_at(path, PIECE_BYTES, data[PIECE_BYTES:])
        if mode is not None:
            ask(f"write {path}", lambda: self._g.chmod(mode, path))

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            piece, at = data[done : done + PIECE_BYTES], offset + done
            done += int(ask(f"write {path}", partial(self._g.pwrite, path, piece, at)))

    def truncate(self, path: str, size: int) -> None:
        ask(f"truncate {path}", lambda: self._g.truncate_size(path, size))

    def copy(self, source: str, destination: str) -> None:
        self._make_directory_of(destination)
        if self.read_link(destination) is not None or not self.is_file(destination):
            self.remove(destination)  # cp would follow a link, write to a device, wait for a pipe
        directory, name = posixpath.split(destination)
        ask(f"copy {source}", lambda: self._g.cp(self._g.realpath(source), f"{self._g.realpath(directory)}/{name}"))

    def rename(self, source: str, destination: str) -> None:
        ask(f"rename {source}", lambda: self._g.rename(source, destination))

    def remove(self, path: str) -> None:
        ask(f"remove {path}", lambda: self._g.rm_f(path))

    def read_link(self, path: str) -> str | None:
        if not ask(f"look at {path}", lambda: self._g.is_symlink(path)):
            return None
        return str(ask(f"look at {path}", lambda: self._g.readlink(path)))

    def symlink(self, target: str, path: str) -> None:
        self._make_directory_of(path)
        self.remove(path)
        ask(f"link {path}", lambda: self._g.ln_s(target, path))

    def run(self, command: Sequence[str], *, timeout_s: float) -> str:
        """libguestfs binds /dev, /proc and /sys of the appliance into the guest's tree for it. A program that outlives
        its time even so takes the appliance with it, and so the conversion.
        """
        name, late = shown(command[0]), f"did not end within {timeout_s:.0f} s"
        with appliance_limit(self._g, timeout_s) as ended:
            try:
                status, output = outcome(self._g.command(guest_command(command, timeout_s)))
            except (RuntimeError, UnicodeError) as error:
                if ended.is_set():
                    raise TimedOut(f"the guest's {name} {late}, and took the appliance with it") from error
                raise Unavailable(f"the guest's {name} cannot be run: {shown(_first_line(error))}") from error
        if timed_out(status):
            raise TimedOut(f"the guest's {name} {late}")
        if status != 0:
            raise Unavailable(f"the guest's {name} failed with status {status}: {shown(output[-MAX_LAST_WORDS:])}")
        return output

    def free_bytes(self, path: str) -> int:
        stat = ask(f"look at {path}", lambda: self._g.statvfs(path))
        return int(stat["bavail"]) * int(stat["bsize"])

    def uuid_of(self, device: str) -> str | None:
        return self._devices.uuid_of(device)

    def has_device(self, name: str) -> bool:
        return self._devices.find(name) is not None

    def _make_directory_of(self, path: str) -> None:
        parent = posixpath.dirname(path)
        if not self.is_dir(parent):
            ask(f"make {parent}", lambda: self._g.mkdir_p(parent))

    def _label_as_its_directory(self, path: str) -> None:
        """Give a new file the SELinux label that a running guest would: the one of its directory."""
        try:
            label: bytes = self._g.lgetxattr(posixpath.dirname(path), _SELINUX)
            self._g.lsetxattr(_SELINUX, label, len(label), path)
        except RuntimeError:
            return  # no SELinux in this guest, or a file system without attributes


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def is_regular(handle: Any, path: str) -> bool:
    """Whether a regular file is at the end of ``path``; a loop of links leads to none."""
    return _leads_to(handle.is_file, path)


def _leads_to(look: Callable[..., Any], path: str) -> bool:
    try:
        return bool(look(path, followsymlinks=True))
    except RuntimeError as error:  # Python's libguestfs gives no number
        if str(error).endswith(_LEADS_NOWHERE):
            return False
        raise


def _texts(names: Sequence[bytes]) -> Iterator[str]:
    """Without those that are no UTF-8: Python's libguestfs could not even ask for them."""
    for name in names:
        with suppress(UnicodeDecodeError):
            yield name.decode()


def ask(what: str, call: Callable[[], _T]) -> _T:
    """The answer of libguestfs; what it complains of becomes Corrupt."""
    try:
        return call()
    except (RuntimeError, UnicodeError) as error:
        raise Corrupt(f"the guest's file system failed: {shown(what)}: {shown(error)}") from error
