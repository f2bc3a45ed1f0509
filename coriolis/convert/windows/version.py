"""Which Windows a guest is, from values of its registry, and the folder of its drivers on a virtio-win ISO. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from coriolis.convert.windows.registry import Hive

CURRENT_VERSION = r"Microsoft\Windows NT\CurrentVersion"
ENVIRONMENT = r"Control\Session Manager\Environment"

_SERVERS = (
    (7600, "2k8R2"),
    (9200, "2k12"),
    (9600, "2k12R2"),
    (14393, "2k16"),
    (17763, "2k19"),
    (20348, "2k22"),
    (26100, "2k25"),
)
_CLIENTS = ((7600, "w7"), (9200, "w8"), (9600, "w8.1"), (10240, "w10"), (22000, "w11"))
_NEXT_UNKNOWN_BUILD = 30_000
ARCHITECTURES = {"amd64": "amd64", "x86": "x86"}


@dataclass(frozen=True, slots=True)
class WindowsVersion:
    """``folder``: of its drivers on a virtio-win ISO, empty when unknown. ``architecture``: amd64, x86 or as found."""

    product: str
    kind: str
    major: int
    minor: int
    build: int
    edition: str
    architecture: str
    folder: str

    @property
    def has_driver_database(self) -> bool:
        """Windows 8 and later look devices up in ``DriverDatabase``, earlier in ``CriticalDeviceDatabase``."""
        return (self.major, self.minor) >= (6, 2)

    @property
    def number(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


def version_of(software: Hive, system: Hive, control_set: str) -> WindowsVersion:
    """From SOFTWARE's CurrentVersion and the machine's environment in SYSTEM."""

    def text(name: str) -> str:
        return software.text(CURRENT_VERSION, name)

    major, minor = _numbers(text("CurrentVersion"))
    major = software.number(CURRENT_VERSION, "CurrentMajorVersionNumber") or major
    if software.number(CURRENT_VERSION, "CurrentMajorVersionNumber"):
        minor = software.number(CURRENT_VERSION, "CurrentMinorVersionNumber") or 0
    build_text = text("CurrentBuild") or text("CurrentBuildNumber")
    build = int(build_text) if build_text.isdecimal() and len(build_text) < 8 else 0
    product, installation = text("ProductName"), text("InstallationType").lower()
    kind = "server" if "server" in (installation or product.lower()) else "client"
    if kind == "client" and build >= 22000:
        product = product.replace("Windows 10", "Windows 11")  # Windows 11 still calls itself 10 there
    architecture = system.text(rf"{control_set}\{ENVIRONMENT}", "PROCESSOR_ARCHITECTURE").lower()
    return WindowsVersion(
        product=product or "Windows",
        kind=kind,
        major=major,
        minor=minor,
        build=build,
        edition=text("EditionID"),
        architecture=ARCHITECTURES.get(architecture, architecture),
        folder=driver_folder(kind, build),
    )


def driver_folder(kind: str, build: int) -> str:
    """Folder of a virtio-win ISO for a build; a build between two releases takes the older. Empty when unknown."""
    if build >= _NEXT_UNKNOWN_BUILD:
        return ""
    found = [folder for first, folder in (_SERVERS if kind == "server" else _CLIENTS) if build >= first]
    return found[-1] if found else ""


def control_sets(system: Hive) -> list[str]:
    """Those that Windows may start with, the current one first. Source: ``Select`` of the SYSTEM hive."""
    numbers = (system.number("Select", name) for name in ("Current", "Default", "LastKnownGood"))
    names = [f"ControlSet{number:03d}" for number in numbers if number]
    return [name for name in dict.fromkeys(names) if system.has(name)]


def _numbers(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() and len(text) < 8 else (0, 0)
