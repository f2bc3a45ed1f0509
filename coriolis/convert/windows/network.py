"""Network identity: static addresses as the registry has them, matched to the machine's MACs, applied again by MAC.

A new network card is a new adapter to Windows, which starts it with DHCP; the old adapter keeps its settings and waits
for its card. So what was static is set again at the first boot, on whichever adapter has the MAC. Pure.

The registry seldom has a MAC. What tells it: ``NetworkAddress`` when an administrator set one; and the instance name of
a PCI Express device, which is its serial number, made from the MAC: ``FF565000B37984FE00`` is 00:50:56:84:79:b3
(VMware's vmxnet3), ``001B21FFFF3A5B7C00`` is 00:1b:21:3a:5b:7c (Intel). Else adapters and interfaces pair up in order.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from coriolis.convert.plugin import Finding, Nic
from coriolis.convert.text import shown
from coriolis.convert.windows.registry import Hive

NET_CLASS = "{4d36e972-e325-11ce-bfc1-08002be10318}"
MAX_ADAPTERS = 200
MAX_ADDRESSES = 64
MAX_DEVICES = 5_000
_PHYSICAL = 0x4
_BUSES = ("pci\\", "vmbus\\", "xenvif\\", "xen\\", "usb\\", "vif\\")
_VMWARE_SERIAL = re.compile(
    r"FF([0-9A-F]{2})([0-9A-F]{2})([0-9A-F]{2})([0-9A-F]{2})([0-9A-F]{2})([0-9A-F]{2})FE[0-9A-F]{2}"
)
_INTEL_SERIAL = re.compile(r"([0-9A-F]{6})FFFF([0-9A-F]{6})[0-9A-F]{2}")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Static IPv4 of one adapter: (address, prefix length), gateways, name servers, all as plain text."""

    addresses: tuple[tuple[str, int], ...] = ()
    gateways: tuple[str, ...] = ()
    name_servers: tuple[str, ...] = ()
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A network card that Windows knows. ``mac`` is empty when nothing tells it; ``static`` is None with DHCP."""

    guid: str
    title: str
    mac: str
    static: Addresses | None


@dataclass(frozen=True, slots=True)
class Setting:
    """What the interface ``mac`` gets at the first boot; ``addresses`` None: DHCP."""

    mac: str
    addresses: Addresses | None


def adapters(system: Hive, control_set: str) -> list[Adapter]:
    """The hardware network cards of a Windows, in the order in which they were installed."""
    top = rf"{control_set}\Control\Class\{NET_CLASS}"
    instances = _instances(system, control_set)
    found = []
    for number in sorted(name for name in system.children(top) if re.fullmatch(r"\d{4}", name))[:MAX_ADAPTERS]:
        key = rf"{top}\{number}"
        guid = system.text(key, "NetCfgInstanceId")
        if not re.fullmatch(r"\{[0-9A-Fa-f-]{36}\}", guid) or not _is_hardware(system, key):
            continue
        instance = system.text(key, "DeviceInstanceID") or instances.get(rf"{NET_CLASS}\{number}", "")
        found.append(
            Adapter(
                guid=guid,
                title=system.text(key, "DriverDesc"),
                mac=_plain_mac(system.text(key, "NetworkAddress")) or serial_mac(instance.rpartition("\\")[2]),
                static=static_addresses(system, rf"{control_set}\Services\Tcpip\Parameters\Interfaces\{guid}"),
            )
        )
    return found


def static_addresses(system: Hive, key: str) -> Addresses | None:
    """Those under one interface's key, None when it uses DHCP or has none. What is no address is left out."""
    if not system.has(key) or system.number(key, "EnableDHCP") == 1:
        return None
    pairs = zip(system.texts(key, "IPAddress"), system.texts(key, "SubnetMask"), strict=False)
    found = [pair for address, mask in pairs if (pair := _with_prefix(address, mask))]
    if not found:
        return None
    servers = re.split(r"[ ,;]+", system.text(key, "NameServer").strip())
    domain = system.text(key, "Domain")
    return Addresses(
        addresses=tuple(found[:MAX_ADDRESSES]),
        gateways=tuple(one for one in system.texts(key, "DefaultGateway") if _is_address(one))[:MAX_ADDRESSES],
        name_servers=tuple(one for one in servers if _is_address(one))[:MAX_ADDRESSES],
        domain=domain if re.fullmatch(r"[A-Za-z0-9.-]{1,253}", domain) else "",
    )


def settings(found: Sequence[Adapter], nics: Sequence[Nic]) -> tuple[list[Setting], list[Finding]]:
    """What to set at the first boot, and what cannot be told.

    By MAC first. The rest in order, if there are as many adapters as interfaces; else adapters with static addresses
    are a finding, not a guess.
    """
    by_mac = {adapter.mac: adapter for adapter in found if adapter.mac}
    known = {nic.was or nic.mac for nic in nics}
    pairs: dict[str, Adapter | None] = {nic.mac: by_mac.get(nic.was or nic.mac) for nic in nics}
    used = {adapter.guid for adapter in pairs.values() if adapter}
    open_nics = [mac for mac, adapter in pairs.items() if adapter is None]
    rest = [adapter for adapter in found if adapter.guid not in used and not adapter.mac]
    findings = []
    if len(rest) == len(open_nics):
        pairs.update(zip(open_nics, rest, strict=True))
    elif any(adapter.static for adapter in rest):
        findings.append(
            Finding(
                "warning",
                "ADDRESSES_UNMATCHED",
                f"{len(rest)} network adapters of the guest are not known by MAC and {len(open_nics)} interfaces are "
                "left: their static addresses are not set again",
                "set them by hand after the migration, or let the origin's description have the same interfaces",
            )
        )
    findings += [
        Finding(
            "info",
            "ADDRESSES_UNUSED",
            f"the static addresses of {shown(adapter.title or adapter.guid)} ({adapter.mac}) belong to no interface",
        )
        for adapter in found
        if adapter.mac and adapter.static and adapter.mac not in known
    ]
    result = []
    for nic in nics:
        adapter = pairs[nic.mac]
        if nic.addressing == "dhcp":
            result.append(Setting(nic.mac, None))
        elif adapter is not None and adapter.static is not None:
            result.append(Setting(nic.mac, adapter.static))
    return result, findings


def serial_mac(instance: str) -> str:
    """The MAC in the instance name of a PCI Express network card, empty when there is none in it."""
    text = instance.upper()
    if match := _VMWARE_SERIAL.fullmatch(text):
        return ":".join(match[n] for n in (3, 2, 1, 6, 5, 4)).lower()
    if match := _INTEL_SERIAL.fullmatch(text):
        return _plain_mac(match[1] + match[2])
    return ""


def _instances(system: Hive, control_set: str) -> dict[str, str]:
    """Class key of a driver -> instance of the device that uses it, over the PCI devices."""
    top = rf"{control_set}\Enum\PCI"
    found: dict[str, str] = {}
    pairs = ((device, one) for device in system.children(top) for one in system.children(rf"{top}\{device}"))
    for device, instance in islice(pairs, MAX_DEVICES):
        driver = system.text(rf"{top}\{device}\{instance}", "Driver")
        if driver.lower().startswith(NET_CLASS):
            found[driver.lower()] = rf"PCI\{device}\{instance}"
    return found


def _is_hardware(system: Hive, key: str) -> bool:
    characteristics = system.number(key, "Characteristics")
    if characteristics is not None:
        return bool(characteristics & _PHYSICAL)
    return system.text(key, "ComponentId").lower().startswith(_BUSES)


def _plain_mac(text: str) -> str:
    digits = re.sub(r"[-:]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]{12}", digits):
        return ""
    return ":".join(digits[n : n + 2] for n in range(0, 12, 2))


def _is_address(text: str) -> bool:
    try:
        return not ipaddress.IPv4Address(text).is_unspecified
    except ValueError:
        return False


def _with_prefix(address: str, mask: str) -> tuple[str, int] | None:
    if not _is_address(address):
        return None
    try:
        return address, ipaddress.IPv4Network(f"0.0.0.0/{mask}").prefixlen
    except ValueError:
        return None
