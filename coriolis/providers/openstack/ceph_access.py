"""What a connection_info says on the Ceph behind Cinder, and how Cinder names things there. Pure.

Names: Cinder's ``volume_name_template`` and ``snapshot_name_template``, at their defaults; RBD driver of Zed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

DEFAULT_USER = "coriolis"
DEFAULT_POOLS = ("volumes",)
CONNECT_TIMEOUT_S = 15
"""librados would wait five minutes for monitors that do not answer."""
OPERATION_TIMEOUT_S = 60
"""librados would wait for an OSD for ever."""


class CephAccess(msgspec.Struct, frozen=True):
    """``mon_host``: as in a ceph.conf. ``user``: without ``client.``. ``pools``: where volumes are looked for."""

    mon_host: str
    user: str
    key: str
    pools: tuple[str, ...]

    def __repr__(self) -> str:
        return f"CephAccess({self.who} at {self.mon_host})"

    @property
    def who(self) -> str:
        return f"client.{self.user}"

    def options(self) -> dict[str, str]:
        """Of librados. The key goes no other way than through memory; no file of the host is read or written."""
        return {
            "mon_host": self.mon_host,
            "key": self.key,
            "keyring": "",
            "client_mount_timeout": str(CONNECT_TIMEOUT_S),
            "rados_mon_op_timeout": str(CONNECT_TIMEOUT_S),
            "rados_osd_op_timeout": str(OPERATION_TIMEOUT_S),
            # every byte is read once: a cache would only be locked and copied through
            "rbd_cache": "false",
            "log_file": "",
            "log_to_stderr": "false",
            "err_to_stderr": "false",
            "admin_socket": "",
        }


def ceph_access_of(info: Mapping[str, Any]) -> CephAccess | None:
    """``info`` has passed the schema; None when it names no Ceph."""
    given = info.get("ceph")
    if not given:
        return None
    user = str(given.get("user", DEFAULT_USER)).removeprefix("client.")
    return CephAccess(given["mon_host"], user, given["key"], tuple(given.get("pools", DEFAULT_POOLS)))


def image_name(volume_id: str) -> str:
    return f"volume-{volume_id}"


def snapshot_name(snapshot_id: str) -> str:
    return f"snapshot-{snapshot_id}"
