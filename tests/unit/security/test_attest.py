"""Signed statements: what is changed after signing is noticed, and so is who must not sign."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from coriolis.clock import wire_time
from coriolis.errors import CoriolisError, Corrupt, Denied, InvalidInput, Unavailable
from coriolis.rpc.tls import TlsFiles
from coriolis.security.attest import Anchors, Signer, _sign, _signed_bytes, same_key
from coriolis.security.pki import create_ca, issue
from coriolis.transfer.attestation import (
    DEPLOYED,
    MAX_PACKED_BYTES,
    SINK,
    SOURCE,
    DiskProof,
    Proof,
    Signed,
    Statement,
    agreed,
    check_leaves,
    pack_proofs,
    read_statement,
    unpack_proofs,
)

DOMAIN = "proof.test"
NOW = datetime.now(UTC)
ROOT, PASS, AFTER = "a" * 64, "b" * 64, "c" * 64


def name(who: str, role: str = "agent") -> str:
    return f"spiffe://{DOMAIN}/{role}/{who}"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mesh")
    create_ca(directory / "ca", DOMAIN)
    for who in ("source", "sink"):
        issue(directory / "ca", directory / who, name(who))
    issue(directory / "ca", directory / "gate", name("gate", "gateway"))
    create_ca(directory / "other-ca", DOMAIN)
    issue(directory / "other-ca", directory / "forged", name("source"))
    return directory


@pytest.fixture(scope="module")
def anchors(mesh: Path) -> Anchors:
    return Anchors((mesh / "ca" / "ca.pem").read_bytes())


def signer(mesh: Path, who: str) -> Signer:
    return Signer(TlsFiles.in_directory(mesh / who))


def statement(role: str, who: str, /, **changes: object) -> Statement:
    made = Statement(
        role, name(who), wire_time(NOW), "t", "d", 2, 7, 5 << 20, "snap", PASS, 3, 2,
        "" if role == SOURCE else AFTER if role == DEPLOYED else ROOT, ROOT if role == DEPLOYED else "",
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


@pytest.fixture(scope="module")
def proof(mesh: Path) -> Proof:
    source, sink = signer(mesh, "source"), signer(mesh, "sink")
    return Proof(
        source.sign(statement(SOURCE, "source")),
        sink.sign(statement(SINK, "sink")),
        sink.sign(statement(DEPLOYED, "sink")),
    )


def test_a_proof_is_good_for_anyone_who_has_the_ca(anchors: Anchors, proof: Proof) -> None:
    said = anchors.check_proof(proof)
    assert (said.source.signer, said.sink.signer) == (name("source"), name("sink"))
    assert said.current.root == AFTER
    assert anchors.check_proof(Proof(proof.source, proof.sink)).current.root == ROOT


@pytest.mark.parametrize("part", ["source", "sink", "deployed"])
@pytest.mark.parametrize("member", [field.name for field in msgspec.structs.fields(Statement)])
def test_no_member_of_any_statement_can_be_changed(anchors: Anchors, proof: Proof, part: str, member: str) -> None:
    signed: Signed = getattr(proof, part)
    said = read_statement(signed)
    value = getattr(said, member)
    other = (
        value + 1 if isinstance(value, int) else (value[:-1] + ("0" if value[-1:] != "0" else "1") if value else "x")
    )
    forged = msgspec.structs.replace(signed, statement=msgspec.structs.replace(said, **{member: other}).text())
    with pytest.raises(CoriolisError):
        anchors.check_proof(msgspec.structs.replace(proof, **{part: forged}))


@pytest.mark.parametrize("change", ["space", "order", "unknown", "double", "escape", "other text", "long"])
def test_a_statement_has_one_form_only(proof: Proof, change: str) -> None:
    text = proof.sink.statement
    forms = {
        "space": text.replace(":", ": ", 1),
        "order": "{" + ",".join(text[1:-1].split(",")[::-1]) + "}",
        "unknown": text[:-1] + ',"more":1}',
        "double": text[:-1] + ',"root":"' + AFTER + '"}',
        "escape": text.replace("snap", "sn\\u0061p"),
        "other text": "[]",
        "long": text.replace("snap", "s" * 9000),
    }
    with pytest.raises(Corrupt):
        read_statement(msgspec.structs.replace(proof.sink, statement=forms[change]))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        *[
            (part, {member: "x"})
            for part in (SOURCE, SINK)
            for member in ("transfer_id", "disk_id", "snapshot_identity")
        ],
        *[(part, {member: 9}) for part in (SOURCE, SINK) for member in ("pass_number", "generation", "size_bytes")],
        *[(part, {"pass_root": "d" * 64}) for part in (SOURCE, SINK, DEPLOYED)],
        (SOURCE, {"root": ROOT}),
        (SINK, {"root": ""}),
        (SINK, {"root": "A" * 64}),
        (SINK, {"sealed_root": ROOT}),
        (SINK, {"role": SOURCE}),
        (DEPLOYED, {"sealed_root": AFTER}),
        (DEPLOYED, {"disk_id": "e"}),
    ],
)
def test_statements_signed_well_must_agree(
    mesh: Path, anchors: Anchors, proof: Proof, part: str, changes: dict[str, object]
) -> None:
    who = "source" if part == SOURCE else "sink"
    other = signer(mesh, who).sign(statement(part, who, **changes))
    anchors.check(other)
    with pytest.raises(Corrupt):
        anchors.check_proof(msgspec.structs.replace(proof, **{part: other}))


def by_forger(mesh: Path, proof: Proof) -> Signed:
    return signer(mesh, "forged").sign(statement(SOURCE, "source"))


def by_gateway(mesh: Path, proof: Proof) -> Signed:
    return signer(mesh, "gate").sign(
        msgspec.structs.replace(statement(SOURCE, "source"), signer=name("gate", "gateway"))
    )


def with_other_certificate(mesh: Path, proof: Proof) -> Signed:
    return msgspec.structs.replace(proof.source, certificate=proof.sink.certificate)


def with_other_key(mesh: Path, proof: Proof) -> Signed:
    """The right name and certificate, signed with a key that is not of this certificate."""
    key = ed25519.Ed25519PrivateKey.generate()
    signature = base64.b64encode(_sign(key, _signed_bytes(proof.source.statement))).decode()
    return msgspec.structs.replace(proof.source, signature=signature)


def without_certificate(mesh: Path, proof: Proof) -> Signed:
    return msgspec.structs.replace(proof.source, certificate="")


def with_no_base64(mesh: Path, proof: Proof) -> Signed:
    return msgspec.structs.replace(proof.source, signature="%%%")


def by_the_ca_itself(mesh: Path, proof: Proof) -> Signed:
    return msgspec.structs.replace(proof.source, certificate=(mesh / "ca" / "ca.pem").read_text())


def through_a_leaf(mesh: Path, proof: Proof) -> Signed:
    """A certificate in the source's name that the sink made with its own key: members issue nothing."""
    issuer = x509.load_pem_x509_certificate((mesh / "sink" / "cert.pem").read_bytes())
    issuer_key = serialization.load_pem_private_key((mesh / "sink" / "key.pem").read_bytes(), None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    identity = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name("source"))])
    forged = (
        x509.CertificateBuilder()
        .subject_name(issuer.subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(hours=1))
        .add_extension(identity, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    forged.verify_directly_issued_by(issuer)  # only that it is no CA speaks against it
    chain = (
        forged.public_bytes(serialization.Encoding.PEM).decode()
        + issuer.public_bytes(serialization.Encoding.PEM).decode()
    )
    signature = base64.b64encode(_sign(key, _signed_bytes(proof.source.statement))).decode()
    return Signed(proof.source.statement, signature, chain)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (by_forger, Denied),
        (by_gateway, Denied),
        (with_other_certificate, Denied),
        (with_other_key, Corrupt),
        (without_certificate, Corrupt),
        (with_no_base64, Corrupt),
        (by_the_ca_itself, Denied),
        (through_a_leaf, Denied),
    ],
)
def test_who_must_not_sign(
    mesh: Path, anchors: Anchors, proof: Proof, make: Callable[[Path, Proof], Signed], error: type[CoriolisError]
) -> None:
    with pytest.raises(error):
        anchors.check(make(mesh, proof))


def test_the_certificate_must_have_been_valid_at_the_time(mesh: Path, anchors: Anchors, proof: Proof) -> None:
    with pytest.raises(Unavailable, match="not valid"):
        anchors.check(proof.source, NOW + timedelta(days=3))
    old = signer(mesh, "source").sign(statement(SOURCE, "source", at=wire_time(NOW - timedelta(days=2))))
    with pytest.raises(Unavailable, match="not valid"):
        anchors.check(old)
    with pytest.raises(Corrupt, match="no time"):
        anchors.check(signer(mesh, "source").sign(statement(SOURCE, "source", at="yesterday")))


def test_a_renewed_certificate_of_the_same_key_is_the_same_signer(mesh: Path, proof: Proof) -> None:
    renewed = issue(mesh / "ca", mesh / "source", name("source"), ["127.0.0.1"])
    assert same_key(proof.source, renewed.cert.read_bytes())
    assert not same_key(proof.source, (mesh / "sink" / "cert.pem").read_bytes())
    assert not same_key(proof.source, b"")


def test_keys_of_other_kinds_sign_too(mesh: Path, anchors: Anchors, proof: Proof) -> None:
    directory = mesh / "ed25519"
    directory.mkdir()
    key = ed25519.Ed25519PrivateKey.generate()
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (directory / "cert.pem").write_text(proof.source.certificate)
    signed = Signer(TlsFiles.in_directory(directory)).sign(statement(SOURCE, "source"))
    with pytest.raises(Corrupt, match="does not fit"):
        anchors.check(signed)  # the certificate is of another key
    key.public_key().verify(base64.b64decode(signed.signature), _signed_bytes(signed.statement))


def test_a_file_without_certificates_is_no_ca() -> None:
    with pytest.raises(InvalidInput, match="no PEM"):
        Anchors(b"nothing")


# -- with the job -------------------------------------------------------------------------------------------------


def test_proofs_travel_as_a_result_of_bounded_size(proof: Proof) -> None:
    leaves = tuple(bytes([n]) * 32 for n in range(64))
    few = {f"disk-{n}": DiskProof(proof, leaves) for n in range(3)}
    document, left_out = pack_proofs(few)
    assert left_out == []
    assert unpack_proofs(msgspec.json.decode(msgspec.json.encode(document))) == few
    too_many_leaves, _ = pack_proofs({"d": DiskProof(proof, (*leaves, bytes(32)))})
    assert unpack_proofs(too_many_leaves)["d"] == DiskProof(proof)
    many = {f"disk-{n}": DiskProof(proof, leaves) for n in range(200)}
    document, left_out = pack_proofs(many)
    assert len(msgspec.json.encode(document)) <= MAX_PACKED_BYTES
    found = unpack_proofs(document)
    assert set(found) | set(left_out) == set(many)
    assert len(found) > 30
    assert all(one == DiskProof(proof) for one in found.values()), "leaves go first"


@pytest.mark.parametrize(
    "document", [{"disks": 3}, [1], {"certificates": [], "disks": {"d": {"signed": [["x", "y", 4]], "leaves": None}}}]
)
def test_malformed_results_are_named_so(document: object) -> None:
    with pytest.raises(Corrupt, match="malformed"):
        unpack_proofs(document)


def test_results_of_older_agents_hold_nothing() -> None:
    assert unpack_proofs(None) == {}


def test_leaves_that_lead_elsewhere_are_refused(proof: Proof) -> None:
    with pytest.raises(Corrupt, match="do not lead"):
        check_leaves(agreed(proof).sink, [bytes(32)])
    with pytest.raises(Corrupt, match="length"):
        check_leaves(agreed(proof).sink, [b""])
