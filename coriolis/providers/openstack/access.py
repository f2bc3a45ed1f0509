"""What a connection_info says on how to log in, once its forms are one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from coriolis.errors import InvalidInput

DEFAULT_DOMAIN_ID = "default"


class Access(msgspec.Struct, frozen=True):
    """``login``: members of keystoneauth's plugin of that ``kind``; of a token, those of ``given_token``."""

    kind: Literal["password", "application_credential", "token"]
    auth_url: str
    login: dict[str, Any]
    region: str = ""
    interface: str = "public"
    allow_untrusted: bool = False
    ca: str = ""

    @property
    def where(self) -> str:
        """Host and port of Keystone, for messages."""
        return urlsplit(self.auth_url).netloc

    @property
    def who(self) -> str:
        """The account, for messages."""
        login = self.login
        user = login.get("username") or login.get("user_id") or ""
        if self.kind == "token":
            return "the job's token"
        if self.kind == "application_credential":
            name = login.get("application_credential_id") or login["application_credential_name"]
            return f"application credential {name}"
        return f"user {user}"


def access_of(info: Mapping[str, Any]) -> Access:
    """``info`` has passed the schema. Raises InvalidInput that names the member that is missing or too much."""
    given = {**info.get("auth", {}), **{key: value for key, value in info.items() if key != "auth"}}
    if "auth_url" not in given:
        raise InvalidInput("connection_info: auth_url is missing; it is Keystone's address, as in a clouds.yaml")
    common: dict[str, Any] = {
        "auth_url": v3_url(given["auth_url"]),
        "region": given.get("region_name", ""),
        "interface": given.get("interface", "public"),
        "allow_untrusted": given.get("allow_untrusted", not given.get("verify", True)),
        "ca": given.get("ca", ""),
    }
    if "token" in given:
        return Access(kind="token", login=_token(given), **common)
    if any(key.startswith("application_credential_") for key in given):
        return Access(kind="application_credential", login=_application_credential(given), **common)
    return Access(kind="password", login=_password(given), **common)


def v3_url(url: str) -> str:
    """``url`` with the path of version 3. Raises InvalidInput for another version's."""
    trimmed = url.rstrip("/")
    last = trimmed.rsplit("/", 1)[-1]
    if last in ("v2.0", "v2"):
        raise InvalidInput("connection_info: auth_url is of Keystone's version 2, which is gone; give the one of v3")
    return trimmed if last == "v3" else f"{trimmed}/v3"


def _need(given: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not given.get(name):
            raise InvalidInput(f"connection_info: {name} is missing")


def _only(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names if given.get(name)}


def _token(given: Mapping[str, Any]) -> dict[str, Any]:
    _need(given, "token_expires_at", "project_id")
    return {**_only(given, "token", "token_expires_at", "project_id"), "auth_url": v3_url(given["auth_url"])}


def _user(given: Mapping[str, Any]) -> dict[str, Any]:
    if given.get("user_id"):
        return _only(given, "user_id")
    if not given.get("username"):
        raise InvalidInput("connection_info: username (or user_id) is missing")
    domain = _only(given, "user_domain_id") or _only(given, "user_domain_name")
    return {"username": given["username"], **(domain or {"user_domain_id": DEFAULT_DOMAIN_ID})}


def _application_credential(given: Mapping[str, Any]) -> dict[str, Any]:
    """It belongs to one project, so a project beside it is left out."""
    _need(given, "application_credential_secret")
    secret = _only(given, "application_credential_secret")
    if given.get("application_credential_id"):
        return {**secret, **_only(given, "application_credential_id")}
    _need(given, "application_credential_name")
    return {**secret, **_only(given, "application_credential_name"), **_user(given)}


def _password(given: Mapping[str, Any]) -> dict[str, Any]:
    _need(given, "password")
    login = {**_user(given), **_only(given, "password")}
    if given.get("project_id"):
        return {**login, **_only(given, "project_id")}
    if not given.get("project_name"):
        raise InvalidInput("connection_info: project_name (or project_id) is missing")
    domain = _only(given, "project_domain_id") or _only(given, "project_domain_name")
    return {**login, **_only(given, "project_name"), **(domain or {"project_domain_id": DEFAULT_DOMAIN_ID})}
