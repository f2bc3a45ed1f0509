"""What a project may still have, compared with what a machine needs, before a byte moves."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from openstack import exceptions as sdk

from coriolis.errors import QuotaExceeded
from coriolis.providers.openstack.rest import ask
from coriolis.providers.openstack.session import Cloud

UNLIMITED = -1


class Limit(msgspec.Struct, frozen=True):
    """``total`` below 0: there is no limit."""

    total: int
    used: int

    @property
    def left(self) -> int | None:
        """None when there is no limit."""
        return max(0, self.total - self.used) if self.total >= 0 else None


Limits = Mapping[str, Limit]
_UNITS = {"memory": " MiB", "gigabytes": " GiB"}


def check_fits(limits: Limits, needs: Mapping[str, int]) -> None:
    """Raise QuotaExceeded that names every quota that is too small, with what is left and what is needed."""
    short = []
    for what, need in needs.items():
        left = limits[what].left if what in limits else None
        if left is not None and need > left:
            unit = _UNITS.get(what, "")
            total = limits[what].total
            short.append(f"{what}: {left}{unit} left of {total}{unit}, {need}{unit} needed")
    if short:
        raise QuotaExceeded(f"the project's quota does not suffice: {'; '.join(short)}: raise it, or free some of it")


def check_disk(limits: Limits, gigabytes: int, size: int) -> None:
    """For one more volume. Raises QuotaExceeded."""
    try:
        check_fits(limits, {"volumes": 1, "gigabytes": gigabytes})
    except QuotaExceeded as short:
        raise QuotaExceeded(f"a disk of {size} bytes: {short.message}") from short


def volume_limits(cloud: Cloud) -> dict[str, Limit]:
    """Cinder's. Blocking."""
    found = ask(cloud, "block_storage", "GET", "/limits")["limits"]["absolute"]
    return {
        "volumes": _limit(found, "maxTotalVolumes", "totalVolumesUsed"),
        "gigabytes": _limit(found, "maxTotalVolumeGigabytes", "totalGigabytesUsed"),
    }


def server_limits(cloud: Cloud) -> dict[str, Limit]:
    """Nova's. Blocking."""
    found = ask(cloud, "compute", "GET", "/limits")["limits"]["absolute"]
    return {
        "instances": _limit(found, "maxTotalInstances", "totalInstancesUsed"),
        "cores": _limit(found, "maxTotalCores", "totalCoresUsed"),
        "memory": _limit(found, "maxTotalRAMSize", "totalRAMUsed"),
    }


def port_limits(cloud: Cloud, project_id: str) -> dict[str, Limit]:
    """Neutron's; {} where it does not tell a tenant. Blocking."""
    try:
        found = ask(cloud, "network", "GET", f"/quotas/{project_id}/details.json")["quota"]
    except (sdk.NotFoundException, sdk.ForbiddenException):
        return {}
    return {"ports": Limit(int(found["port"]["limit"]), int(found["port"]["used"]) + int(found["port"]["reserved"]))}


def _limit(found: Mapping[str, int], total: str, used: str) -> Limit:
    return Limit(int(found.get(total, UNLIMITED)), int(found.get(used, 0)))
