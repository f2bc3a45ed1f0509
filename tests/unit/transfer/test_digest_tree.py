"""The digest tree: every cell, the order and the subject decide over the root. And which cells a sample takes."""

from __future__ import annotations

import math

import blake3
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import InvalidInput
from coriolis.transfer.cells import CELL_BYTES, Run
from coriolis.transfer.digest_tree import GROUP_CELLS, Subject, leaf_digests, tree_root
from coriolis.transfer.sample import MAX_SEED, parse_sample, sample_cells
from coriolis.transfer.table import CellTable

SUBJECT = Subject("disk", "t", "d", 3000 * CELL_BYTES, 1, "s")


def table_of(cells: int, data: list[int]) -> CellTable:
    table = CellTable(cells * CELL_BYTES)
    table.set_zero(Run(0, cells))
    for cell in data:
        table.set_data(cell, cell.to_bytes(16, "little"))
    return table


def test_the_root_is_what_the_documented_format_says() -> None:
    """Computed a second time here, from docs/design/manifests.md alone."""
    table = table_of(2049, [1, 5, 1024, 2048])

    def hashed(*parts: bytes) -> bytes:
        return blake3.blake3(b"".join(parts)).digest()

    def number(cell: int) -> bytes:
        return cell.to_bytes(16, "little")

    first = hashed(b"\0", b"\1\2\1\1\1\2" + b"\1" * 1018, number(1), number(5))
    second = hashed(b"\0", b"\2" + b"\1" * 1023, number(1024))
    third = hashed(b"\0", b"\2", number(2048))
    top = hashed(b"\1", hashed(b"\1", first, second), third)
    named = (
        b'{"covers":"disk","transfer_id":"t","disk_id":"d","size_bytes":3145728000,"pass_number":1,'
        b'"snapshot_identity":"s","sealed_root":""}'
    )
    assert leaf_digests(table) == [first, second, third]
    assert tree_root(SUBJECT, [first, second, third]) == hashed(b"\2", len(named).to_bytes(8, "big"), named, top)


def test_an_empty_disk_has_a_root_and_no_leaves() -> None:
    assert leaf_digests(CellTable(0)) == []
    assert len(tree_root(SUBJECT, [])) == 32


@given(
    st.integers(1, 3 * GROUP_CELLS),
    st.sets(st.integers(0, 3 * GROUP_CELLS - 1), max_size=20),
    st.integers(0, 3 * GROUP_CELLS - 1),
    st.sampled_from(["digest", "zero", "unknown", "data"]),
)
def test_one_changed_cell_changes_the_root(cells: int, data: set[int], cell: int, change: str) -> None:
    cell %= cells
    table = table_of(cells, [each for each in data if each < cells])
    before = leaf_digests(table)
    state, digest = table.state(cell), table.digest(cell)
    match change:
        case "digest" | "data":
            table.set_data(cell, bytes([digest[0] ^ 1]) + digest[1:])
        case "zero":
            table.set_zero(Run(cell, 1))
        case "unknown":
            table.forget([Run(cell, 1)])
    after = leaf_digests(table)
    same = (table.state(cell), table.digest(cell)) == (state, digest)
    assert (before == after) == same
    assert (tree_root(SUBJECT, before) == tree_root(SUBJECT, after)) == same
    assert sum(one != other for one, other in zip(before, after, strict=True)) == (0 if same else 1)


@pytest.mark.parametrize("member", msgspec.structs.fields(Subject), ids=lambda field: field.name)
def test_the_subject_is_part_of_the_root(member: msgspec.structs.FieldInfo) -> None:
    value = getattr(SUBJECT, member.name)
    other = msgspec.structs.replace(SUBJECT, **{member.name: value + ("x" if isinstance(value, str) else 1)})
    leaves = leaf_digests(table_of(3, [1]))
    assert tree_root(SUBJECT, leaves) != tree_root(other, leaves)


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=9, unique=True), st.randoms())
def test_leaves_cannot_be_swapped_dropped_or_taken_for_nodes(leaves: list[bytes], random: object) -> None:
    root = tree_root(SUBJECT, leaves)
    assert tree_root(SUBJECT, leaves[::-1]) != root
    assert tree_root(SUBJECT, leaves[:-1]) != root
    assert tree_root(SUBJECT, [*leaves, leaves[-1]]) != root
    joined = blake3.blake3(b"\0" + leaves[0] + leaves[1]).digest()
    assert tree_root(SUBJECT, [joined, *leaves[2:]]) != root, "a leaf is hashed under another prefix than a node"


# -- samples ------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 5000),
    st.one_of(st.integers(1, 100).map(lambda n: f"{n}%"), st.integers(1, 3000).map(lambda n: f"{n}MiB")),
    st.integers(0, MAX_SEED),
)
def test_a_sample_is_as_large_as_asked_spread_and_repeatable(cells: int, text: str, seed: int) -> None:
    sample = parse_sample(text)
    chosen = sample_cells(cells, sample, seed)
    assert chosen == sorted(set(chosen))
    assert all(0 <= cell < cells for cell in chosen)
    groups = math.ceil(cells / GROUP_CELLS)
    assert len({cell // GROUP_CELLS for cell in chosen}) == groups, "one of each GiB at least"
    wanted = min(cells, math.ceil(cells * int(text[:-1]) / 100) if text.endswith("%") else int(text[:-3]))
    assert wanted <= len(chosen) <= wanted + groups
    assert chosen == sample_cells(cells, sample, seed)


def test_the_choice_is_the_same_on_every_machine_and_version() -> None:
    """Pinned: a report's seed must choose the same cells in years to come."""
    assert sample_cells(10, parse_sample("30%"), 1) == [0, 7, 9]
    assert sample_cells(2100, parse_sample("6MiB"), 42) == [478, 894, 1379, 1509, 2040, 2049]


def test_seeds_choose_differently_and_evenly() -> None:
    sample = parse_sample("10%")
    hits = [0] * 100
    for seed in range(400):
        for cell in sample_cells(100, sample, seed):
            hits[cell] += 1
    assert sum(hits) == 4000
    assert min(hits) > 15
    assert max(hits) < 75


@pytest.mark.parametrize(
    "text", ["0%", "101%", "5", "-1%", "5 percent", "0MiB", "1e3%", "\u0663%", "MiB", "", "5%\n", "1" * 99]
)
def test_a_sample_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="neither a share as 5%"):
        parse_sample(text)
