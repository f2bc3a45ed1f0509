"""What ARCHITECTURE.md and CONTRIBUTING.md promise about the code, and what the documents name, checked."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("coriolis", "gateway", "clients", "tools", "tests", "bench")
GENERATED = "coriolis/rpc/gen/"
MAX_LINES = 400
VAGUE = re.compile(r"util|manager|helper|handler", re.IGNORECASE)

VALUES = ("coriolis.model", "coriolis.ids", "coriolis.errors")
PURE = (
    "coriolis.transfer",
    "coriolis.coordinator.planner",
    "coriolis.coordinator.scheduler",
    "coriolis.coordinator.placement",
    "coriolis.coordinator.shares",
    "coriolis.coordinator.events",
    "coriolis.coordinator.paths",
    "coriolis.coordinator.reachability",
    "coriolis.coordinator.link_speed",
    "coriolis.agent.preface",
    "coriolis.agent.task_state",
    "coriolis.agent.fencing",
    "coriolis.agent.assignment",
)
EFFECTS = ("asyncio", "grpc", "threading", "socket", "subprocess", "time", "random", "httpx")
GATEWAY_MAY = (
    *VALUES,
    "coriolis.rpc",
    "coriolis.observability",
    "coriolis.clock",
    "coriolis.config",
    "coriolis.durable_file",
    "coriolis.keystone",
)


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, path) of every file of the packages and their tests."""
    for top in CODE:
        for path in sorted((ROOT / top).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if not relative.as_posix().startswith(GENERATED) and ".venv" not in relative.parts:
                yield ".".join(relative.with_suffix("").parts).removesuffix(".__init__"), path


def below(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imports(path: Path) -> Iterator[str]:
    """Every module imported at run time, late ones too; ``from a import b`` gives ``a.b`` where that is a module."""
    tree = ast.parse(path.read_text())
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    types_only = {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in types_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = ROOT.joinpath(*node.module.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def ours(name: str) -> bool:
    return below(name, ("coriolis", "gateway"))


def breaches() -> Iterator[str]:
    for name, path in modules():
        for imported in imports(path):
            if below(name, VALUES) and ours(imported) and not below(imported, VALUES):
                yield f"{name} holds values, yet imports {imported}"
            if below(name, PURE) and ours(imported) and not below(imported, VALUES + PURE):
                yield f"{name} is pure, yet imports {imported}"
            if below(name, VALUES + PURE) and below(imported, EFFECTS):
                yield f"{name} is pure, yet imports {imported}"
            if below(name, ("coriolis.providers",)) and below(imported, ("coriolis.coordinator", "coriolis.agent")):
                yield f"{name} belongs to a provider, yet imports {imported}"
            allowed = imported == "coriolis" or below(imported, GATEWAY_MAY)
            if below(name, ("gateway",)) and below(imported, ("coriolis",)) and not allowed:
                yield f"{name} belongs to the gateway, yet imports {imported}"
            if below(name, ("coriolis", "gateway")) and below(imported, ("tests",)):
                yield f"{name} imports {imported}"


def test_imports_follow_the_layers() -> None:
    assert sorted(set(breaches())) == []


def test_files_are_short_and_named_after_what_they_do() -> None:
    wrong = []
    for name, path in modules():
        lines = path.read_text().count("\n")
        if lines > MAX_LINES:
            wrong.append(f"{name} has {lines} lines, at most {MAX_LINES}")
        if VAGUE.search(path.stem):
            wrong.append(f"{name} says what it is, not what it does")
    assert wrong == []


# ---- documents --------------------------------------------------------------------------------------------------

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for top in ("docs", "tests", "bench") for path in (ROOT / top).rglob("*.md"))]
)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"[\w.-]+(/[\w.-]+)*/?")
_MAKE = re.compile(r"^\s*(?:\$ )?make ([a-z][a-z-]*)", re.MULTILINE)


def spans(text: str) -> list[str]:
    return [span.strip() for span in _SPAN.findall(_FENCE.sub("", text))]


def named_paths(text: str) -> set[str]:
    """Targets of relative links, and code spans that begin with a directory of this repository."""
    links = {link.partition("#")[0] for link in _LINK.findall(text) if ":" not in link and not link.startswith("#")}
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()} - {".git"}
    codes = {span for span in spans(text) if "/" in span and _PATH.fullmatch(span) and span.split("/")[0] in tops}
    return {path for path in links | codes if path}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    absent = [
        path for path in sorted(named_paths(text)) if not ((ROOT / path).exists() or (document.parent / path).exists())
    ]
    assert absent == []
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join([*spans(text), *_FENCE.findall(text)])
    assert set(_MAKE.findall(code)) <= targets


def test_scripts_of_the_lab_name_their_python() -> None:
    """Another Python that comes first on PATH (pyenv's) knows none of Debian's modules: hivex, guestfs, libvirt."""
    loose = re.compile(r"^#!.*env python3?$|^[^#]*\bexec python3?\b", re.MULTILINE)
    scripts = [path for path in (ROOT / "tests" / "lab").rglob("*") if path.is_file() and not path.suffix]
    assert len(scripts) > 5, "the scripts are elsewhere now"
    assert [path.name for path in scripts if loose.search(path.read_text(errors="replace"))] == []
