"""Configuration of each role: one TOML file, then ``CORIOLIS_*`` variables, then flags; the later one wins.

Every field of a role's struct is a key of its file and, in capitals with the prefix, a variable; lists are
comma-separated there. Unknown keys are refused by name.
"""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from coriolis.errors import InvalidInput

PREFIX = "CORIOLIS_"
MAX_FILE_BYTES = 1 << 20


class EtcdConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``endpoints`` as host:port. ``tls_dir`` holds ca.pem, cert.pem, key.pem; empty means no TLS (loopback only)."""

    endpoints: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:2379"])
    tls_dir: str = ""
    server_name: str = ""
    user: str = ""
    password_file: str = ""


class KeystoneConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The service's own account at Keystone, used by no other mesh: trusts for it that no job knows are deleted.

    ``auth_url``: with ``/v3``. ``password_file``: mode 0600. ``interface``: of the catalog, what coordinators reach.
    ``ca_file``: for a CA that the system does not know. ``trust_days``: a job that outlives them waits
    for new credentials.
    """

    auth_url: str
    username: str = "coriolis"
    password_file: str = "keystone.password"
    project_name: str = "service"
    user_domain_name: str = "Default"
    project_domain_name: str = "Default"
    region_name: str = ""
    interface: Literal["public", "internal", "admin"] = "public"
    ca_file: str = ""
    trust_days: int = 30

    def __post_init__(self) -> None:
        if not self.auth_url.startswith(("http://", "https://")) or not self.auth_url.rstrip("/").endswith("/v3"):
            raise InvalidInput(f"keystone.auth_url is {self.auth_url!r}; it must be http(s)://.../v3")
        if not 1 <= self.trust_days <= 365:
            raise InvalidInput(f"keystone.trust_days is {self.trust_days}; 1 to 365 are possible")


class CoordinatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``listen``: host:port of gRPC. ``advertise``: what others dial (default: ``listen``).

    ``keystone``: the same account as the gateways'. ``secret_store``: what ``secret_id`` names; ``barbican`` needs
    ``keystone``.
    """

    id: str = ""
    listen: str = "127.0.0.1:7668"
    advertise: str = ""
    tls_dir: str = "tls"
    secret_key_file: str = "secret.key"
    secrets_dir: str = "secrets"
    metrics_listen: str = ""
    secret_store: Literal["embedded", "barbican"] = "embedded"
    keystone: KeystoneConfig | None = None
    etcd: EtcdConfig = EtcdConfig()

    def __post_init__(self) -> None:
        if self.secret_store == "barbican" and self.keystone is None:
            raise InvalidInput('secret_store = "barbican" needs the table [keystone]')


class OfferConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``match``: patterns of connection_info members that are near this agent; none: any endpoint of the type."""

    type: str
    match: list[dict[str, str]] = []


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``data_bind``/``data_advertise``: address on which sinks listen, and under which others reach them.

    ``data_ports``: ports that its data listeners may use (``7700-7799``); empty: any free one. ``inbound``: ``none``
    declares that nobody can dial this agent. ``relay``: copy encrypted bytes between two other agents that cannot
    dial each other. ``read_limit_bytes_per_s``: most that is read of one disk at the origin; 0 means no limit.
    ``package_bundle``: directory with packages for converted guests, ``<distribution>/<version>/*.deb`` or ``*.rpm``.
    ``virtio_win``: the virtio-win ISO, for Windows guests. ``vddk_dir``: VMware's Virtual Disk Development Kit, as
    unpacked (``lib64`` below it), for nbdkit's vddk plugin. ``staging_dir``: where disks wait that a cloud takes only
    as whole images; default: ``staging`` in ``state_dir``. ``cinder_drivers``: kinds of Cinder volumes
    that this host may attach itself with os-brick (``nfs``, ``iscsi``, ...); ``cinder_mount_dir``: where it mounts
    shares, default ``cinder`` in ``state_dir``; ``cinder_python``: the interpreter that has os-brick.
    """

    id: str = ""
    site: str = ""
    state_dir: str = "agent"
    tls_dir: str = "tls"
    data_bind: str = "127.0.0.1"
    data_advertise: str = ""
    data_ports: str = ""
    inbound: Literal["any", "none"] = "any"
    relay: bool = False
    projects: list[str] = []
    read_limit_bytes_per_s: int = 0
    offers: list[OfferConfig] = []
    package_bundle: str = ""
    virtio_win: str = ""
    vddk_dir: str = ""
    staging_dir: str = ""
    cinder_drivers: list[str] = []
    cinder_mount_dir: str = ""
    cinder_python: str = "/usr/bin/python3"
    metrics_listen: str = ""
    etcd: EtcdConfig = EtcdConfig()


Config = TypeVar("Config", bound=msgspec.Struct)


def load_config(
    kind: type[Config],
    path: Path | None,
    flags: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """The configuration of a role. Raises InvalidInput naming file and key."""
    values: dict[str, Any] = {}
    if path is not None:
        values = _read(path)
    for field in msgspec.structs.fields(kind):
        text = environ.get(PREFIX + field.name.upper())
        if text is not None:
            values[field.name] = _from_text(field.name, field.type, text)
    endpoints = environ.get(PREFIX + "ETCD_ENDPOINTS")
    if endpoints:
        values["etcd"] = {**values.get("etcd", {}), "endpoints": endpoints.split(",")}
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as wrong:
        raise InvalidInput(f"configuration{f' {path}' if path else ''}: {wrong}") from wrong


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return tomllib.loads(path.read_text())
    except OSError as failed:
        raise InvalidInput(f"{path} cannot be read: {failed.strerror}") from failed
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise InvalidInput(f"{path} is not TOML: {broken}") from broken


def _from_text(name: str, kind: Any, text: str) -> Any:
    if kind == list[str]:
        return [part for part in text.split(",") if part]
    try:
        # a variable is always text: numbers and booleans are read from it
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as wrong:
        raise InvalidInput(f"{PREFIX}{name.upper()}: {wrong}") from wrong


def default_id(prefix: str) -> str:
    """An id for a role without one: prefix and host name."""
    return f"{prefix}-{socket.gethostname()}"
