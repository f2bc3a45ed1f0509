"""Registry hives of phony Windows guests: real files made from nothing, with data of ours. No Windows in them."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCSI = "{4d36e97b-e325-11ce-bfc1-08002be10318}"
NET = "{4d36e972-e325-11ce-bfc1-08002be10318}"
BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
LOADER = "{7619dcc9-fafe-11d9-b411-000476eba25f}"
TOOLS = "{B2A2B4A7-6E0E-4C49-9D8E-0F1E2D3C4B5A}"

Tree = dict[str, dict[str, Any]]
"""Key (``A\\B``) -> values by name: str is SZ, int DWORD, bytes BINARY, ("expand", s) and ("multi", [...])."""


@dataclass(frozen=True)
class Release:
    product: str
    current_version: str
    major: int
    minor: int
    build: int
    kind: str
    folder: str

    @property
    def is_new(self) -> bool:
        """Windows 8 and later."""
        return (self.major, self.minor) >= (6, 2)


RELEASES = {
    "win7": Release("Windows 7 Professional", "6.1", 6, 1, 7601, "Client", "w7"),
    "win8": Release("Windows 8 Pro", "6.2", 6, 2, 9200, "Client", "w8"),
    "win8.1": Release("Windows 8.1 Pro", "6.3", 6, 3, 9600, "Client", "w8.1"),
    "win10": Release("Windows 10 Pro", "6.3", 10, 0, 19045, "Client", "w10"),
    "win11": Release("Windows 10 Pro", "6.3", 10, 0, 22631, "Client", "w11"),  # sic
    "win2k8r2": Release("Windows Server 2008 R2 Standard", "6.1", 6, 1, 7601, "Server", "2k8R2"),
    "win2k12": Release("Windows Server 2012 Standard", "6.2", 6, 2, 9200, "Server", "2k12"),
    "win2k12r2": Release("Windows Server 2012 R2 Standard", "6.3", 6, 3, 9600, "Server", "2k12R2"),
    "win2k16": Release("Windows Server 2016 Standard", "6.3", 10, 0, 14393, "Server", "2k16"),
    "win2k19": Release("Windows Server 2019 Standard", "6.3", 10, 0, 17763, "Server", "2k19"),
    "win2k22": Release("Windows Server 2022 Standard", "6.3", 10, 0, 20348, "Server", "2k22"),
    "win2k25": Release("Windows Server 2025 Standard", "6.3", 10, 0, 26100, "Server", "2k25"),
}


@dataclass(frozen=True)
class Card:
    """A network card: the instance name of its device, its settings as the registry has them."""

    guid: str = "{6F0C1B52-9E1B-4C0B-8B2D-1A53C0A9D7E1}"
    instance: str = "FF565000C8A1B2FE00"  # 00:50:56:b2:a1:c8
    addresses: tuple[str, ...] = ("192.168.77.20",)
    masks: tuple[str, ...] = ("255.255.255.0",)
    gateways: tuple[str, ...] = ("192.168.77.1",)
    name_servers: str = "192.168.77.1"
    dhcp: bool = False


def system_tree(release: Release, cards: Sequence[Card] = (Card(),), architecture: str = "AMD64") -> Tree:
    """The SYSTEM hive, its control set twice as on every machine that ever started well."""
    control_set: Tree = {
        r"Control\CrashControl": {"AutoReboot": 1, "CrashDumpEnabled": 2},
        r"Control\Session Manager": {"BootExecute": ("multi", ["autocheck autochk *"])},
        r"Control\Session Manager\Environment": {"PROCESSOR_ARCHITECTURE": architecture, "OS": "Windows_NT"},
        rf"Control\Class\{SCSI}": {"Class": "SCSIAdapter"},
        r"Services\Tcpip\Parameters": {"Hostname": "winsrc", "Domain": ""},
        r"Services\LSI_SAS\StartOverride": {"0": 3},
        # the loopback adapter of VPN programs: a card that is no hardware
        rf"Control\Class\{NET}\0000": {
            "NetCfgInstanceId": "{11111111-2222-3333-4444-555555555555}",
            "ComponentId": "*msloop",
            "Characteristics": 1,
        },
    }
    in_box = {"LSI_SAS": 3, "storahci": 3, "disk": 0, "atapi": 3, "intelide": 3, "storvsc": 3, "vmbus": 3}
    in_box.update({"stornvme": 3} if release.build >= 9600 else {})
    for name, start in {"pvscsi": 0, **in_box}.items():
        values = {"Type": 1, "Start": start, "ErrorControl": 1, "Group": "SCSI miniport"}
        control_set[rf"Services\{name}"] = {**values, "ImagePath": ("expand", rf"System32\drivers\{name}.sys")}
    for name, kind, start in (("VMTools", 16, 2), ("vmci", 1, 0), ("vsock", 1, 0), ("vmhgfs", 2, 1), ("vmxnet3", 1, 3)):
        control_set[rf"Services\{name}"] = {"Type": kind, "Start": start, "ErrorControl": 1}
    device = "VEN_15AD&DEV_07B0&SUBSYS_07B015AD&REV_01"
    for number, card in enumerate(cards, 1):
        control_set[rf"Control\Class\{NET}\{number:04d}"] = {
            "DriverDesc": "vmxnet3 Ethernet Adapter",
            "NetCfgInstanceId": card.guid,
            "ComponentId": "pci\\ven_15ad&dev_07b0",
            "Characteristics": 0x84,
        }
        control_set[rf"Enum\PCI\{device}\{card.instance}"] = {
            "Service": "vmxnet3",
            "ClassGUID": NET,
            "Driver": rf"{NET}\{number:04d}",
        }
        control_set[rf"Services\Tcpip\Parameters\Interfaces\{card.guid}"] = {
            "EnableDHCP": int(card.dhcp),
            "IPAddress": ("multi", list(card.addresses)),
            "SubnetMask": ("multi", list(card.masks)),
            "DefaultGateway": ("multi", list(card.gateways)),
            "NameServer": card.name_servers,
        }
    tree: Tree = {
        "Select": {"Current": 1, "Default": 1, "Failed": 0, "LastKnownGood": 2},
        "Setup": {"SystemSetupInProgress": 0, "SetupType": 0, "CmdLine": ""},
    }
    if release.is_new:
        tree["DriverDatabase"] = {"Version": 0x0A000000, "SchemaVersion": 0x10000}
        tree[r"DriverDatabase\DeviceIds\PCI\VEN_15AD&DEV_07C0"] = {"pvscsi.inf": b"\x01\xff\x00\x00"}
    else:
        critical = r"Control\CriticalDeviceDatabase\pci#ven_15ad&dev_07c0"
        control_set[critical] = {"Service": "pvscsi", "ClassGUID": SCSI}
    for number in (1, 2):
        tree |= {rf"ControlSet00{number}\{key}": values for key, values in control_set.items()}
    return tree


def software_tree(release: Release) -> Tree:
    """The SOFTWARE hive, with VMware Tools installed."""
    version: dict[str, Any] = {
        "ProductName": release.product,
        "CurrentVersion": release.current_version,
        "CurrentBuild": str(release.build),
        "CurrentBuildNumber": str(release.build),
        "InstallationType": release.kind,
        "EditionID": "ServerStandard" if release.kind == "Server" else "Professional",
    }
    if release.major == 10:
        version |= {"CurrentMajorVersionNumber": 10, "CurrentMinorVersionNumber": 0}
    top = r"Microsoft\Windows\CurrentVersion"
    return {
        r"Microsoft\Windows NT\CurrentVersion": version,
        top: {"ProgramFilesDir": "C:\\Program Files", "DevicePath": ("expand", r"%SystemRoot%\inf")},
        rf"{top}\Uninstall\{TOOLS}": {
            "DisplayName": "VMware Tools",
            "UninstallString": ("expand", f"MsiExec.exe /I{TOOLS}"),
        },
        rf"{top}\Uninstall\7-Zip": {"DisplayName": "7-Zip 23.01", "UninstallString": r"C:\7-Zip\Uninstall.exe"},
        rf"Wow6432Node\{top}\Uninstall\Other": {"DisplayName": "Other", "UninstallString": "MsiExec.exe /X{no}"},
    }


def store_tree() -> Tree:
    """A BCD store whose default loader has graphics switched off."""
    return {
        "Description": {"KeyName": "BCD00000000"},
        rf"Objects\{BOOT_MANAGER}\Elements\23000003": {"Element": LOADER},
        rf"Objects\{LOADER}\Elements\16000046": {"Element": b"\x01"},
        rf"Objects\{LOADER}\Elements\12000004": {"Element": "Windows"},
    }


def hive(tree: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A hive with ``tree`` in it; every key on the way is made."""
    import hivex

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "hive")
        path.write_bytes(empty_hive())
        handle = hivex.Hivex(str(path), write=True)
        for key, values in tree.items():
            node = handle.root()
            for part in key.split("\\"):
                node = handle.node_get_child(node, part) or handle.node_add_child(node, part)
            if values:
                handle.node_set_values(node, [_value(name, value) for name, value in values.items()])
        handle.commit(None)
        return path.read_bytes()


def empty_hive() -> bytes:
    """The smallest hive (regf 1.3): a base block, one bin with a root key and its security cell."""
    root, security = 0x20, 0x88
    key = struct.pack("<2sHQIIII", b"nk", 0x2C, 1, 0, 0, 0, 0)
    key += struct.pack(
        "<IIIIIIIIIIIHH", 0xFFFFFFFF, 0xFFFFFFFF, 0, 0xFFFFFFFF, security, 0xFFFFFFFF, 0, 0, 0, 0, 0, 4, 0
    )
    key += b"ROOT"
    descriptor = b"\x01\x00\x04\x80" + bytes(16)
    cell = struct.pack("<2sHIIII", b"sk", 0, security, security, 1, len(descriptor)) + descriptor
    cells = _cell(key, security - root) + _cell(cell, 0x30)
    free = 0x1000 - 0x20 - len(cells)
    block = struct.pack("<4sIIIIQI", b"hbin", 0, 0x1000, 0, 0, 1, 0) + cells + struct.pack("<i", free) + bytes(free - 4)
    head = struct.pack("<4sIIQIIIIIII", b"regf", 1, 1, 1, 1, 3, 0, 1, root, 0x1000, 1).ljust(508, b"\0")
    checksum = 0
    for (word,) in struct.iter_unpack("<I", head):
        checksum ^= word
    return (head + struct.pack("<I", checksum)).ljust(0x1000, b"\0") + block


def _cell(body: bytes, size: int) -> bytes:
    return struct.pack("<i", -size) + body.ljust(size - 4, b"\0")


def _text(value: str) -> bytes:
    return f"{value}\0".encode("utf-16-le")


def _value(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        kind, data = 4, struct.pack("<I", value)
    elif isinstance(value, bytes):
        kind, data = 3, value
    elif isinstance(value, tuple) and value[0] == "expand":
        kind, data = 2, _text(value[1])
    elif isinstance(value, tuple):
        kind, data = 7, b"".join(_text(one) for one in value[1]) + b"\0\0"
    else:
        kind, data = 1, _text(value)
    return {"key": name, "t": kind, "value": data}
