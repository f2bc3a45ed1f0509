"""Shows that a machine boots before it is made: a throw-away domain over transient disks, apart from every network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
import xml.etree.ElementTree as ET
from functools import partial
from typing import Any

import libvirt
import libvirt_qemu

from coriolis.errors import TimedOut, Unsupported
from coriolis.ids import derived_id
from coriolis.model.resource import BootProof, InstanceRequest
from coriolis.providers.libvirt.domain_build import NO_NETWORK, Shape, VolumeFile, build_domain
from coriolis.providers.libvirt.session import Session

POLL_S = 1.0
AGENT_TIMEOUT_S = 2
SCREEN_LINES, SCREEN_CHARS = 25, 1000
"""What fits into one event of a task."""
LOG_TAIL_BYTES = 16 << 10
_PROMPT = re.compile(r"(?:^|[\r\n])[^\r\n]{0,80}\blogin: *$")
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[@-_])")


def proof_name(request: InstanceRequest) -> str:
    """Of the throw-away domain; the same for each attempt, so that two never run at once."""
    return f"{request.name[:200]}-proof-{request.instance_id[:8]}"


def proof_domain(request: InstanceRequest, files: tuple[VolumeFile, ...], shape: Shape) -> str:
    """The domain to run: as the real one, but what it writes is lost at its end, and its NICs have no link. Pure."""
    nowhere = {nic.network_name: NO_NETWORK for nic in request.spec.devices.nics}
    root = ET.fromstring(build_domain(request, files, nowhere, shape))
    for element, text in (("name", proof_name(request)), ("uuid", derived_id(request.instance_id, "proof"))):
        found = root.find(element)
        assert found is not None
        found.text = text
    metadata = root.find("metadata")
    if metadata is not None:
        root.remove(metadata)  # it is no machine of the job: nobody shall find it as one
    for disk in root.iter("disk"):
        ET.SubElement(disk, "transient")
    return ET.tostring(root, encoding="unicode")


def screen(log: bytes) -> str:
    """The last screen of a serial console: at most 25 lines and 1000 characters, control sequences taken out."""
    text = _ESCAPES.sub("", log.decode("utf-8", "replace")).replace("\r\n", "\n").replace("\r", "\n")
    lines = [line.rstrip() for line in text.split("\n")]
    kept = [line for line in lines if line][-SCREEN_LINES:]
    return "\n".join("".join(char if char.isprintable() else "?" for char in line) for line in kept)[-SCREEN_CHARS:]


def at_prompt(log: bytes) -> bool:
    """Whether the console ends with a login prompt."""
    text = _ESCAPES.sub("", log.decode("utf-8", "replace"))
    return _PROMPT.search(text[-400:]) is not None


async def prove(
    session: Session, request: InstanceRequest, files: tuple[VolumeFile, ...], shape: Shape, timeout_s: float
) -> BootProof:
    """Boot, wait for a login prompt on the serial console or for the guest's agent, and remove everything.

    The domain ends with our connection, however we end (VIR_DOMAIN_START_AUTODESTROY).
    Raises TimedOut with the last screen, Unsupported when the machine stops by itself.
    """
    log = shape.console_log
    await session.run(partial(_remove_former, proof_name(request), files, log))
    started = time.monotonic()
    xml = proof_domain(request, files, shape)
    domain = await session.run(lambda c: c.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY))
    try:
        while (waited := time.monotonic() - started) < timeout_s:
            said = await asyncio.to_thread(_tail, log)
            if at_prompt(said):
                return BootProof("login prompt", round(waited, 1), screen(said))
            state = await session.run(partial(_look, domain))
            if state == "agent":
                return BootProof("guest agent", round(waited, 1), screen(said))
            if state == "stopped":
                raise Unsupported(f"the converted machine stopped by itself as it booted; it said: {_shown(said)}")
            await asyncio.sleep(POLL_S)
        said = await asyncio.to_thread(_tail, log)
        raise TimedOut(
            f"the converted machine reached no login prompt within {timeout_s:.0f} s; its console ends: {_shown(said)}"
        )
    finally:
        await session.run(partial(_end, domain, files, log))


def _shown(log: bytes) -> str:
    return screen(log)[-600:].replace("\n", " | ") or "nothing was written to it"


def _look(domain: Any, _connection: Any) -> str:
    """``agent`` when the guest's agent answers, ``stopped``, else ``running``."""
    try:
        if not domain.isActive():
            return "stopped"
        answer = libvirt_qemu.qemuAgentCommand(domain, json.dumps({"execute": "guest-ping"}), AGENT_TIMEOUT_S, 0)
        return "agent" if answer else "running"
    except libvirt.libvirtError as error:
        gone = error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
        return "stopped" if gone else "running"


def _remove_former(name: str, files: tuple[VolumeFile, ...], log: str, connection: Any) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        connection.lookupByName(name).destroy()
    _remove_files(name, files, log)


def _end(domain: Any, files: tuple[VolumeFile, ...], log: str, _connection: Any) -> None:
    name, nvram = "", None
    with contextlib.suppress(libvirt.libvirtError):
        name = domain.name()
        nvram = ET.fromstring(domain.XMLDesc(0)).findtext("os/nvram")
        domain.destroy()
    _remove_files(name, files, log)
    if nvram:  # a transient domain has none of its own to undefine
        with contextlib.suppress(OSError):
            os.unlink(nvram)


def _remove_files(name: str, files: tuple[VolumeFile, ...], log: str) -> None:
    """What libvirt leaves when it is killed itself: overlays of transient disks, named after the domain."""
    left = [f"{volume.path}.TRANSIENT-{name}" for volume in files] if name else []
    for path in (*left, log):
        with contextlib.suppress(OSError):
            os.unlink(path)


def _tail(log: str) -> bytes:
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            return file.read(LOG_TAIL_BYTES)
    except OSError:
        return b""
