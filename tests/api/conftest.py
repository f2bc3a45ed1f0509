"""One stack for all tests of this folder; each test makes migrations of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("api")) as running:
        yield running
