"""Static addresses of Windows guests: read from the registry, matched to MACs, written as a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from coriolis.convert.plugin import Nic
from coriolis.convert.windows.network import Adapter, Addresses, Setting, adapters, serial_mac, settings
from coriolis.convert.windows.network_script import script
from coriolis.convert.windows.registry import Hive
from tests.lab.phony_windows_hives import NET, RELEASES, Card, hive, system_tree

FIRST, SECOND, THIRD = "00:50:56:b2:a1:c8", "52:54:00:00:00:02", "52:54:00:00:00:03"
PLAIN = Card(guid="{00000000-0000-4000-8000-000000000002}", instance="4&2ba0ab14&0&0018")


def read(*cards: Card, changes: dict[str, dict[str, Any]] | None = None) -> list[Adapter]:
    tree = {**system_tree(RELEASES["win2k19"], cards), **(changes or {})}
    return adapters(Hive(hive(tree)), "ControlSet001")


@pytest.mark.parametrize(
    ("instance", "mac"),
    [
        ("FF565000B37984FE00", "00:50:56:84:79:b3"),
        ("ff565000c8a1b2fe00", FIRST),
        ("001B21FFFF3A5B7C00", "00:1b:21:3a:5b:7c"),
        ("4&2ba0ab14&0&0018", ""),
        ("", ""),
        ("FF565000B37984FE00extra", ""),
    ],
)
def test_the_mac_in_the_name_of_a_pci_express_device(instance: str, mac: str) -> None:
    assert serial_mac(instance) == mac


def test_adapters_are_hardware_with_their_settings() -> None:
    second = replace(
        PLAIN,
        addresses=("10.0.0.5", "10.0.0.6", "fe80::1", "0.0.0.0", "10.0.0.9"),
        masks=("255.255.0.0", "255.255.255.255", "255.0.0.0", "255.0.0.0", "255.0.255.0"),
        gateways=("10.0.0.1", "", "nonsense"),
        name_servers="10.0.0.2,10.0.0.3 $(calc)",
    )
    found = read(Card(), second, Card(guid="{00000000-0000-4000-8000-000000000003}", instance="5&1", dhcp=True))
    assert [one.mac for one in found] == [FIRST, "", ""]
    assert found[0].static == Addresses((("192.168.77.20", 24),), ("192.168.77.1",), ("192.168.77.1",))
    assert found[1].static == Addresses(
        (("10.0.0.5", 16), ("10.0.0.6", 32)), ("10.0.0.1",), ("10.0.0.2", "10.0.0.3")
    ), "what is no address is left out"
    assert found[2].static is None


def test_a_mac_that_an_administrator_set_wins() -> None:
    key = rf"ControlSet001\Control\Class\{NET}\0001"
    values = {"NetCfgInstanceId": Card().guid, "ComponentId": "pci\\x", "NetworkAddress": "02-00-5E-00-00-01"}
    assert read(Card(), changes={key: values})[0].mac == "02:00:5e:00:00:01"


def adapter(guid: str, mac: str = "", static: Addresses | None = None) -> Adapter:
    return Adapter(guid, guid, mac, static)


def addresses(last: int) -> Addresses:
    return Addresses(((f"10.0.0.{last}", 24),), ("10.0.0.1",))


def matched(found: Sequence[Adapter], nics: Sequence[Nic]) -> dict[str, Addresses | None]:
    return {one.mac: one.addresses for one in settings(found, nics)[0]}


def test_by_mac_whatever_the_order() -> None:
    found = [adapter("a", SECOND, addresses(2)), adapter("b", FIRST, addresses(1))]
    assert matched(found, [Nic(FIRST), Nic(SECOND)]) == {FIRST: addresses(1), SECOND: addresses(2)}


def test_the_rest_in_order() -> None:
    found = [adapter("a", "", addresses(2)), adapter("b", FIRST, addresses(1)), adapter("c")]
    nics = [Nic(FIRST), Nic(SECOND), Nic(THIRD)]
    assert matched(found, nics) == {FIRST: addresses(1), SECOND: addresses(2)}, "the third has DHCP already"


def test_differing_numbers_are_reported_not_guessed() -> None:
    found = [adapter("a", "", addresses(2)), adapter("b", "", addresses(3))]
    result, findings = settings(found, [Nic(FIRST)])
    assert result == []
    assert [(one.severity, one.code) for one in findings] == [("warning", "ADDRESSES_UNMATCHED")]
    assert settings([adapter("a"), adapter("b")], [Nic(FIRST)]) == ([], []), "all had DHCP"


def test_addresses_of_an_absent_interface_are_named() -> None:
    result, (finding,) = settings([adapter("a", SECOND, addresses(2))], [])
    assert result == []
    assert (finding.code, SECOND in finding.message) == ("ADDRESSES_UNUSED", True)


def test_dhcp_as_the_job_asks() -> None:
    found = [adapter("a", FIRST, addresses(1)), adapter("b", SECOND, addresses(2))]
    nics = [Nic(FIRST, addressing="dhcp"), Nic(SECOND)]
    assert matched(found, nics) == {FIRST: None, SECOND: addresses(2)}


def test_the_script() -> None:
    several = Addresses(
        (("10.0.0.5", 16), ("10.0.0.6", 24)), ("10.0.0.1", "10.0.0.2"), ("10.0.0.3", "10.0.0.4"), "example.org"
    )
    text = script([Setting(FIRST, several), Setting(SECOND, None)])
    assert text.count("Find-Index '") == 2
    lines = [line.strip() for line in text.partition(f"Find-Index '{FIRST.upper()}'")[2].splitlines()]
    netsh = [
        line.removeprefix("netsh.exe interface ipv4 ").replace('name="$index" ', "")
        for line in lines
        if "netsh" in line
    ]
    assert netsh == [
        "set address source=static address=10.0.0.5 mask=255.255.0.0 gateway=10.0.0.1 gwmetric=1",
        "add address address=10.0.0.6 mask=255.255.255.0",
        "add address gateway=10.0.0.2 gwmetric=2",
        "set dnsservers source=static address=10.0.0.3 register=primary validate=no",
        "add dnsservers address=10.0.0.4 index=2 validate=no",
        "set address source=dhcp",
        "set dnsservers source=dhcp",
    ]
    assert "SetDNSDomain('example.org')" in text
    assert script([]) == ""


def test_a_hostile_domain_does_not_get_into_the_script() -> None:
    key = rf"ControlSet001\Services\Tcpip\Parameters\Interfaces\{Card().guid}"
    values = {
        "EnableDHCP": 0,
        "IPAddress": ("multi", ["10.0.0.5"]),
        "SubnetMask": ("multi", ["255.0.0.0"]),
        "NameServer": "1.1.1.1'; calc; '",
        "Domain": "x'); calc; ('",
    }
    (found,) = read(Card(), changes={key: values})
    result, _ = settings([found], [Nic(FIRST)])
    assert "calc" not in script(result)
    assert found.static == Addresses((("10.0.0.5", 8),), (), ())


def test_addresses_follow_an_adapter_whose_mac_changes() -> None:
    """The script finds the interface by the MAC that it will have; the registry knows the one that it had."""
    found = [adapter("a", FIRST, addresses(1)), adapter("b", SECOND, addresses(2))]
    assert matched(found, [Nic(SECOND), Nic(THIRD, was=FIRST)]) == {SECOND: addresses(2), THIRD: addresses(1)}
    assert settings(found, [Nic(SECOND), Nic(THIRD, was=FIRST)])[1] == []
