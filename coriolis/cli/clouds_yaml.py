"""From an entry of clouds.yaml to the connection_info of the OpenStack provider.

The file is found and read by openstacksdk itself (``openstack.config``): ``OS_CLIENT_CONFIG_FILE``, the current
directory, ``~/.config/openstack``, ``/etc/openstack``; so is secure.yaml (``OS_CLIENT_SECURE_FILE``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

Document = dict[str, Any]

MAX_CA_BYTES = 65536
AUTH = (
    "auth_url",
    "username",
    "user_id",
    "password",
    "user_domain_name",
    "user_domain_id",
    "project_name",
    "project_id",
    "project_domain_name",
    "project_domain_id",
    "application_credential_id",
    "application_credential_name",
    "application_credential_secret",
)
"""Members of ``auth`` that the provider takes (``coriolis.providers.openstack.connection_schema``, which a test holds
this against)."""
LOGINS = ("password", "v3password", "v3applicationcredential")


def cloud_connection(name: str) -> Document:
    """Raises a usage error that lists the clouds when none has this name, or says what cannot be taken over."""
    try:
        import coriolis.keystone  # noqa: F401, I001  # before keystoneauth1
        from openstack import config, exceptions
    except ModuleNotFoundError as missing:
        raise click.UsageError(
            f"clouds.yaml needs openstacksdk: install coriolis-mesh[openstack] ({missing})"
        ) from missing
    loader = config.loader
    files = _files("OS_CLIENT_CONFIG_FILE", loader.CONFIG_FILES)
    secure = _files("OS_CLIENT_SECURE_FILE", loader.SECURE_FILES)
    try:
        # the OS_... variables are the mesh's login (admin-openrc), not the cloud's
        known = config.OpenStackConfig(config_files=files, secure_files=secure, load_envvars=False)
        clouds = sorted(known.get_cloud_names())
        if name not in clouds:
            where = known.config_filename or "no clouds.yaml was found"
            raise click.UsageError(f"there is no cloud {name!r} ({where}); known: {', '.join(clouds) or 'none'}.")
        found = known.get_one(cloud=name, validate=False).config
    except exceptions.ConfigException as broken:
        raise click.UsageError(f"clouds.yaml: {broken}") from broken
    return connection_of(found, name)


def _files(variable: str, known: list[str]) -> list[str]:
    """Where openstacksdk looks, with the file that the variable names first."""
    named = os.environ.get(variable)
    if named and not Path(named).is_file():
        raise click.UsageError(f"{variable} names {named}, which is no file.")
    return [named, *known] if named else list(known)


def connection_of(entry: Mapping[str, Any], name: str) -> Document:
    """``entry``: as openstacksdk read it, defaults included. Reads the file of ``cacert``."""
    login = str(entry.get("auth_type") or "password")
    if login not in LOGINS:
        raise click.UsageError(f"cloud {name!r} logs in by {login}; a password or an application credential is needed.")
    auth = entry.get("auth") or {}
    members = {member: str(auth[member]) for member in AUTH if auth.get(member)}
    if "auth_url" not in members:
        raise click.UsageError(f"cloud {name!r} has no auth_url.")
    info: Document = {"auth": members}
    if entry.get("region_name"):
        info["region_name"] = str(entry["region_name"])
    interface = str(entry.get("interface") or "public").removesuffix("URL")
    if interface != "public":
        info["interface"] = interface
    if entry.get("verify") is False:
        info["verify"] = False
    elif entry.get("cacert"):
        info["ca"] = _certificates(Path(str(entry["cacert"])).expanduser(), name)
    return info


def _certificates(path: Path, name: str) -> str:
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(MAX_CA_BYTES + 1)
    except (OSError, UnicodeDecodeError) as failed:
        raise click.UsageError(f"cloud {name!r}: cacert {path} cannot be read: {failed}") from failed
    start = text.find("-----BEGIN CERTIFICATE-----")
    if len(text) > MAX_CA_BYTES or start < 0:
        raise click.UsageError(f"cloud {name!r}: cacert {path} holds no certificates of at most {MAX_CA_BYTES} bytes.")
    return text[start:]
