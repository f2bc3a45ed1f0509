from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import Conflict, InvalidInput
from coriolis.rpc.identity import ROLES, Identity, identity_dns_name
from coriolis.security.pki import create_ca, identity_of, issue, needs_renewal, trust_domain_of

AGENT = "spiffe://lab.example/agent/kvm-1"


@dataclass
class FixedClock:
    moment: datetime

    def monotonic(self) -> float:
        return 0.0

    def now(self) -> datetime:
        return self.moment


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    create_ca(tmp_path / "ca", "lab.example")
    return tmp_path / "ca"


def test_keys_are_private_and_the_identity_is_in_the_certificate(ca: Path, tmp_path: Path) -> None:
    files = issue(ca, tmp_path / "agent", AGENT, ["127.0.0.1", "node.lab"])
    for key in (files.key, ca / "ca-key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert str(identity_of(files.cert)) == AGENT
    assert {path.name for path in (tmp_path / "agent").iterdir()} == {"ca.pem", "cert.pem", "key.pem"}


def test_repeating_changes_nothing(ca: Path, tmp_path: Path) -> None:
    before = (ca / "ca.pem").read_bytes()
    create_ca(ca, "lab.example")
    assert (ca / "ca.pem").read_bytes() == before
    assert trust_domain_of(ca) == "lab.example"
    first = issue(ca, tmp_path / "agent", AGENT, ["h"]).cert.read_bytes()
    assert issue(ca, tmp_path / "agent", AGENT, ["h"]).cert.read_bytes() == first
    assert issue(ca, tmp_path / "agent", AGENT, ["h", "h2"]).cert.read_bytes() != first


def test_a_foreign_domain_is_refused(ca: Path, tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        create_ca(ca, "other.example")
    with pytest.raises(InvalidInput):
        issue(ca, tmp_path / "agent", "spiffe://other.example/agent/kvm-1")


def test_renewal_is_due_at_half_life_and_keeps_the_key(ca: Path, tmp_path: Path) -> None:
    start = datetime.now(UTC)
    files = issue(ca, tmp_path / "agent", AGENT, hours=24, clock=FixedClock(start))
    key, cert = files.key.read_bytes(), files.cert.read_bytes()
    assert not needs_renewal(files.cert, FixedClock(start + timedelta(hours=11, minutes=59)))
    later = FixedClock(start + timedelta(hours=12, minutes=1))
    assert needs_renewal(files.cert, later)
    issue(ca, tmp_path / "agent", AGENT, hours=24, clock=later)
    assert files.cert.read_bytes() != cert
    assert files.key.read_bytes() == key
    assert not needs_renewal(files.cert, later)


@pytest.mark.parametrize("damage", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_certificate_is_replaced(ca: Path, tmp_path: Path, damage: bytes) -> None:
    files = issue(ca, tmp_path / "agent", AGENT)
    files.cert.write_bytes(damage)
    issue(ca, tmp_path / "agent", AGENT)
    assert str(identity_of(files.cert)) == AGENT


@pytest.mark.parametrize(
    "host", ["a b", "*.lab", "coriolis-mesh", "agent.role.coriolis-mesh", "X.ID.CORIOLIS-MESH", ""]
)
def test_hosts_that_could_match_our_own_names_are_refused(ca: Path, tmp_path: Path, host: str) -> None:
    with pytest.raises(InvalidInput):
        issue(ca, tmp_path / "agent", AGENT, [host])


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://lab/agent",
        "spiffe://lab/agent/",
        "spiffe://lab/agent/..",
        "spiffe://lab/agent/a/b",
        "spiffe://lab/client/alice",
        "spiffe://lab/client/p/a/b",
        "spiffe://LAB/agent/a",
        "spiffe:///agent/a",
        "spiffe://lab/root/a",
        "https://lab/agent/a",
        "spiffe://lab/agent/a\n",
        "spiffe://lab/agent/a?b",
    ],
)
def test_malformed_identities_are_refused(uri: str) -> None:
    with pytest.raises(InvalidInput):
        Identity.parse(uri)


_SEGMENTS = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(st.sampled_from(ROLES), _SEGMENTS, _SEGMENTS)
def test_identities_survive_the_round_trip_and_differ_in_their_dns_name(role: str, one: str, two: str) -> None:
    name = f"{one}/{two}" if role == "client" else one
    parsed = Identity.parse(f"spiffe://lab/{role}/{name}")
    assert Identity.parse(str(parsed)) == parsed
    assert parsed.project_id == (one if role == "client" else "")
    assert identity_dns_name(parsed) != identity_dns_name(f"spiffe://lab/{role}/{name}x")
