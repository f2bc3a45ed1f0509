from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.convert.linux import network
from coriolis.convert.linux.network import Bindings, Nic

A, B, C = (f"00:50:56:00:00:0{n}" for n in "abc")


def test_one_interface_gets_the_one_name() -> None:
    pins = network.choose([Nic(A)], ["ens192"], Bindings())
    assert pins.pairs == ((A, "ens192"),)
    assert pins.messages == ()


def test_hints_win_over_the_order_of_appearance() -> None:
    pins = network.choose([Nic(A), Nic(B, "ens192"), Nic(C)], ["ens192", "ens224", "ens256"], Bindings())
    assert dict(pins.pairs) == {B: "ens192", A: "ens224", C: "ens256"}


def test_a_hint_that_the_guest_does_not_configure_is_none() -> None:
    pins = network.choose([Nic(A, "Network adapter 1")], ["ens192"], Bindings())
    assert pins.pairs == ((A, "ens192"),)


def test_names_that_the_guest_gives_are_left_alone() -> None:
    link = network.link_bindings(f"[Match]\nMACAddress={A.upper()}\n[Link]\nName=ens192\n")
    rules = network.rule_bindings(f'SUBSYSTEM=="net", ATTR{{address}}=="{B}", NAME="eth7"\n# ATTR{{address}}=="{C}"\n')
    assert (link, rules) == ([(A, "ens192")], [(B, "eth7")])
    bound = Bindings(frozenset([*link, *rules]))
    pins = network.choose([Nic(A), Nic(B), Nic(C)], ["ens192", "eth7", "ens224"], bound)
    assert pins.pairs == ((C, "ens224"),)


def test_a_link_file_that_sets_no_name_binds_nothing() -> None:
    assert network.link_bindings(f"[Match]\nMACAddress={A}\n[Link]\nMTUBytes=9000\n") == []


def test_configuration_that_matches_a_mac_says_which_name_it_had() -> None:
    bound = Bindings(matched=frozenset({(B, "ens192"), (C, "")}))
    pins = network.choose([Nic(A), Nic(B), Nic(C)], ["ens192", "ens224"], bound)
    assert dict(pins.pairs) == {B: "ens192", A: "ens224"}
    assert pins.messages == ()


def test_a_mac_that_the_machine_does_not_have_says_nothing() -> None:
    bound = Bindings(frozenset({("00:50:56:00:00:99", "eth0")}), frozenset({("00:50:56:00:00:98", "eth1")}))
    assert network.choose([Nic(A), Nic(B)], ["eth0", "eth1"], bound).pairs == ((A, "eth0"), (B, "eth1"))


def test_differing_numbers_are_reported() -> None:
    few = network.choose([Nic(A)], ["ens192", "ens224"], Bindings())
    assert few.messages == ("the guest configures ens224, but no network interface is left for it",)
    many = network.choose([Nic(A), Nic(B)], ["ens192"], Bindings())
    assert many.messages == (f"no name is configured for the interface {B}",)


@pytest.mark.parametrize("name", ["../x", "a" * 16, "ens192\n[Link]", "-x", "a b", ""])
def test_hostile_names_never_reach_a_link_file(name: str) -> None:
    assert network.physical([name]) == []


def test_the_link_file() -> None:
    path, text = network.link_file(A, "ens192")
    assert path == "/etc/systemd/network/10-coriolis-ens192.link"
    assert f"[Match]\nMACAddress={A}\n\n[Link]\nName=ens192\n" in text


def test_rules_replace_what_bound_the_name_or_the_mac() -> None:
    old = (
        f'# comment\nSUBSYSTEM=="net", ATTR{{address}}=="{B}", NAME="eth0"\n'
        f'SUBSYSTEM=="net", ATTR{{address}}=="{C}", NAME="eth5"\n'
    )
    new = network.with_rules(old, [(A, "eth0")])
    assert network.rule_bindings(new) == [(C, "eth5"), (A, "eth0")]
    assert new.startswith("# comment\n")
    assert network.with_rules(new, [(A, "eth0")]) == new


def test_only_the_stale_mac_is_replaced() -> None:
    text = f"# {B}\nHWADDR={B.upper()}\nMACADDR={C}\n"
    assert network.with_macs(text, {B: A}) == f"# {B}\nHWADDR={A}\nMACADDR={C}\n"


def test_what_the_guest_says_of_an_old_mac_counts_for_the_new_one() -> None:
    """Two interfaces swap what a plain match by order would give them."""
    nics = [Nic(A, was=B), Nic(C)]
    bound = Bindings(frozenset({(B, "ens224")}), frozenset({(C, "ens192")}))
    assert network.choose(nics, ["ens192", "ens224"], bound.renamed(nics)).pairs == ((C, "ens192"),)
    rule = f'SUBSYSTEM=="net", ATTR{{address}}=="{B}", NAME="ens224"'
    assert network.rule_bindings(network.with_macs(rule, network.changed_macs(nics))) == [(A, "ens224")]
    assert network.with_macs(f"{A} {B}", {A: B, B: A}) == f"{B} {A}", "also when they are exchanged"


macs = st.integers(1, 9).map(lambda n: f"00:50:56:00:00:{n:02x}")
names = st.integers(0, 9).map(lambda n: f"ens{n}")
pairs = st.frozensets(st.tuples(macs, names), max_size=6)


@given(st.lists(macs, unique=True, max_size=5), st.lists(names, unique=True, max_size=5), pairs, pairs)
def test_no_name_and_no_mac_is_given_twice(
    have: list[str], configured: list[str], given_: frozenset[tuple[str, str]], matched: frozenset[tuple[str, str]]
) -> None:
    nics = [Nic(mac) for mac in have]
    bound = Bindings(given_, matched)
    pins = network.choose(nics, configured, bound)
    kept = bound.of(nics).given
    all_names = [name for _, name in pins.pairs] + sorted({name for _, name in kept})
    assert len(all_names) == len(set(all_names))
    assert len({mac for mac, _ in pins.pairs}) == len(pins.pairs)
    assert {mac for mac, _ in pins.pairs} <= set(have) - {mac for mac, _ in kept}
    again = network.choose(nics, configured, Bindings(given_ | frozenset(pins.pairs), matched))
    assert again.pairs == (), "a second conversion has nothing to pin"
