"""Certificates once per session, a lab per test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coriolis.rpc.tls import TlsFiles
from tests.unit.agent.pair import Lab, MemoryVolume, certificates


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    return certificates(tmp_path_factory.mktemp("pki"), "source", "sink", "stranger")


@pytest.fixture
def lab(tmp_path: Path, tls: dict[str, TlsFiles]) -> Callable[[int], Lab]:
    """A lab with an empty volume of the given size."""
    return lambda size: Lab(tmp_path, tls, MemoryVolume(size))
