"""A project of the lab's OpenStack for each file of tests, and one job in it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the SDK is imported by those who have it
    from tests.contract.openstack_destination import Project
    from tests.integration.openstack_project import Trial
    from tests.lab.openstack_site import Cloud


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
