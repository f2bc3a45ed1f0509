"""The PowerShell script that gives each interface its addresses at the first boot, found by MAC. Pure.

Needs PowerShell 2 (Windows 7). Values come from ``network.settings``: addresses and MACs in plain form, nothing of the
guest's own text but a domain of letters, digits, dots and dashes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from coriolis.convert.windows.network import Addresses, Setting

WAIT_S = 300
"""For adapters to appear once their driver is installed."""

_HEAD = f"""$ErrorActionPreference = 'Continue'
function Find-Index([string] $Mac) {{
    $until = (Get-Date).AddSeconds({WAIT_S})
    do {{
        $all = @(Get-WmiObject Win32_NetworkAdapter -Filter "MACAddress='$Mac'")
        $found = @($all | Where-Object {{ $_.NetConnectionID }})
        if ($found.Count -gt 0) {{ return $found[0].InterfaceIndex }}
        Start-Sleep -Seconds 5
    }} while ((Get-Date) -lt $until)
    Write-Output "no adapter with the address $Mac came up" | Out-Host
    return $null
}}
"""


def script(settings: Sequence[Setting]) -> str:
    """The whole script, empty when there is nothing to set."""
    return _HEAD + "".join(_block(one) for one in settings) if settings else ""


def _block(setting: Setting) -> str:
    lines = _dhcp() if setting.addresses is None else _static(setting.addresses)
    body = "".join(f"    {line}\n" for line in lines)
    return f"\n$index = Find-Index '{setting.mac.upper()}'\nif ($index -ne $null) {{\n{body}}}\n"


def _dhcp() -> list[str]:
    return [
        'netsh.exe interface ipv4 set address name="$index" source=dhcp',
        'netsh.exe interface ipv4 set dnsservers name="$index" source=dhcp',
    ]


def _static(found: Addresses) -> list[str]:
    (first, prefix), *others = found.addresses
    gateway = f"gateway={found.gateways[0]} gwmetric=1" if found.gateways else "gateway=none"
    address = f"address={first} mask={_mask(prefix)}"
    lines = [f'netsh.exe interface ipv4 set address name="$index" source=static {address} {gateway}']
    lines += [
        f'netsh.exe interface ipv4 add address name="$index" address={one} mask={_mask(bits)}' for one, bits in others
    ]
    lines += [
        f'netsh.exe interface ipv4 add address name="$index" gateway={one} gwmetric={metric}'
        for metric, one in enumerate(found.gateways[1:], 2)
    ]
    for number, server in enumerate(found.name_servers, 1):
        if number == 1:
            tail = f"source=static address={server} register=primary validate=no"
            lines.append(f'netsh.exe interface ipv4 set dnsservers name="$index" {tail}')
        else:
            lines.append(
                f'netsh.exe interface ipv4 add dnsservers name="$index" address={server} index={number} validate=no'
            )
    if found.domain:
        lines.append(
            'Get-WmiObject Win32_NetworkAdapterConfiguration -Filter "InterfaceIndex=$index" | '
            f"ForEach-Object {{ $_.SetDNSDomain('{found.domain}') | Out-Null }}"
        )
    return lines


def _mask(prefix: int) -> str:
    return str(ipaddress.IPv4Network(f"0.0.0.0/{prefix}").netmask)
