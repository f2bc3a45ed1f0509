"""Where a setting comes from: file, then variable, then flag; and what wrong ones are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from coriolis.config import AgentConfig, CoordinatorConfig, load_config
from coriolis.errors import InvalidInput


def test_the_later_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('site = "from-file"\nid = "a"\nread_limit_bytes_per_s = 1\n')
    environ = {"CORIOLIS_SITE": "from-variable", "CORIOLIS_READ_LIMIT_BYTES_PER_S": "5", "CORIOLIS_PROJECTS": "p,q"}
    config = load_config(AgentConfig, file, {"site": "from-flag", "id": None}, environ)
    assert (config.site, config.id, config.read_limit_bytes_per_s) == ("from-flag", "a", 5)
    assert config.projects == ["p", "q"]


def test_etcd_endpoints_come_from_one_variable() -> None:
    config = load_config(CoordinatorConfig, None, {}, {"CORIOLIS_ETCD_ENDPOINTS": "https://a:1,https://b:2"})
    assert config.etcd.endpoints == ["https://a:1", "https://b:2"]


@pytest.mark.parametrize(
    ("text", "environ", "named"),
    [
        ("sight = 'x'", {}, "sight"),
        ("read_limit_bytes_per_s = 'x'", {}, "read_limit_bytes_per_s"),
        ("[etcd]\nendpoint = 'x'", {}, "endpoint"),
        ("= nonsense", {}, "TOML"),
        ("", {"CORIOLIS_READ_LIMIT_BYTES_PER_S": "fast"}, "CORIOLIS_READ_LIMIT_BYTES_PER_S"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, environ: dict[str, str], named: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=named):
        load_config(AgentConfig, file, {}, environ)
