"""``coriolis migration``."""

from __future__ import annotations

from typing import Any

import click

from coriolis.cli.exits import Ended
from coriolis.cli.migration_input import merged, user_scripts
from coriolis.cli.output import emit, human_bytes, human_seconds, output_option, print_fields, print_table
from coriolis.cli.progress import follow, follow_and_end
from coriolis.cli.request_options import endpoint_flags, request_options, with_connections
from coriolis.cli.rest import Api, with_api
from coriolis.model.user_scripts import DEFAULT_PHASE, PHASES

Document = dict[str, Any]

EXAMPLE = """\b
Examples:
  coriolis migration create --file wave1.yaml --wait
  coriolis migration create --origin libvirt --origin-connection '{"uri": "qemu+ssh://a/system"}' \\
      --destination libvirt --destination-secret 0a0a0a0a-0000-4000-8000-000000000001 \\
      --target-environment @target.json --network 'VM Network=default' --instance vm-01 --wait
  coriolis migration create --origin image --origin-connection '{"path": "/srv/vms"}' --instance web \\
      --destination-cloud mycloud --network lan=private --wait

\b
wave1.yaml has the form of the REST API's body:
  origin: {type: libvirt, connection_info: {uri: "qemu+ssh://a/system"}}
  destination:
    type: libvirt
    connection_info: {secret_id: 0a0a0a0a-0000-4000-8000-000000000001}
    target_environment: {storage: default, network_map: {VM Network: default}}
  instances: [vm-01, vm-02]
"""


@click.group()
def migration() -> None:
    """Create, follow, cancel and delete migrations.

    A migration copies the disks of its machines in one or more passes, stops the origin before the last one, converts
    the copy for its destination and starts it there. The origin is never deleted.
    """


@migration.command(epilog=EXAMPLE)
@request_options
@click.option("--notes", help="Free text, kept with the migration.")
@click.option("--passes", type=click.IntRange(1, 10), help="Sync passes, default 2: one live, one after the shut-down.")
@click.option("--shutdown/--no-shutdown", default=None, help="Stop the origin before the last pass (default: yes).")
@click.option("--skip-os-morphing", is_flag=True, default=None, help="Do not convert the guest.")
@click.option("--script", "scripts", multiple=True, metavar="OS_TYPE=FILE", help="For all machines, e.g. linux=fix.sh.")
@click.option("--instance-script", "instance_scripts", multiple=True, metavar="NAME=FILE", help="For one machine.")
@click.option(
    "--script-phase",
    type=click.Choice(PHASES),
    default=DEFAULT_PHASE,
    show_default=True,
    help="When the scripts of this command run.",
)
@click.option("--request-id", help="Repeating the command with the same id makes no second migration.")
@click.option("--wait", is_flag=True, help="Follow it to its end; the exit code says how it ended.")
@output_option
@with_api
def create(api: Api, **options: Any) -> None:
    """Start a migration."""
    made = api.call("POST", "/migrations", _body(options))["migration"]
    if not options["wait"]:
        _show(made, options["output"])
        return
    click.echo(f"Migration {made['id']}", err=True)
    code = follow(api, made["id"])
    _show(api.call("GET", f"/migrations/{made['id']}")["migration"], options["output"])
    raise Ended(code)


def _body(options: Document) -> Document:
    flags = {
        **endpoint_flags(options),
        "notes": options["notes"],
        "replication_count": options["passes"],
        "shutdown_instances": options["shutdown"],
        "skip_os_morphing": options["skip_os_morphing"],
        "user_scripts": user_scripts(options["scripts"], options["instance_scripts"], options["script_phase"]),
        "request_id": options["request_id"],
    }
    return {"migration": with_connections(merged(options["file"], flags))}


@migration.command("list")
@click.option("--status", help="Only these, e.g. RUNNING.")
@click.option("--detail", is_flag=True, help="With tasks, for -o json and yaml.")
@output_option
@with_api
def list_migrations(api: Api, status: str | None, detail: bool, output: str) -> None:
    """List migrations, newest first."""
    query = {"status": status} if status else {}
    found = api.pages("/migrations/detail" if detail else "/migrations", "migrations", **query)
    if emit({"migrations": found}, output):
        return
    rows = [
        (one["id"], one["status"], one["created_at"][:19], f"{one['origin']['type']} → {one['destination']['type']}",
         ", ".join(one["instances"]))
        for one in found
    ]  # fmt: skip
    print_table(("ID", "Status", "Created (UTC)", "Clouds", "Instances"), rows)


@migration.command()
@click.argument("migration_id")
@output_option
@with_api
def show(api: Api, migration_id: str, output: str) -> None:
    """Show a migration with its tasks and disks."""
    _show(api.call("GET", f"/migrations/{segment(migration_id)}")["migration"], output)


@migration.command()
@click.argument("migration_id")
@with_api
def watch(api: Api, migration_id: str) -> None:
    """Follow a migration to its end: bytes, speed and ETA of each disk. The exit code says how it ended."""
    follow_and_end(api, segment(migration_id))


@migration.command()
@click.argument("migration_ids", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="End running tasks without waiting for them.")
@click.option("--wait", is_flag=True, help="Return when it has ended.")
@with_api
def cancel(api: Api, migration_ids: tuple[str, ...], force: bool, wait: bool) -> None:
    """Cancel migrations; what they made at the destination is removed."""
    action: Document = {"cancel": {"force": True} if force else None}
    for migration_id in migration_ids:
        api.call("POST", f"/migrations/{segment(migration_id)}/actions", action)
    for migration_id in migration_ids if wait else ():
        follow(api, migration_id)


@migration.command()
@click.argument("migration_ids", nargs=-1, required=True)
@with_api
def delete(api: Api, migration_ids: tuple[str, ...]) -> None:
    """Forget migrations that have ended. The migrated machines stay."""
    for migration_id in migration_ids:
        api.call("DELETE", f"/migrations/{segment(migration_id)}")


def segment(text: str) -> str:
    """``text`` as one segment of a path; a usage error for what cannot be an id."""
    if not text or any(character in text for character in "/?#%") or not text.isprintable():
        raise click.BadParameter(f"{text!r} is no id", param_hint="ID")
    return text


def _show(document: Document, output: str) -> None:
    if emit({"migration": document}, output):
        return
    print_fields(
        {
            "id": document["id"],
            "status": document["status"],
            "created": document["created_at"],
            "updated": document["updated_at"],
            "origin": f"{document['origin']['type']} {document['origin']['connection_info']}",
            "destination": f"{document['destination']['type']} {document['destination']['connection_info']}",
            "instances": ", ".join(document["instances"]),
            "moved": _moved(document.get("progress")),
            "notes": document["notes"],
            "residue": document["residue"],
        }
    )
    tasks = sorted(document["tasks"], key=lambda task: (task["instance"], task["index"]))
    if tasks:
        columns = ("Instance", "Task", "Status", "Host", "What happened")
        print_table(columns, [(t["instance"], t["task_type"], t["status"], t["host"], _last_word(t)) for t in tasks])
    if document["disks"]:
        disk_columns = ("Instance", "Disk", "Pass", "Covered", "Read", "Sent", "Zero", "By", "Sealed")
        print_table(disk_columns, [_disk_row(disk) for disk in document["disks"]])


def _moved(progress: Document | None) -> str:
    if not progress:
        return ""
    covered = f"{human_bytes(progress['done_bytes'])} of {human_bytes(progress['total_bytes'])}"
    told = f"{covered}, read {human_bytes(progress['read_bytes'])}, sent {human_bytes(progress['sent_bytes'])}"
    if not progress["rate_bytes_per_s"]:
        return told
    return f"{told}, {human_bytes(progress['rate_bytes_per_s'])}/s, ETA {human_seconds(progress['eta_s'])}"


def _last_word(task: Document) -> str:
    if task["exception_details"]:
        return str(task["exception_details"])
    return str(task["events"][-1]["message"]) if task["events"] else ""


def _disk_row(disk: Document) -> tuple[object, ...]:
    covered = f"{human_bytes(disk['done_bytes'])} / {human_bytes(disk['total_bytes'])}"
    sent, zero = human_bytes(disk["sent_bytes"]), human_bytes(disk["zero_bytes"])
    read, ratio = human_bytes(disk["read_bytes"]), disk.get("compression_ratio")
    by = " ".join(part for part in (disk.get("transport", ""), f"zstd {ratio:.1f}:1" if ratio else "") if part)
    return disk["instance"], disk["disk_id"], disk["pass_number"], covered, read, sent, zero, by, disk["sealed"]
