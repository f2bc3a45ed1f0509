"""An entry of clouds.yaml, read by openstacksdk, as connection_info of the OpenStack provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

pytest.importorskip("openstack")
from coriolis.cli.clouds_yaml import AUTH, cloud_connection
from coriolis.cli.request_options import with_connections
from coriolis.providers.openstack import connection_schema

PASSWORD = {"auth_url": "http://192.0.2.1:5000/v3", "username": "demo", "project_name": "demo"}
CREDENTIAL = {
    "auth_url": "https://192.0.2.1/v3",
    "application_credential_id": "i",
    "application_credential_secret": "s",
}


@pytest.fixture
def clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The variables of a mesh's admin-openrc are set, as they are when the command runs."""
    for name, value in {"AUTH_URL": "http://mesh/v3", "USERNAME": "mesh", "PASSWORD": "mesh", "CLOUD": "other"}.items():
        monkeypatch.setenv(f"OS_{name}", value)
    (tmp_path / "ca.pem").write_text("subject=x\n-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n")
    entries: dict[str, Any] = {
        "plain": {"auth": {**PASSWORD, "user_domain_name": "Default"}, "region_name": "one", "identity_api_version": 3},
        "credential": {"auth_type": "v3applicationcredential", "auth": CREDENTIAL, "interface": "internal"},
        "trusting": {"auth": PASSWORD, "verify": False},
        "private": {"auth": PASSWORD, "cacert": str(tmp_path / "ca.pem")},
        "nowhere": {"auth": {"username": "x", "password": "y"}},
        "token": {"auth_type": "v3token", "auth": {"auth_url": "http://192.0.2.1", "token": "t"}},
        "lost": {"auth": PASSWORD, "cacert": str(tmp_path / "absent.pem")},
    }
    path = tmp_path / "clouds.yaml"
    path.write_text(yaml.safe_dump({"clouds": entries}))
    (tmp_path / "secure.yaml").write_text(yaml.safe_dump({"clouds": {"plain": {"auth": {"password": "hidden"}}}}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
    monkeypatch.setenv("OS_CLIENT_SECURE_FILE", str(tmp_path / "secure.yaml"))
    return path


def test_what_the_provider_takes_and_nothing_of_the_environment(clouds: Path) -> None:
    assert set(AUTH) == set(connection_schema.AUTH)
    for name in ("plain", "credential", "trusting", "private"):
        jsonschema.validate(cloud_connection(name), connection_schema.CONNECTION)
    plain = cloud_connection("plain")
    assert {**PASSWORD, "password": "hidden"}.items() <= plain["auth"].items()
    assert plain["region_name"] == "one"
    assert cloud_connection("credential") == {"auth": CREDENTIAL, "interface": "internal"}
    assert cloud_connection("trusting")["verify"] is False
    assert cloud_connection("private")["ca"].startswith("-----BEGIN CERTIFICATE-----")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "there is no cloud 'absent'"),
        ("absent", "known: credential, lost"),
        ("nowhere", "no auth_url"),
        ("token", "v3token"),
        ("lost", "cannot be read"),
    ],
)
def test_what_cannot_be_taken_over_is_told(clouds: Path, name: str, words: str) -> None:
    with pytest.raises(click.UsageError, match=words):
        cloud_connection(name)


def test_a_side_is_a_cloud_or_a_connection(clouds: Path) -> None:
    image = {"type": "image", "connection_info": {"path": "/x"}}
    found = with_connections({"origin": image, "destination": {"cloud": "trusting", "target_environment": {"a": 1}}})
    assert found["origin"] == image
    assert found["destination"]["type"] == "openstack"
    assert found["destination"]["target_environment"] == {"a": 1}
    assert "cloud" not in found["destination"]
    for wrong in ({"cloud": 1}, {"cloud": "plain", "type": "image"}, {"cloud": "plain", "connection_info": {"a": 1}}):
        with pytest.raises(click.UsageError):
            with_connections({"origin": wrong, "destination": image})
