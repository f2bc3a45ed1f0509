"""docs/errors.md holds one row per error class, with the values of the class.

``python -m tests.unit.gateway.test_errors_doc`` prints the rows that the classes demand, advice left empty.
"""

from __future__ import annotations

import re
from pathlib import Path

import grpc

from coriolis.errors import CoriolisError, all_errors
from gateway.problems import FAULTS, OTHER_FAULT

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "errors.md"
ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (\w+) \| (\d{3}) \| (\w+) \| (yes|no) \| (.+) \|$")
MAX_CLASSES = 20


def demanded(kind: type[CoriolisError]) -> tuple[str, str, str, str, str, str]:
    retryable = "yes" if kind.retryable else "no"
    fault = FAULTS.get(kind.http_status, OTHER_FAULT)
    return kind.code, kind.__name__, kind.grpc_status, str(kind.http_status), fault, retryable


def test_each_class_has_its_row_and_each_row_its_class() -> None:
    rows = [match.groups() for line in DOCUMENT.read_text().splitlines() if (match := ROW.match(line))]
    assert [row[:6] for row in rows] == [demanded(kind) for kind in all_errors()]
    assert all(len(row[6]) > 20 for row in rows), "what the caller does is missing"


def test_the_tree_itself() -> None:
    kinds = all_errors()
    assert len(kinds) <= MAX_CLASSES
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert kind.grpc_status in grpc.StatusCode.__members__
        assert kind.__doc__


if __name__ == "__main__":
    for error in all_errors():
        code, name, *rest = demanded(error)
        print(f"| `{code}` | `{name}` | {' | '.join(rest)} |  |")
