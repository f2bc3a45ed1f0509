"""``coriolis pki``: the CA of a mesh and the certificates of its members."""

from __future__ import annotations

from pathlib import Path

import click

from coriolis.cli.output import emit, output_option, print_fields
from coriolis.clock import wire_time


@click.group()
def pki() -> None:
    """Make the mesh's CA and certificates. Every connection between processes needs them (mTLS).

    \b
      coriolis pki ca --dir ca --trust-domain mesh.example
      coriolis pki issue coordinator c1 --ca ca --out tls/c1 --host 10.0.0.1
      coriolis pki issue agent paris --ca ca --out tls/paris --host agent.paris.example
      coriolis pki issue gateway g1 --ca ca --out tls/g1
      coriolis pki issue client a1b2c3d4e5f64718a9b0c1d2e3f40516/robot --ca ca --out tls/robot
    """


@pki.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True, help="Keep its ca-key.pem safe.")
@click.option("--trust-domain", required=True, help="Name of the mesh, lower-case DNS form.")
@click.option("--days", type=click.FloatRange(min=1), default=3650.0, show_default=True)
def ca(directory: Path, trust_domain: str, days: float) -> None:
    """Make a CA, once. Repeating it changes nothing."""
    from coriolis.security.pki import create_ca

    click.echo(create_ca(directory, trust_domain, days=days))


@pki.command()
@click.argument("role", type=click.Choice(["coordinator", "agent", "gateway", "client", "operator"]))
@click.argument("name")
@click.option("--ca", "ca_dir", type=click.Path(path_type=Path), required=True, help="Directory of the CA.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="For ca.pem, cert.pem and key.pem.")
@click.option("--host", "hosts", multiple=True, help="DNS name or IP address of the process; repeatable.")
@click.option(
    "--hours", type=click.FloatRange(min=0.1), default=24.0, show_default=True, help="Life of the certificate."
)
def issue(role: str, name: str, ca_dir: Path, out: Path, hosts: tuple[str, ...], hours: float) -> None:
    """Issue or renew a certificate. NAME is an id; for clients PROJECT_ID/NAME.

    Repeat it from a timer: it renews after half of the life, and running processes take the new one.
    """
    from coriolis.security.pki import issue as issue_certificate
    from coriolis.security.pki import trust_domain_of

    identity = f"spiffe://{trust_domain_of(ca_dir)}/{role}/{name}"
    click.echo(issue_certificate(ca_dir, out, identity, hosts, hours=hours).cert)


@pki.command()
@click.argument("certificate", type=click.Path(path_type=Path))
@output_option
def show(certificate: Path, output: str) -> None:
    """Show whose certificate it is (a file, or a directory with cert.pem) and how long it lives."""
    from cryptography import x509

    from coriolis.rpc.tls import read_pem
    from coriolis.security.pki import identity_of, needs_renewal

    path = certificate / "cert.pem" if certificate.is_dir() else certificate
    identity = identity_of(path)
    parsed = x509.load_pem_x509_certificate(read_pem(path))
    found = {
        "identity": str(identity),
        "role": identity.role,
        "not_before": wire_time(parsed.not_valid_before_utc),
        "not_after": wire_time(parsed.not_valid_after_utc),
        "needs_renewal": needs_renewal(path),
    }
    if not emit(found, output):
        print_fields(found)
