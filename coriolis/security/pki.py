"""The mesh's certificate authority: EC P-256, one per deployment.

A certificate carries one identity as URI SAN and these DNS SANs: ``coriolis-mesh`` (any member), one name
for its role, one for its exact identity (``coriolis.rpc.identity``), and the hosts it was asked for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coriolis.clock import Clock, SystemClock
from coriolis.durable_file import replace_file
from coriolis.errors import Conflict, CoriolisError, Corrupt, InvalidInput
from coriolis.rpc.identity import MESH_DNS_NAME, Identity, identity_dns_name, role_dns_name
from coriolis.rpc.tls import TlsFiles, read_pem

CA_CERT_FILE = "ca.pem"
CA_KEY_FILE = "ca-key.pem"
CA_DAYS = 3650
CERT_HOURS = 24.0
CLOCK_SKEW = timedelta(minutes=5)
"""Certificates start this much in the past, for peers whose clock is behind."""
MAX_HOSTS = 64

_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.IGNORECASE)
_SYSTEM_CLOCK = SystemClock()


def create_ca(directory: Path, trust_domain: str, *, days: float = CA_DAYS, clock: Clock = _SYSTEM_CLOCK) -> Path:
    """Make ``ca.pem`` and ``ca-key.pem`` (0600) in ``directory`` and return the path of ``ca.pem``.

    Repeating it keeps the authority that is there; Conflict if that one serves another trust domain.
    """
    Identity(trust_domain, "operator", "check")  # refuses a malformed domain before anything is written
    cert_path, key_path = directory / CA_CERT_FILE, directory / CA_KEY_FILE
    if cert_path.exists():
        found = trust_domain_of(directory)
        if found != trust_domain:
            raise Conflict(f"{directory} holds the authority of trust domain {found}, not {trust_domain}")
        return cert_path
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    now = clock.now()
    name = _name(f"Coriolis mesh {trust_domain}"[:64])
    certificate = (
        _builder(name, name, key.public_key(), now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_uris(f"spiffe://{trust_domain}"), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key first: a certificate without its key would look like a finished authority.
    replace_file(key_path, _key_pem(key), mode=0o600)
    replace_file(cert_path, _cert_pem(certificate), mode=0o644)
    return cert_path


def trust_domain_of(ca_dir: Path) -> str:
    """The trust domain that the authority in ``ca_dir`` serves."""
    uris = _alternative_names(_load_cert(ca_dir / CA_CERT_FILE)).get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise Corrupt(f"{ca_dir / CA_CERT_FILE} is not a certificate of a mesh authority")
    return str(uris[0]).removeprefix("spiffe://")


def issue(
    ca_dir: Path,
    out_dir: Path,
    identity: Identity | str,
    hosts: Sequence[str] = (),
    *,
    hours: float = CERT_HOURS,
    clock: Clock = _SYSTEM_CLOCK,
) -> TlsFiles:
    """Write ``ca.pem``, ``cert.pem`` and ``key.pem`` (0600) for ``identity`` into ``out_dir``.

    ``hosts`` are DNS names and IP addresses. A certificate that is there, says the same and is before its
    half life stays; otherwise it is replaced in one rename. The key is kept across renewals so that there
    is no moment at which key and certificate do not match; delete ``key.pem`` to change it.
    """
    wanted = identity if isinstance(identity, Identity) else Identity.parse(identity)
    ca_cert, ca_key = _load_cert(ca_dir / CA_CERT_FILE), _load_key(ca_dir / CA_KEY_FILE)
    if wanted.trust_domain != trust_domain_of(ca_dir):
        raise InvalidInput(f"{wanted} is outside of this authority's trust domain {trust_domain_of(ca_dir)}")
    names = _names_of(wanted, hosts)
    out_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = TlsFiles.in_directory(out_dir)
    replace_file(files.ca, _cert_pem(ca_cert), mode=0o644)
    key = _kept_or_new_key(files.key)
    if _still_good(files.cert, key, ca_cert, names, clock.now()):
        return files
    now = clock.now()
    end = min(now + timedelta(hours=hours), ca_cert.not_valid_after_utc)
    certificate = (
        _builder(_name(wanted.id[-64:]), ca_cert.subject, key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(names, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    replace_file(files.cert, _cert_pem(certificate), mode=0o644)
    return files


def identity_of(cert_path: Path) -> Identity:
    """The identity in a certificate file; Corrupt without exactly one."""
    uris = _alternative_names(_load_cert(cert_path)).get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise Corrupt(f"{cert_path} does not carry exactly one identity")
    return Identity.parse(str(uris[0]))


def needs_renewal(cert_path: Path, clock: Clock = _SYSTEM_CLOCK) -> bool:
    """Whether more than half of the certificate's life is over."""
    return _past_half_life(_load_cert(cert_path), clock.now())


def _names_of(identity: Identity, hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    if len(hosts) > MAX_HOSTS:
        raise InvalidInput(f"a certificate names at most {MAX_HOSTS} hosts")
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(str(identity)),
        x509.DNSName(MESH_DNS_NAME),
        x509.DNSName(role_dns_name(identity.role)),
        x509.DNSName(identity_dns_name(identity)),
    ]
    return x509.SubjectAlternativeName(names + [_host_name(host) for host in dict.fromkeys(hosts)])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    # A host inside of our own names would let its owner pass as any identity or role; a wildcard would
    # match them.
    if _HOST.fullmatch(host) is None or host.lower().split(".")[-1] == MESH_DNS_NAME:
        raise InvalidInput(f"host {host!r} cannot be put into a certificate")
    return x509.DNSName(host.lower())


def _still_good(
    path: Path,
    key: ec.EllipticCurvePrivateKey,
    ca_cert: x509.Certificate,
    names: x509.SubjectAlternativeName,
    now: datetime,
) -> bool:
    if not path.exists():
        return False
    try:
        certificate = _load_cert(path)
        certificate.verify_directly_issued_by(ca_cert)
        return (
            certificate.public_key() == key.public_key()
            and _alternative_names(certificate) == names
            and not _past_half_life(certificate, now)
        )
    except (CoriolisError, InvalidSignature, ValueError, TypeError):
        return False


def _past_half_life(certificate: x509.Certificate, now: datetime) -> bool:
    start = certificate.not_valid_before_utc + CLOCK_SKEW
    return now >= start + (certificate.not_valid_after_utc - start) / 2


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - CLOCK_SKEW)
        .not_valid_after(end)
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _uris(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise Corrupt("a certificate carries no identity") from error


def _cert_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_cert(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read_pem(path))
    except ValueError as error:
        raise Corrupt(f"{path} is not a PEM certificate") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(read_pem(path), password=None)
    except (ValueError, TypeError) as error:
        raise Corrupt(f"{path} is not an unencrypted PEM key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Corrupt(f"{path} is not an EC key")
    return key


def _kept_or_new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if path.exists():
        path.chmod(0o600)
        return _load_key(path)
    key = ec.generate_private_key(ec.SECP256R1())
    replace_file(path, _key_pem(key), mode=0o600)
    return key
