from __future__ import annotations

from coriolis.convert.linux import esp


def test_grub_alone() -> None:
    copies = esp.fallback_copies({"debian": ["grubx64.efi"]})
    assert copies == [("debian/grubx64.efi", "BOOT/BOOTX64.EFI")]


def test_shim_goes_with_what_it_starts() -> None:
    copies = esp.fallback_copies({"Redhat": ["SHIMX64.EFI", "grubx64.efi", "mmx64.efi", "grub.cfg", "x"]})
    assert copies == [
        ("Redhat/SHIMX64.EFI", "BOOT/BOOTX64.EFI"),
        ("Redhat/grubx64.efi", "BOOT/grubx64.efi"),
        ("Redhat/mmx64.efi", "BOOT/mmx64.efi"),
        ("Redhat/grub.cfg", "BOOT/grub.cfg"),
    ]


def test_an_existing_fallback_stays_whatever_its_case() -> None:
    listing = {"Boot": ["bootX64.efi"], "debian": ["grubx64.efi"]}
    assert esp.has_fallback(listing)
    assert esp.fallback_copies(listing) == []


def test_an_existing_directory_keeps_its_case_and_windows_is_no_source() -> None:
    listing = {"Boot": ["fbx64.efi"], "Microsoft": ["grubx64.efi"], "debian": ["grubx64.efi"]}
    assert esp.fallback_copies(listing) == [("debian/grubx64.efi", "Boot/BOOTX64.EFI")]
    assert esp.fallback_copies({"vendor": ["tool.efi"]}) == []
