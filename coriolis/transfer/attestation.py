"""What two agents attest of a sealed disk: statements, their exact bytes, and whether they agree. No keys, no I/O.

Signed are the bytes ``SIGNED_PREFIX`` + the statement's JSON as it is kept, so nothing is ever encoded again in order
to check a signature. A statement that is not in canonical form is refused, so one text has one meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from coriolis.errors import Corrupt
from coriolis.transfer.digest_tree import NODE_BYTES, Subject, leaf_digests, tree_root
from coriolis.transfer.table import CellState, CellTable

SIGNED_PREFIX = b"coriolis-statement-1\n"
"""No other use of an agent's key signs anything that begins so."""
SOURCE, SINK, DEPLOYED = "source", "sink", "deployed"
MAX_STATEMENT_CHARS = 8192
MAX_SIGNATURE_CHARS = 2048
MAX_CERTIFICATE_CHARS = 32 << 10
_ROOT = re.compile(r"[0-9a-f]{64}")


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``role`` source: roots and counts of the pass; sink and deployed: ``root`` and counts of the whole disk.

    ``signer`` is an identity, ``at`` the signer's wall clock in wire form. Roots are hex. ``sealed_root`` is there for
    ``deployed`` only, ``root`` for all but ``source``.
    """

    role: str
    signer: str
    at: str
    transfer_id: str
    disk_id: str
    pass_number: int
    generation: int
    size_bytes: int
    snapshot_identity: str
    pass_root: str
    data_cells: int
    zero_cells: int
    root: str = ""
    sealed_root: str = ""

    def text(self) -> str:
        """The canonical form: all members in this order, no spaces."""
        return msgspec.json.encode(self).decode()

    def subject(self, covers: str) -> Subject:
        sealed_root = self.sealed_root if covers == DEPLOYED else ""
        return Subject(
            covers,
            self.transfer_id,
            self.disk_id,
            self.size_bytes,
            self.pass_number,
            self.snapshot_identity,
            sealed_root,
        )


class Signed(msgspec.Struct, frozen=True):
    """``signature`` in base64, ``certificate``: PEM, the signer's own first, then those above it except the CA's."""

    statement: str
    signature: str
    certificate: str


class Proof(msgspec.Struct, frozen=True):
    """Both agents' word for a sealed disk, and for a converted one the word of the agent that converted it."""

    source: Signed
    sink: Signed
    deployed: Signed | None = None

    def parts(self) -> tuple[Signed, ...]:
        return (self.source, self.sink) if self.deployed is None else (self.source, self.sink, self.deployed)


class Statements(msgspec.Struct, frozen=True):
    """The statements of a proof that agree with each other."""

    source: Statement
    sink: Statement
    deployed: Statement | None = None

    @property
    def current(self) -> Statement:
        """What the volume should hold now."""
        return self.deployed or self.sink


def read_statement(signed: Signed) -> Statement:
    """Raises Corrupt for anything that ``Statement.text`` would not have made."""
    sizes = (
        (signed.statement, MAX_STATEMENT_CHARS),
        (signed.signature, MAX_SIGNATURE_CHARS),
        (signed.certificate, MAX_CERTIFICATE_CHARS),
    )
    if any(len(text) > limit for text, limit in sizes):
        raise Corrupt("a statement, its signature or its certificate is too long")
    try:
        statement = msgspec.json.decode(signed.statement, type=Statement)
    except (msgspec.DecodeError, UnicodeError) as broken:
        raise Corrupt(f"not a statement of version 1: {broken}") from broken
    if statement.text() != signed.statement:
        raise Corrupt("a statement is not in its canonical form")
    return statement


def agreed(proof: Proof) -> Statements:
    """The statements of ``proof``; Corrupt when they speak of different things. Checks no signature."""
    source, sink = read_statement(proof.source), read_statement(proof.sink)
    check_same_pass(source, sink)
    if proof.deployed is None:
        return Statements(source, sink)
    deployed = read_statement(proof.deployed)
    _check_role(deployed, DEPLOYED)
    _check_equal(
        sink, deployed, ("transfer_id", "disk_id", "pass_number", "size_bytes", "snapshot_identity", "pass_root")
    )
    if deployed.sealed_root != sink.root:
        raise Corrupt("the deployed manifest belongs to another sealed one")
    return Statements(source, sink, deployed)


def check_same_pass(source: Statement, sink: Statement) -> None:
    """Raises Corrupt unless both agents speak of the same disk, pass, attempt and content."""
    _check_role(source, SOURCE)
    _check_role(sink, SINK)
    names = ("transfer_id", "disk_id", "pass_number", "generation", "size_bytes", "snapshot_identity", "pass_root")
    _check_equal(source, sink, names)


def _check_role(statement: Statement, role: str) -> None:
    if statement.role != role:
        raise Corrupt(f"a statement of the {statement.role[:20]} stands where that of the {role} belongs")
    expected = (True, role != SOURCE, role == DEPLOYED)
    for root, wanted in zip((statement.pass_root, statement.root, statement.sealed_root), expected, strict=True):
        if (_ROOT.fullmatch(root) is not None) != wanted or (root and not wanted):
            raise Corrupt(f"the roots in the statement of the {role} are not those that belong there")


def _check_equal(one: Statement, other: Statement, names: Sequence[str]) -> None:
    for name in names:
        if getattr(one, name) != getattr(other, name):
            raise Corrupt(f"the {one.role} and the {other.role} attest different values of {name}")


def check_leaves(statement: Statement, leaves: Sequence[bytes]) -> None:
    """Raises Corrupt unless ``leaves`` of the whole disk lead to the root that the statement names."""
    if any(len(leaf) != NODE_BYTES for leaf in leaves):
        raise Corrupt("a leaf of the digest tree has a wrong length")
    if tree_root(statement.subject(_covers(statement)), leaves).hex() != statement.root:
        raise Corrupt(f"the leaves of disk {statement.disk_id} do not lead to the root that was signed")


def check_table(statement: Statement, table: CellTable) -> None:
    """Raises Corrupt unless ``table`` is the whole disk that the statement of a sink speaks of."""
    counts = table.count(CellState.DATA), table.count(CellState.ZERO)
    if counts != (statement.data_cells, statement.zero_cells) or table.size_bytes != statement.size_bytes:
        raise Corrupt(f"the manifest of disk {statement.disk_id} does not fit the numbers that were signed")
    check_leaves(statement, leaf_digests(table))


def _covers(statement: Statement) -> str:
    return DEPLOYED if statement.role == DEPLOYED else "disk"


# -- as a task's result ---------------------------------------------------------------------------------------------

MAX_PACKED_BYTES = 96 << 10
"""A task's result may have 128 KiB (coriolis/coordinator/scheduler.py), and holds a little more than this."""
MAX_KEPT_LEAVES = 64


class DiskProof(msgspec.Struct, frozen=True):
    """``leaves`` of the current manifest; None when there are too many to be kept with the job."""

    proof: Proof
    leaves: tuple[bytes, ...] | None = None


class _PackedSigned(msgspec.Struct, frozen=True):
    statement: str
    signature: str
    certificate: int


class _PackedDisk(msgspec.Struct, frozen=True):
    signed: tuple[_PackedSigned, ...]
    leaves: tuple[str, ...] | None


class _Packed(msgspec.Struct, frozen=True):
    """Certificates once each: all disks of a machine have the same signers."""

    certificates: tuple[str, ...]
    disks: dict[str, _PackedDisk]


def pack_proofs(proofs: Mapping[str, DiskProof]) -> tuple[dict[str, Any], list[str]]:
    """Proofs by disk id as one JSON object of at most 96 KiB, and the disks that did not fit.

    Leaves go first when there is no room, then the last disks.
    """
    kept = dict(proofs)
    bare = {disk_id: DiskProof(found.proof) for disk_id, found in proofs.items()}
    left_out: list[str] = []
    packed = _pack(kept)
    if len(msgspec.json.encode(packed)) > MAX_PACKED_BYTES:
        packed = _pack(bare)
    while len(msgspec.json.encode(packed)) > MAX_PACKED_BYTES:
        left_out.append(bare.popitem()[0])
        packed = _pack(bare)
    builtins: dict[str, Any] = msgspec.to_builtins(packed)
    return builtins, left_out


def _pack(proofs: Mapping[str, DiskProof]) -> _Packed:
    certificates = list(dict.fromkeys(part.certificate for found in proofs.values() for part in found.proof.parts()))
    disks = {}
    for disk_id, found in proofs.items():
        signed = tuple(
            _PackedSigned(part.statement, part.signature, certificates.index(part.certificate))
            for part in found.proof.parts()
        )
        kept = found.leaves is not None and len(found.leaves) <= MAX_KEPT_LEAVES
        disks[disk_id] = _PackedDisk(signed, tuple(leaf.hex() for leaf in found.leaves or ()) if kept else None)
    return _Packed(tuple(certificates), disks)


def unpack_proofs(document: Any) -> dict[str, DiskProof]:
    """The inverse of ``pack_proofs``; nothing for what older agents left. Raises Corrupt."""
    if not document:
        return {}
    try:
        packed = msgspec.convert(document, _Packed)
        found = {}
        for disk_id, disk in packed.disks.items():
            signed = [Signed(one.statement, one.signature, packed.certificates[one.certificate]) for one in disk.signed]
            leaves = None if disk.leaves is None else tuple(bytes.fromhex(leaf) for leaf in disk.leaves)
            found[disk_id] = DiskProof(Proof(*signed), leaves)
    except (msgspec.ValidationError, IndexError, ValueError, TypeError) as broken:
        raise Corrupt(f"the proofs of a task are malformed: {broken}") from broken
    return found
