"""Records of migrations that never were, for the fake coordinator."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from coriolis.clock import wire_time
from coriolis.ids import new_id
from coriolis.rpc.gen.coriolis.v1 import job_pb2, types_pb2


def now() -> str:
    return wire_time(datetime.now(UTC))


def sample_tasks(instance: str) -> list[types_pb2.Task]:
    """A finished first task and a running transfer of one disk, with events and progress."""
    first, second = new_id(), new_id()
    return [
        types_pb2.Task(
            id=first, instance=instance, task_type="GET_INSTANCE_INFO", status="COMPLETED", index=1, host="agent-a",
            process_id=4711, created_at=now(), updated_at=now(),
        ),
        types_pb2.Task(
            id=second, instance=instance, task_type="REPLICATE_DISKS", status="RUNNING", index=2, depends_on=[first],
            host="agent-a,agent-b", created_at=now(), updated_at=now(),
            events=[types_pb2.TaskEvent(id=new_id(), level="INFO", message="First pass", created_at=now(), index=0)],
            progress_updates=[
                types_pb2.ProgressUpdate(
                    id=new_id(), index=0, current_step=512, total_steps=1024, message="Disk vda", created_at=now()
                )
            ],
        ),
    ]  # fmt: skip


def sample_disk(migration: job_pb2.Migration, done_bytes: int = 512 << 20) -> types_pb2.DiskProgress:
    return types_pb2.DiskProgress(
        task_id=migration.tasks[1].id, instance=migration.instances[0], disk_id="vda", total_bytes=1 << 30,
        done_bytes=done_bytes, read_bytes=done_bytes, sent_bytes=done_bytes // 2, written_bytes=done_bytes // 2,
        zero_bytes=done_bytes // 2, durable_bytes=done_bytes, rate_bytes_per_s=100 << 20, eta_s=5.12, pass_number=1,
    )  # fmt: skip


def sample_manifest(migration: job_pb2.Migration) -> job_pb2.Manifest:
    """Of a converted disk of 1 GiB; its signatures are good for nothing."""
    root, after = "1" * 64, "2" * 64
    deployed = job_pb2.DeployedManifest(
        root=after, deployed_at=now(), signer="spiffe://api.test/agent/b", data_cells=513, zero_cells=511
    )
    return job_pb2.Manifest(
        instance=migration.instances[0], disk_id="vda", size_bytes=1 << 30, pass_number=2, generation=1,
        snapshot_identity="s", data_cells=512, zero_cells=512, pass_root="0" * 64, root=root, sealed_at=now(),
        signers=["spiffe://api.test/agent/a", "spiffe://api.test/agent/b"], deployed=deployed, leaves=[bytes(32)],
        statements=[types_pb2.SignedStatement(statement="{}", signature=b"s", certificate="PEM")],
    )  # fmt: skip


def sample_inspection(instance: str, target_platform: str) -> job_pb2.Inspection:
    """One that has ended and found a Debian."""
    system = {"os_type": "linux", "family": "debian", "distribution": "debian", "version": "12", "title": "Debian 12"}
    found = {
        "system": {**system, "architecture": ""},
        "steps": [{"name": "drivers", "title": "add the drivers of kvm to every initramfs"}],
        "findings": [{"severity": "info", "code": "SOMETHING", "message": "what was found", "action": ""}],
        "convertible": True,
    }
    return job_pb2.Inspection(
        id=new_id(), instance=instance, status="COMPLETED", created_at=now(), found_json=json.dumps(found),
        target_platform=target_platform or "kvm", events=["appliance started"],
    )  # fmt: skip
