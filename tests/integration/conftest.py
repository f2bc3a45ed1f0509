"""Of the lab, for each file of tests: a project of the OpenStack with one job for each test, a simulated vSphere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the SDK is imported by those who have it
    from tests.contract.openstack_destination import Project
    from tests.integration.openstack_project import Trial
    from tests.lab.openstack_site import Cloud
    from tests.lab.vcsim import Simulator
    from tests.lab.vsphere_site import Site


@pytest.fixture(scope="module")
def project(whole_cloud: Cloud) -> Iterator[Project]:
    from tests.contract.openstack_destination import Project
    from tests.integration.openstack_guests import clear_all

    made = Project(whole_cloud)
    yield made
    clear_all(made)


@pytest.fixture
def trial(project: Project, tmp_path: Path) -> Iterator[Trial]:
    """It must clean up after itself."""
    from tests.integration.openstack_project import Trial

    made = Trial(project, tmp_path)
    yield made
    left = project.leftovers()
    project.clear()
    assert left == []


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """govmomi's vcsim as it is."""
    from tests.lab.vcsim import vcsim

    with vcsim() as running:
        yield running


@pytest.fixture(scope="module")
def vsphere_with_phony_parts() -> Iterator[Site]:
    """vcsim behind the lab's proxy, which freezes snapshots, tracks changes and goes wrong when asked to."""
    from tests.lab.vsphere_site import vsphere_site

    with vsphere_site() as running:
        yield running


@pytest.fixture
def impatient_vsphere(vsphere_with_phony_parts: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The same for tests of what goes wrong: our readers wait shortly, and no fault outlives its test."""
    from tests.integration.vsphere_frozen import shorten_waits

    shorten_waits(monkeypatch)
    vsphere_with_phony_parts.vcenter.folder_locks = "none"
    yield vsphere_with_phony_parts
    vsphere_with_phony_parts.faults.clear()
    vsphere_with_phony_parts.lease_timeout(300)
