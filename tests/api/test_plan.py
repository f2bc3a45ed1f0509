"""``/surveys`` and ``coriolis plan`` against the gateway."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import yaml

from coriolis.cli.exits import Exit
from tests.api.stack import BODY, Stack
from tests.api.test_cli import Shell, shell, wave  # noqa: F401  # fixtures


def test_surveys_of_both_ends(stack: Stack) -> None:
    origin, destination = (BODY["migration"][side] for side in ("origin", "destination"))
    with stack.client(stack.admin) as client:
        started = client.post("/surveys", json={"survey": {"origin": origin, "instances": ["vm-01", "absent"]}})
        assert started.status_code == 200, started.text
        assert started.json()["survey"]["networks"] == []
        found = client.get(f"/surveys/{started.json()['survey']['id']}").json()["survey"]
        assert (found["side"], found["status"], found["takes"]) == ("origin", "COMPLETED", None)
        assert found["networks"][0]["subnets"][0]["cidr"] == "10.0.0.0/24"
        assert [one["machine"] is None for one in found["machines"]] == [False, True]
        there = client.post("/surveys", json={"survey": {"destination": destination}}).json()["survey"]
        known = client.get(f"/surveys/{there['id']}").json()["survey"]
        assert known["takes"]["free_networks"] == ["bridge:*"]
        assert (known["networks"][1]["kind"], known["networks"][1]["vlan"]) == ("bridge", "12")
        (store,) = known["storage_types"]
        assert (store["free_bytes"], store["capacity_bytes"]) == (512 << 20, 4 << 30)
        wrong = (
            {},
            {"origin": origin, "destination": destination},
            {"destination": destination, "instances": ["vm-01"]},
            {"origin": origin, "instances": ["vm-01", "vm-01"]},
        )
        for body in wrong:
            assert client.post("/surveys", json={"survey": body}).status_code == 400, body


def test_a_plan_says_what_is_missing_and_ends_so(shell: Shell, wave: Path, tmp_path: Path) -> None:  # noqa: F811
    saved = tmp_path / "saved.yaml"
    process = shell.start("plan", str(wave), "--save", str(saved))
    out, error = process.communicate(timeout=60)
    assert process.returncode == Exit.FAILED, out + error
    assert "Missing: network 'DMZ'" in out
    assert "--network 'DMZ=NAME'" in out
    assert "default, lan" in out
    assert not saved.exists()
    assert "fast (dir, 512.0 MiB free of 4.0 GiB)" in out
    assert "Note: storage 'fast' has 0.5 GiB left" in out
    document = shell.run("plan", str(wave), "--network", "DMZ=bridge:br1", "-o", "json")
    planned = json.loads(document)
    assert planned["plan"]["complete"] is True
    assert planned["plan"]["target_environment"]["storage_map"] == {"fast": "fast"}
    assert {network["name"] for network in planned["destination"]["networks"]} == {"default", "lan"}


def test_a_saved_plan_is_a_request(shell: Shell, wave: Path, tmp_path: Path) -> None:  # noqa: F811
    request, saved = yaml.safe_load(wave.read_text())["migration"], tmp_path / "saved.yaml"
    del request["destination"]["target_environment"]["network_map"]
    wave.write_text(yaml.safe_dump(request))
    shown = shell.run("plan", "-f", str(wave), "--network", "DMZ=lan", "--save", str(saved))
    assert "same_subnets" in shown
    assert "lan (bridge, VLAN 12, br0)" in shown
    assert "its subnets" not in shown
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    made = json.loads(shell.run("migration", "create", "-f", str(saved), "-o", "json"))["migration"]
    assert made["network_map"] == {"VM Network": "lan", "DMZ": "lan"}


def test_a_machine_that_is_not_there_is_named(shell: Shell, wave: Path) -> None:  # noqa: F811
    process = shell.start("plan", str(wave), "--network", "DMZ=lan", "--instance", "absent", "--instance", "vm-02")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == Exit.FAILED
    assert "machine 'absent': NotFound: there is no such machine" in out
    assert "vm-02" in out
    assert "exclude" not in shell.run("plan", "--help")
    assert "REQUEST_FILE and --file" in shell.run("plan", str(wave), "-f", str(wave), code=Exit.USAGE)
