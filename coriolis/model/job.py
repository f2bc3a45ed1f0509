"""Jobs: a transfer (the lasting relation), its executions, and the migration that combines them in one.

What a migration asks is immutable (``Migration``); what became of each machine is one ``InstanceRun``, so that machines
proceed, fail and are stored independently.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from coriolis.model.resource import ResourceKind
from coriolis.model.task import ACTIVE, FINAL, Task, TaskStatus

MAX_INSTANCES = 64
MAX_REPLICATION_COUNT = 10
CREDENTIALS_LOST = "credentials_lost"
"""Code of the error; as ``error_code`` of a pending task: what it waits for."""


class ExecutionStatus(enum.StrEnum):
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    ERROR = "ERROR"
    CANCELED = "CANCELED"


TERMINAL = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.ERROR, ExecutionStatus.CANCELED})


class Endpoint(msgspec.Struct, frozen=True):
    """``sealed_connection`` is ``connection_info`` encrypted with the cluster's key, ``secret_id`` replaces it.

    ``delegated``: the cloud that gave the caller its token; the migration's trust is all that is needed.

    ``shown_connection`` is what answers may show: secret members masked.
    """

    type: str
    environment: dict[str, Any]
    shown_connection: dict[str, Any]
    sealed_connection: str = ""
    secret_id: str = ""
    delegated: bool = False


class Transfer(msgspec.Struct, frozen=True):
    """The relation between two clouds for a set of machines: what every execution of it needs."""

    origin: Endpoint
    destination: Endpoint
    instances: tuple[str, ...]
    network_map: dict[str, str] = {}
    notes: str = ""
    user_scripts: dict[str, Any] = {}
    """As ``user_scripts.checked`` gives them."""


class DeploymentOptions(msgspec.Struct, frozen=True):
    """How a cutover is done."""

    skip_os_morphing: bool = False
    shutdown_instances: bool = True
    proof_of_boot: bool = False
    """Boot the converted machine once, apart from every network, before it is made."""


class Migration(msgspec.Struct, frozen=True):
    """One-shot job: ``replication_count`` passes of the transfer, then its deployment."""

    id: str
    project_id: str
    user_id: str
    execution_id: str
    transfer: Transfer
    deployment: DeploymentOptions
    replication_count: int
    created_at: str
    request_id: str = ""
    sealed_trust: str = ""
    """Of Keystone; the only member that changes later, when credentials are renewed."""


class ResourceState(enum.StrEnum):
    INTENDED = "INTENDED"
    MADE = "MADE"
    DELETED = "DELETED"


class LedgerEntry(msgspec.Struct, frozen=True):
    """A cloud resource this run intends, made or deleted. ``side`` is origin or destination."""

    kind: str
    name: str
    side: str
    state: ResourceState
    cloud_id: str = ""


class InstanceRun(msgspec.Struct, frozen=True):
    """Everything about one machine of a migration. ``results`` are the merged results of its tasks."""

    migration_id: str
    project_id: str
    instance: str
    index: int
    tasks: tuple[Task, ...]
    results: dict[str, Any] = {}
    ledger: tuple[LedgerEntry, ...] = ()
    committed_instance: str = ""
    cancel_requested: bool = False
    updated_at: str = ""

    def task(self, task_id: str) -> Task:
        """Raises KeyError for an id of another run."""
        for task in self.tasks:
            if task.id == task_id:
                return task
        raise KeyError(task_id)

    @property
    def failed(self) -> bool:
        """Whether what was made must be undone. A clean-up that fails is residue: it undoes no finished machine."""
        return self.cancel_requested or any(
            task.status is TaskStatus.ERROR and not task.on_error for task in self.tasks
        )

    @property
    def terminal(self) -> bool:
        dormant = {*FINAL, TaskStatus.EXECUTE_ON_ERROR_ONLY}
        return all(task.status in dormant for task in self.tasks)

    def residue(self) -> list[LedgerEntry]:
        """Resources of an ended run that are not known to be gone and are no part of its result."""
        if not self.terminal:
            return []
        left = [entry for entry in self.ledger if entry.state is not ResourceState.DELETED]
        if run_status(self) is ExecutionStatus.COMPLETED:
            return [entry for entry in left if entry.kind == ResourceKind.SNAPSHOT]
        return left


def run_status(run: InstanceRun) -> ExecutionStatus:
    """The status of one machine, derived from its tasks."""
    statuses = [task.status for task in run.tasks if task.status is not TaskStatus.EXECUTE_ON_ERROR_ONLY]
    if not run.terminal:
        cancelling = run.cancel_requested and any(status in ACTIVE for status in statuses)
        return ExecutionStatus.CANCELLING if cancelling else ExecutionStatus.RUNNING
    work = [task for task in run.tasks if not task.on_error]
    if all(task.status is TaskStatus.COMPLETED for task in work):
        return ExecutionStatus.COMPLETED
    if any(task.status is TaskStatus.ERROR for task in run.tasks):
        return ExecutionStatus.ERROR
    if any(task.status in (TaskStatus.CANCELED, TaskStatus.UNSCHEDULED) for task in work):
        return ExecutionStatus.CANCELED
    return ExecutionStatus.COMPLETED


def waits_for_credentials(task: Task) -> bool:
    """Whether the task goes on as soon as its migration gets credentials that work."""
    return task.status is TaskStatus.PENDING and task.error_code == CREDENTIALS_LOST


def combined_status(statuses: list[ExecutionStatus]) -> ExecutionStatus:
    """The status of a migration: active while any machine is; ERROR wins over CANCELED over COMPLETED."""
    order = (
        ExecutionStatus.CANCELLING,
        ExecutionStatus.RUNNING,
        ExecutionStatus.ERROR,
        ExecutionStatus.CANCELED,
    )
    return next((status for status in order if status in statuses), ExecutionStatus.COMPLETED)
