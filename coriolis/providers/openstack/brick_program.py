"""A program of its own: os-brick, connecting a volume to this host or letting it go. One JSON document in, one out.

It runs under the interpreter that has os-brick (Debian's), apart from the agent: os-brick brings eventlet, and works
with the rights of this process. Input: ``command`` (``properties``, ``connect``, ``disconnect``), ``host``, ``driver``,
``connection`` (may hold CHAP secrets, therefore never arguments), ``device``, ``mount_dir``. Output: ``value``, or
``error``. Ends with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
MAX_INPUT_BYTES = 1 << 20
MAX_SAID_CHARS = 400


def _perform(order: dict[str, Any]) -> Any:
    import os_brick.privileged  # type: ignore[import-untyped,unused-ignore]
    from os_brick.initiator import connector  # type: ignore[import-untyped,unused-ignore]

    os_brick.privileged.default.set_client_mode(False)  # this process has the rights already, or nobody has
    command = order["command"]
    if command == "properties":
        return connector.get_connector_properties(None, order["ip"], False, False, host=order["host"])
    options: dict[str, Any] = {}
    if order["driver"] == "nfs":
        options = {"nfs_mount_point_base": order["mount_dir"]}
    elif order["driver"] == "rbd":
        options = {"do_local_attach": True}  # a block device; else what os-brick gives is an object of this process
    made = connector.InitiatorConnector.factory(
        order["driver"], None, conn={**order["connection"], "mount_point_base": order["mount_dir"]}, **options
    )
    if command == "connect":
        return made.connect_volume(order["connection"])
    made.disconnect_volume(order["connection"], order.get("device") or {}, force=True, ignore_errors=True)
    return {}


def main() -> None:
    """Exit status 0 with an answer, even of an error."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    order = json.loads(sys.stdin.buffer.read(MAX_INPUT_BYTES))
    try:
        said = {"value": _perform(order)}
    except Exception as error:  # noqa: BLE001 - every failure of any driver becomes an answer
        said = {"error": f"{type(error).__name__}: {error}"[:MAX_SAID_CHARS]}
    with os.fdopen(answer, "w") as out:
        json.dump(said, out, default=str)


if __name__ == "__main__":
    main()
