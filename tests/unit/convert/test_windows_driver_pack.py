"""A virtio-win ISO becomes a driver pack; what is not whole in it is left out and says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coriolis.convert import driver_pack
from coriolis.convert.driver_files import is_catalogue, parse_inf, program
from coriolis.convert.driver_pack import Member, checked_driver, chosen, parse_listing, prepare_driver_pack
from coriolis.convert.windows.pack import Pack
from coriolis.errors import Corrupt, InvalidInput, QuotaExceeded, Unavailable
from tests.lab import phony_windows_drivers as phony

LISTING = """\
dr-xr-xr-x  4 0      0        2048 Nov 22 17:47 .
-r--r--r--  2 0      0       71680 Nov 22 17:47 NetKVM/2k16/amd64/netkvm.sys
-r--r--r--  2 0      0           0 Nov 22  2024 NetKVM/2k19/amd64/netkvm.sys link to NetKVM/2k16/amd64/netkvm.sys
hr--r--r--  2 0      0           0 Nov 22  2024 NetKVM/w10/amd64/netkvm.sys link to NetKVM/2k19/amd64/netkvm.sys
lrwxrwxrwx  1 0      0           0 Nov 22  2024 viostor/2k19/amd64/viostor.sys -> /etc/shadow
-r--r--r--  1 0      0           9 Nov 22  2024 viostor/2k19/amd64/../../../../etc/passwd
-r--r--r--  1 0      0           9 Nov 22  2024 /etc/passwd
-r--r--r--  1 0      0           9 Nov 22  2024 viostor/2k19/amd64/*.sys
-r--r--r--  1 0      0           9 Nov 22  2024 viostor/2k19/amd64/vio\\nstor.sys
prw-r--r--  1 0      0           0 Nov 22  2024 viostor/2k19/amd64/viostor.inf
"""


def test_the_listing_resolves_links_and_drops_what_is_no_plain_file() -> None:
    content = "NetKVM/2k16/amd64/netkvm.sys"
    assert parse_listing(LISTING) == [
        Member(content, content, 71680),
        Member("NetKVM/2k19/amd64/netkvm.sys", content, 71680),
        Member("NetKVM/w10/amd64/netkvm.sys", content, 71680),
    ]


def test_what_is_chosen() -> None:
    names = [
        "viostor/2k19/amd64/viostor.sys",
        "viostor/2k19/amd64/viostor.pdb",
        "viostor/2k19/ARM64/viostor.sys",
        "viostor/viostor.sys",
        "netkvm/w10/x86/netkvm.inf",
        "qxl/w7/amd64/qxl.sys",
        "guest-agent/qemu-ga-x86_64.msi",
        "virtio-win-gt-x64.msi",
    ]
    found = chosen([Member(name, name, 1) for name in names])
    assert [one.name for one in found] == [names[0], names[4], names[6]]


def test_an_iso_of_too_much_is_refused() -> None:
    name = "viostor/2k19/amd64/viostor.sys"
    with pytest.raises(QuotaExceeded):
        chosen([Member(name, name, driver_pack.MAX_FILE_BYTES + 1)])
    with pytest.raises(QuotaExceeded):
        chosen([Member(name, name, driver_pack.MAX_FILE_BYTES)] * 5)
    with pytest.raises(QuotaExceeded):
        parse_listing("x\n" * (driver_pack.MAX_ENTRIES + 1))


def test_an_iso_is_unpacked_once_and_all_of_it_is_there(tmp_path: Path) -> None:
    iso = tmp_path / "virtio-win.iso"
    phony.make_iso(iso, tmp_path / "iso")
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: prepare_driver_pack(iso, tmp_path / "state"), range(2))
    assert first == second
    pack = Pack(first)
    assert len(pack.drivers) == len(phony.DRIVERS) * (len(phony.FOLDERS) + len(phony.WITH_X86))
    assert "virtio-win.iso, sha256 " in pack.source
    for name, data in phony.tree():
        driver, folder, *rest = (*name.split("/"), "")
        if len(rest) == 3 and not name.endswith(".pdb"):
            packed = pack.find(driver, folder, rest[0])
            assert packed is not None
            assert (packed.version, packed.embedded_signature) == (phony.VERSION, True)
            assert pack.read(packed.files[rest[1]]) == data
    agent = pack.agent("amd64")
    assert agent is not None
    assert pack.read(agent).endswith(b"phony msi")
    assert not list(first.rglob("*.pdb"))
    assert sorted(path.name for path in first.parent.iterdir()) == [first.name, "lock"]
    manifest = (first / "manifest.json").stat().st_mtime_ns
    assert prepare_driver_pack(iso, tmp_path / "state") == first
    assert (first / "manifest.json").stat().st_mtime_ns == manifest
    assert first.stat().st_mode & 0o077 == 0


def test_a_pack_that_a_killed_run_left_is_made_anew(tmp_path: Path) -> None:
    iso = tmp_path / "virtio-win.iso"
    phony.make_iso(iso, tmp_path / "iso", ["2k19"])
    made = prepare_driver_pack(iso, tmp_path / "state")
    (made / "manifest.json").unlink()
    (made / "left").write_text("")
    assert Pack(prepare_driver_pack(iso, tmp_path / "state")).find("viostor", "2k19", "amd64") is not None
    assert not (made / "left").exists()


def test_folders_that_are_not_whole_are_left_out_with_the_reason(tmp_path: Path) -> None:
    top = tmp_path / "iso"
    phony.make_iso(tmp_path / "first.iso", top, ["2k19", "2k22"])
    (top / "viostor/2k22/amd64/viostor.cat").unlink()
    subprocess.run(["genisoimage", "-quiet", "-J", "-r", "-o", tmp_path / "second.iso", top], check=True)
    made = prepare_driver_pack(tmp_path / "second.iso", tmp_path / "state")
    assert Pack(made).find("viostor", "2k19", "amd64") is not None
    assert Pack(made).find("viostor", "2k22", "amd64") is None
    refused = json.loads((made / "manifest.json").read_bytes())["refused"]
    assert refused == [
        {"where": "viostor/2k22/amd64", "reason": "its INF names viostor.cat, which is not there"},
    ]


def test_what_is_no_iso_or_has_no_drivers(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        prepare_driver_pack(tmp_path / "absent.iso", tmp_path / "state")
    (tmp_path / "noise.iso").write_bytes(os.urandom(100_000))
    with pytest.raises(InvalidInput, match="cannot be read"):
        prepare_driver_pack(tmp_path / "noise.iso", tmp_path / "state")
    (tmp_path / "empty").mkdir()
    subprocess.run(["genisoimage", "-quiet", "-o", tmp_path / "empty.iso", tmp_path / "empty"], check=True)
    with pytest.raises(InvalidInput, match="no usable virtio driver"):
        prepare_driver_pack(tmp_path / "empty.iso", tmp_path / "state")
    assert [path.name for path in (tmp_path / "state/driver-packs").iterdir()] == ["lock"]


def test_without_bsdtar_it_says_which_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phony.make_iso(tmp_path / "a.iso", tmp_path / "iso", ["2k19"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="libarchive-tools"):
        prepare_driver_pack(tmp_path / "a.iso", tmp_path / "state")


def files(**changes: bytes | None) -> dict[str, bytes]:
    found: dict[str, bytes | None] = {**phony.driver_files("viostor")}
    found.update({f"viostor.{ending}": data for ending, data in changes.items()})
    return {name: data for name, data in found.items() if data is not None}


def test_a_whole_driver() -> None:
    assert checked_driver("viostor", "amd64", files()) == (phony.VERSION, True)
    by_catalogue = phony.driver_files("viostor", signed=False)
    assert checked_driver("viostor", "amd64", by_catalogue) == (phony.VERSION, False)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"inf": None}, "no INF"),
        ({"sys": None}, r"names viostor\.sys"),
        ({"cat": b"phony catalogue"}, "not signed data"),
        ({"inf": b"[Version]\nCatalogFile=viostor.cat\n"}, "no DriverVer"),
        ({"inf": b"[Version]\nDriverVer=01/01/2024,1.2.3.4\n"}, "no CatalogFile"),
        ({"sys": phony.program(0x14C, signed=True)}, "built for x86"),
        ({"sys": phony.program(mark=b"changed")}, "neither"),
        ({"sys": b"MZ"}, "no whole Windows program"),
        ({"sys": b"\x7fELF" + bytes(1000)}, "no Windows program"),
    ],
)
def test_drivers_that_are_not_whole(changes: dict[str, bytes | None], why: str) -> None:
    with pytest.raises(Corrupt, match=why):
        checked_driver("viostor", "amd64", files(**changes))


def test_a_second_inf_beside_the_drivers_own() -> None:
    second = phony.inf("vioprot", "Net", "{0}", "1000", "1041").replace(b"100.95.104.26200", b"9.9.9.9")
    program_file = phony.program(signed=True, mark=b"protocol")
    more = {"vioprot.inf": second, "vioprot.sys": program_file, "vioprot.cat": phony.catalogue()}
    assert checked_driver("NetKVM", "amd64", {**phony.driver_files("NetKVM"), **more}) == (phony.VERSION, True)


def test_an_inf_in_utf_16() -> None:
    data = b"\xff\xfe" + phony.inf("viostor", "SCSIAdapter", "{0}", "1001", "1042").decode().encode("utf-16-le")
    assert parse_inf(data) == parse_inf(phony.inf("viostor", "SCSIAdapter", "{0}", "1001", "1042"))
    assert parse_inf(data).files == ("viostor.sys",)


def test_the_digest_of_a_program_leaves_its_signature_out() -> None:
    plain, signed = program(phony.program()), program(phony.program(signed=True))
    assert (plain.signed, signed.signed) == (False, True)
    assert plain.digests == signed.digests
    assert phony.image_digest(phony.program(), signed=False) in plain.digests
    # what osslsigncode 2.9 calculated for the same file
    calculated = "facaab54702ab196466cfdc6b1c34a611334b677e05a468304a9537177a94f94"
    assert calculated in [digest.hex() for digest in plain.digests]


def test_catalogues() -> None:
    assert is_catalogue(phony.catalogue())
    assert not is_catalogue(b"")
    assert not is_catalogue(bytes(64))


def test_the_agents_reader_is_not_needed_by_the_worker() -> None:
    """The worker's Python has the standard library only."""
    code = "import sys, coriolis.convert.plugins as p; print('msgspec' in sys.modules, 'hivex' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
