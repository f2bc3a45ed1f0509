"""A real OpenStack for a test: ``with openstack_site("keystone", "barbican") as cloud``.

With CORIOLIS_OPENSTACK_HOME the cloud of that home is joined (what is missing of it is started) and left running, so
that a developer pays for its start once. Otherwise a fresh one on free ports lives as long as the block.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keystoneauth1 import session
from keystoneauth1.identity import v3

import coriolis.keystone  # noqa: F401  # before keystoneauth1
from coriolis.etcd.embedded import free_port

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
"""The services are Debian's, so is what starts them."""
START_TIMEOUT_S = 400
STOP_TIMEOUT_S = 120
ALL_SERVICES = ("keystone", "barbican", "glance", "placement", "cinder", "neutron", "nova")
PORTS = ("KEYSTONE", "BARBICAN", "GLANCE", "PLACEMENT", "CINDER", "NEUTRON", "NOVA", "RABBIT", "RABBIT_DIST", "EPMD")


@dataclass(frozen=True)
class Account:
    """A user in a project. ``clouds_yaml`` is what stands under a cloud's name in a clouds.yaml."""

    auth_url: str
    region: str
    user: str
    password: str
    project: str
    user_id: str = ""
    project_id: str = ""

    def auth(self, **changes: Any) -> v3.Password:
        """Another project: ``project_name=``; unscoped: ``project_name=None, project_domain_name=None``."""
        members = {
            "username": self.user,
            "password": self.password,
            "project_name": self.project,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }
        return v3.Password(self.auth_url, **{**members, **changes})

    def session(self, **changes: Any) -> session.Session:
        return session.Session(auth=self.auth(**changes))

    def token(self, **changes: Any) -> str:
        """A fresh one."""
        return str(self.session(**changes).get_token())

    @property
    def clouds_yaml(self) -> dict[str, Any]:
        auth = {
            "auth_url": self.auth_url,
            "username": self.user,
            "password": self.password,
            "project_name": self.project,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }
        return {"auth": auth, "region_name": self.region, "identity_api_version": 3, "interface": "public"}


class Cloud:
    """A home and its accounts. ``admin`` may everything, ``demo`` is an ordinary tenant (roles member and creator)."""

    def __init__(self, home: Path, services: tuple[str, ...], environ: dict[str, str]) -> None:
        self.home = home
        self.services = services
        self._environ = {**os.environ, **environ, "CORIOLIS_OPENSTACK_HOME": str(home)}
        self.start()
        said = self._run("env", timeout_s=30)
        shown = dict(
            line.removeprefix("export ").split("=", 1) for line in said.splitlines() if line.startswith("export ")
        )
        values = {name: value.strip("'") for name, value in shown.items()}
        self.auth_url, self.region = values["OS_AUTH_URL"], values["OS_REGION_NAME"]
        self._password = values["OS_PASSWORD"]
        self.admin = self._account("admin", "admin")
        self.demo = self._account("demo", "demo")

    def _account(self, user: str, project: str) -> Account:
        plain = Account(self.auth_url, self.region, user, self._password, project)
        access = plain.auth().get_access(session.Session())
        return Account(self.auth_url, self.region, user, self._password, project, access.user_id, access.project_id)

    def _run(self, *arguments: str, timeout_s: float) -> str:
        command = [PYTHON, "-m", "tests.lab.openstack", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self._environ, capture_output=True, text=True, timeout=timeout_s)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout

    def start(self) -> None:
        """Start what does not run."""
        self._run("start", "--services", ",".join(self.services), timeout_s=START_TIMEOUT_S)

    def stop(self) -> None:
        """Stop everything of this home; ``start`` brings the same cloud back."""
        self._run("stop", timeout_s=STOP_TIMEOUT_S)

    def stop_process(self, name: str) -> None:
        """End one process of the cloud, e.g. ``keystone`` or ``nova-compute``."""
        self._run("stop", "--process", name, timeout_s=STOP_TIMEOUT_S)

    def identity(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A call of the identity API as admin; an empty answer is an empty object."""
        answer = self.admin.session().request(
            path, method, json=body, endpoint_filter={"service_type": "identity", "interface": "public"}
        )
        document: dict[str, Any] = answer.json() if answer.content else {}
        return document

    def project(self, name: str = "") -> str:
        """The id of a new project."""
        name = name or f"project-{uuid.uuid4().hex[:8]}"
        body = {"project": {"name": name, "domain_id": "default"}}
        return str(self.identity("POST", "/projects", body)["project"]["id"])

    def account(self, *roles: str, project_id: str = "", name: str = "") -> Account:
        """A new user with these roles (default: member) in a new or the named project."""
        project_id = project_id or self.project()
        name = name or f"user-{uuid.uuid4().hex[:8]}"
        password = uuid.uuid4().hex
        body = {"user": {"name": name, "password": password, "domain_id": "default"}}
        user_id = self.identity("POST", "/users", body)["user"]["id"]
        known = {role["name"]: role["id"] for role in self.identity("GET", "/roles")["roles"]}
        for role in roles or ("member",):
            role_id = known.get(role) or self.identity("POST", "/roles", {"role": {"name": role}})["role"]["id"]
            known[role] = role_id
            self.identity("PUT", f"/projects/{project_id}/users/{user_id}/roles/{role_id}")
        project = self.identity("GET", f"/projects/{project_id}")["project"]["name"]
        return Account(self.auth_url, self.region, name, password, project, str(user_id), project_id)


@contextmanager
def openstack_site(*services: str, token_s: int = 3600, ceph: Path | None = None) -> Iterator[Cloud]:
    """The services and what they need; ``token_s``: life of tokens in a fresh cloud. RuntimeError when one fails.

    ``ceph``: folder of a ``tests.lab.ceph`` that knows client.cinder: Cinder gets a second volume type, ``rbd``. The
    cloud is a fresh one then, for its Ceph ends with the test.
    """
    named = os.environ.get("CORIOLIS_OPENSTACK_HOME")
    if named and ceph is None:
        yield Cloud(Path(named), services, {})
        return
    home = Path(tempfile.mkdtemp(prefix="coriolis-cloud-"))
    home.chmod(0o755)  # dnsmasq gives up root, then reads who gets which address
    ports = {f"CORIOLIS_OPENSTACK_PORT_{name}": str(free_port()) for name in PORTS}
    cloud = None
    try:
        environ = {**ports, "CORIOLIS_OPENSTACK_TOKEN_S": str(token_s), "CORIOLIS_OPENSTACK_CEPH": str(ceph or "")}
        cloud = Cloud(home, services, environ)
        yield cloud
    finally:
        if cloud is None:  # what came up before the failure
            environ = {**os.environ, **ports, "CORIOLIS_OPENSTACK_HOME": str(home)}
            subprocess.run([PYTHON, "-m", "tests.lab.openstack", "stop"], cwd=ROOT, env=environ, timeout=STOP_TIMEOUT_S)
        else:
            cloud.stop()
        shutil.rmtree(home, ignore_errors=True)
