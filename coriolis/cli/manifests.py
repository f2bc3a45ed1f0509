"""``coriolis manifest``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from coriolis.cli.exits import Ended, Exit
from coriolis.cli.migrations import segment
from coriolis.cli.output import emit, human_bytes, output_option, print_fields, print_table
from coriolis.cli.rest import Api, api_from_options, api_options, with_api
from coriolis.errors import CoriolisError, Corrupt
from coriolis.rpc.tls import read_pem
from coriolis.security.attest import Anchors
from coriolis.transfer.attestation import DEPLOYED, Proof, Signed, Statements, check_leaves
from coriolis.transfer.manifest import MAGIC, decode_manifest

Document = dict[str, Any]

MAX_FILE_BYTES = 2 << 30
"""An agent's file for the largest disk, 64 TiB, has 1.1 GiB."""


@click.group()
def manifest() -> None:
    """Look at what both agents signed of each disk, and check it.

    When a disk is sealed, the agent that read it and the agent that wrote it sign the same statement: which disk, which
    snapshot, which pass, and the root of a digest tree over every MiB. Conversion changes some MiB afterwards: the
    deployed root is signed by the agent that converted, and names the sealed one.

    \b
      coriolis manifest list MIGRATION
      coriolis manifest show MIGRATION disk-0 -o json > disk-0.json     # keep it as evidence
      coriolis manifest check disk-0.json --ca ca.pem                   # needs no mesh, years later
      coriolis verify MIGRATION --sample 5%                             # is the volume still like it?
    """


@manifest.command("list")
@click.argument("migration_id")
@output_option
@with_api
def list_manifests(api: Api, migration_id: str, output: str) -> None:
    """List the manifests of a migration's sealed disks."""
    found = api.call("GET", _path(migration_id))["manifests"]
    if emit({"manifests": found}, output):
        return
    rows = [
        (one["instance"], one["disk_id"], one["pass_number"], human_bytes(one["size_bytes"]), one["data_cells"],
         one["zero_cells"], one["root"][:16], _deployed_root(one), one["sealed_at"][:19])
        for one in found
    ]  # fmt: skip
    columns = ("Instance", "Disk", "Pass", "Size", "Data MiB", "Zero MiB", "Root", "Deployed root", "Sealed (UTC)")
    print_table(columns, rows)


@manifest.command()
@click.argument("migration_id")
@click.argument("disk_id")
@click.option("--instance", help="Needed when several machines have a disk of this id.")
@output_option
@with_api
def show(api: Api, migration_id: str, disk_id: str, instance: str | None, output: str) -> None:
    """Show the manifest of a disk; -o json has signatures and certificates, and is what 'check' takes."""
    found = _fetch(api, migration_id, disk_id, instance)
    if emit({"manifest": found}, output):
        return
    after = found["deployed"]
    print_fields(
        {
            "instance": found["instance"],
            "disk": found["disk_id"],
            "size": human_bytes(found["size_bytes"]),
            "snapshot": found["snapshot_identity"],
            "pass, generation": f"{found['pass_number']}, {found['generation']}",
            "data, zero MiB": f"{found['data_cells']}, {found['zero_cells']}",
            "root of the pass": found["pass_root"],
            "root": found["root"],
            "sealed": found["sealed_at"],
            "read and signed by": found["signers"][0],
            "written and signed by": found["signers"][1],
            "deployed root": after["root"] if after else None,
            "converted and signed by": f"{after['signer']} at {after['deployed_at']}" if after else None,
        }
    )


@manifest.command()
@click.argument("what", metavar="FILE|MIGRATION")
@click.option("--ca", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The mesh's ca.pem.")
@output_option
@api_options
def check(what: str, ca: Path, output: str, **account: str | None) -> None:
    """Check the signatures of manifests against the mesh's CA.

    FILE is what 'show -o json' wrote, or the manifest file of an agent; it is checked without any network. For a
    MIGRATION the manifests are fetched first; a file of the same name goes before. Checked: that each statement was
    signed by the agent that it names, that this agent's certificate comes from the CA and was valid at the time of the
    statement, that all statements of a disk agree, and that the digests that are there lead to the root.

    Ends with 0 if all is right, with 10 if not. Whether a volume still is like its manifest: 'coriolis verify'.
    """
    anchors = Anchors(read_pem(ca))
    path = Path(what)
    if path.is_file():
        checked = [_checked_file(path, anchors)]
    else:
        with api_from_options(account) as api:
            listed = api.call("GET", _path(what))["manifests"]
            checked = [_checked_document(_fetch(api, what, one["disk_id"], one["instance"]), anchors) for one in listed]
    if not emit({"checked": checked}, output):
        columns = ("Instance", "Disk", "Root", "Leaves", "Signers", "Result")
        rows = [
            (one["instance"], one["disk_id"], one["root"][:16], one["leaves"], "\n".join(one["signers"]), one["result"])
            for one in checked
        ]
        print_table(columns, rows)
    if not checked:
        raise click.ClickException("there is no sealed disk, so nothing was checked")
    if any(one["result"] != "GOOD" for one in checked):
        raise Ended(Exit.DIFFERENT)


def _path(migration_id: str) -> str:
    return f"/migrations/{segment(migration_id)}/manifests"


def _fetch(api: Api, migration_id: str, disk_id: str, instance: str | None) -> Document:
    query = {"instance": instance} if instance else {}
    found: Document = api.call("GET", f"{_path(migration_id)}/{quote(disk_id, safe='')}", None, **query)["manifest"]
    return found


def _deployed_root(one: Document) -> str | None:
    return one["deployed"]["root"][:16] if one["deployed"] else None


def _checked_file(path: Path, anchors: Anchors) -> Document:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise click.BadParameter(f"{path} is larger than {MAX_FILE_BYTES} bytes", param_hint="FILE")
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        return _checked_document(_document(content, path), anchors)
    found: Document = {"instance": None, "disk_id": None, "root": "", "leaves": "all", "signers": []}
    try:
        head, _ = decode_manifest(content)
        found["disk_id"] = head.disk_id
        if head.proof is None:
            raise Corrupt("nobody signed it: it was made by a version that did not")
        said = anchors.check_proof(head.proof)
    except CoriolisError as wrong:
        return {**found, "result": wrong.message}
    return {**found, "root": said.current.root, "signers": _signers(said), "result": "GOOD"}


def _document(content: bytes, path: Path) -> Document:
    try:
        document = json.loads(content)
        found: Document = document.get("manifest", document)
        return {"statements": found["statements"], **found}
    except (ValueError, AttributeError, KeyError, TypeError) as broken:
        raise click.BadParameter(
            f"{path} is neither a manifest of an agent nor the output of 'coriolis manifest show -o json'",
            param_hint="FILE",
        ) from broken


def _checked_document(document: Document, anchors: Anchors) -> Document:
    found: Document = {
        "instance": document.get("instance"),
        "disk_id": document.get("disk_id"),
        "root": "",
        "leaves": "not kept",
        "signers": [],
    }
    try:
        said = anchors.check_proof(_proof(document["statements"]))
        _check_shown(document, said)
        for name, statement in (("leaves", said.sink), ("deployed_leaves", said.deployed)):
            if statement is not None and document.get(name):
                check_leaves(statement, [bytes.fromhex(leaf) for leaf in document[name]])
                found["leaves"] = "all"
    except CoriolisError as wrong:
        return {**found, "result": wrong.message}
    except (ValueError, TypeError, KeyError, AttributeError) as broken:
        return {**found, "result": f"the document is malformed: {broken!r}"}
    return {**found, "root": said.current.root, "signers": _signers(said), "result": "GOOD"}


def _proof(statements: list[Document]) -> Proof:
    if not 2 <= len(statements) <= 3:
        raise Corrupt(f"a manifest has two or three signed statements, not {len(statements)}")
    return Proof(*(Signed(str(one["statement"]), str(one["signature"]), str(one["certificate"])) for one in statements))


def _check_shown(document: Document, said: Statements) -> None:
    """What stands beside the statements for people must say the same."""
    sink, after = said.sink, said.deployed
    shared = ("disk_id", "size_bytes", "pass_number", "generation", "snapshot_identity", "pass_root", "root")
    signed: Document = {
        **{name: getattr(sink, name) for name in (*shared, "data_cells", "zero_cells")},
        "sealed_at": sink.at,
        "signers": [said.source.signer, sink.signer],
        "deployed": after
        and {
            "root": after.root,
            "deployed_at": after.at,
            "signer": after.signer,
            "data_cells": after.data_cells,
            "zero_cells": after.zero_cells,
        },
    }
    for name, value in signed.items():
        if document.get(name) != value:
            raise Corrupt(f"{name} is shown as {str(document.get(name))[:80]}, but {str(value)[:80]} was signed")


def _signers(said: Statements) -> list[str]:
    made = [f"{said.source.role}: {said.source.signer}", f"{said.sink.role}: {said.sink.signer}"]
    return made if said.deployed is None else [*made, f"{DEPLOYED}: {said.deployed.signer}"]
