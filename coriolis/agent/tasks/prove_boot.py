"""PROVE_BOOT: start the converted machine once, apart from every network and without a trace on its volumes."""

from __future__ import annotations

from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import instances_of, open_endpoint
from coriolis.agent.tasks.machine_request import machine_request, volumes_in_order
from coriolis.errors import Unsupported
from coriolis.providers.base import ProvesBoot

TIMEOUT_S = 900.0
"""Under emulation a guest needs minutes; where KVM works nobody waits for it."""


async def run(context: TaskContext) -> dict[str, Any]:
    """``boot_proof``: by what the guest showed that it is up, and after how many seconds. Raises TimedOut."""
    work = context.assignment
    request = machine_request(work, volumes_in_order(work))
    async with open_endpoint(context) as connection:
        target = instances_of(connection, work.provider)
        if not isinstance(target, ProvesBoot):
            raise Unsupported(f"provider {work.provider} cannot prove that a machine boots")
        proof = await target.prove_boot(request, TIMEOUT_S)
    context.event(f"the converted machine boots: {proof.shown_by} after {proof.seconds:.0f} s")
    if proof.screen:
        context.event(f"its console ends:\n{proof.screen}")
    return {"boot_proof": {"shown_by": proof.shown_by, "seconds": proof.seconds}}
