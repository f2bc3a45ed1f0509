"""kill -9 of a conversion at random moments: the replica stays as it is, nothing is left, the next attempt ends well.

CORIOLIS_FAULT_RUNS sets the kills: a fifth of it (2 in CI, 20 by ``make fault``); CORIOLIS_FAULT_SEED repeats a series.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.fault.children import seeded
from tests.fault.conversion import Conversions, disk_digest, kill_at

pytestmark = [pytest.mark.fault, pytest.mark.lab, pytest.mark.timeout(3600)]

RUNS = max(1, int(os.environ.get("CORIOLIS_FAULT_RUNS", "3")) // 5)


@pytest.fixture(scope="module", autouse=True)
def _needs() -> None:
    pytest.importorskip("guestfs")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for tool in ("mke2fs", "debugfs", "e2fsck", "sfdisk", "qemu-img", "busybox"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


def test_killed_at_random_moments_a_conversion_is_repeated(tmp_path: Path) -> None:
    """Two kills, the second over what the first left, then an attempt that is let be."""
    conversions = Conversions(tmp_path)
    try:
        conversions.new_volume()
        started = time.monotonic()
        undisturbed = conversions.convert()
        whole_s = time.monotonic() - started
        truth = conversions.files_of_volume(tmp_path / "truth")
        conversions.new_volume()
        for number in range(RUNS):
            rng = seeded("conversion", number)
            moment = kill_at(conversions, number, rng, whole_s, undisturbed.disks[0].extents)
            print(f"run {number}: killed {moment}; writing: {conversions.writing}")
            assert disk_digest(conversions.replica) == conversions.replica_digest
            if not conversions.writing:
                assert disk_digest(conversions.volume) == conversions.replica_digest, "written before the commit"
            if number % 2 == 0 and number + 1 < RUNS:
                continue
            committed = (conversions.work_dir / "conversion.json").exists()
            result = conversions.convert()
            assert result.reapplied == committed
            assert conversions.files_of_volume(tmp_path / f"files-{number}") == truth, f"run {number}: {moment}"
            assert disk_digest(conversions.replica) == conversions.replica_digest
            assert conversions.leftovers() == []
            shutil.rmtree(tmp_path / f"files-{number}")
            conversions.new_volume()
    finally:
        shutil.rmtree(conversions.scratch)
