"""Providers stand below the coordinator and the agent."""

from __future__ import annotations

import ast
from pathlib import Path

import coriolis.providers

FORBIDDEN = ("coriolis.coordinator", "coriolis.agent", "gateway")


def test_providers_never_look_up() -> None:
    for path in Path(coriolis.providers.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [name for name in names if name.startswith(FORBIDDEN)], path
