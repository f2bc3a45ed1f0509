"""REPLICATE_DISKS: one sync pass of all disks of a machine, in parallel; a sink part and a source part."""

from __future__ import annotations

from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.replicate_sink import receive_pass
from coriolis.agent.replicate_source import send_pass
from coriolis.errors import Unsupported
from coriolis.model.task import Role


async def run(context: TaskContext) -> dict[str, Any]:
    """Sink: ``manifests`` {disk id: digest} and ``proofs`` (coriolis.transfer.attestation).

    Source: ``progress`` {pass: {disk id: bytes covered}}.
    """
    match context.assignment.role:
        case Role.SINK:
            return await receive_pass(context)
        case Role.SOURCE:
            return await send_pass(context)
        case role:
            raise Unsupported(f"REPLICATE_DISKS has no role {role!r}")
