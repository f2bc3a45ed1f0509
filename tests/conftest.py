"""For all tests: with CORIOLIS_NO_SKIPS=1, as `make test` sets it, a missing prerequisite fails instead of skipping."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.lab.ceph import Ceph
    from tests.lab.openstack_site import Cloud

# A gate must judge the change, not the draw: CI repeats one series of examples, everybody else draws new ones.
# How long one example takes says nothing on machines that are shared.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")

_PREREQUISITE = re.compile(r"needs |could not import|No module named")


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    if report.skipped and os.environ.get("CORIOLIS_NO_SKIPS") == "1" and _PREREQUISITE.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{reason}: run tools/setup_system"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.fixture(scope="session")
def identity_cloud() -> Iterator[Cloud]:
    """A real Keystone and Barbican, one for the whole run."""
    if os.geteuid() != 0 or not shutil.which("keystone-manage", path="/usr/bin"):
        pytest.skip("needs root and a Keystone: tools/setup_system keystone")
    from tests.lab.openstack_site import openstack_site

    with openstack_site("keystone", "barbican") as cloud:
        yield cloud


@pytest.fixture(scope="session")
def whole_cloud() -> Iterator[Cloud]:
    """A real OpenStack with all its services, one for the whole run; CORIOLIS_OPENSTACK_HOME names one that runs."""
    if os.geteuid() != 0 or not shutil.which("nova-manage", path="/usr/bin"):
        pytest.skip("needs root and an OpenStack: make openstack-lab")
    from tests.lab.openstack_site import ALL_SERVICES, openstack_site

    with openstack_site(*ALL_SERVICES) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def ceph_cloud() -> Iterator[tuple[Cloud, Ceph]]:
    """A real OpenStack of its own whose Cinder has a real Ceph beside NFS. No other one may run meanwhile."""
    if os.geteuid() != 0 or not shutil.which("nova-manage", path="/usr/bin") or not shutil.which("ceph-osd"):
        pytest.skip("needs root, an OpenStack and a Ceph: make ceph-lab openstack-lab")
    from tests.lab.ceph import CINDER, ceph_site
    from tests.lab.openstack_site import ALL_SERVICES, openstack_site

    with ceph_site() as ceph:
        ceph.user("cinder", CINDER)
        with openstack_site(*ALL_SERVICES, ceph=ceph.folder) as cloud:
            yield cloud, ceph
