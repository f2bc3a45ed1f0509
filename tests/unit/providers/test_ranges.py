"""Pure range rules."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import Corrupt, InvalidInput
from coriolis.model.disk import Extent, ExtentKind
from coriolis.providers.block.nbd_client import allocation_kind, decode_status
from coriolis.providers.block.ranges import OverlapOrder, check_range, check_start, check_transfer, gapless, joined

SIZE = 1000


@st.composite
def increasing(draw: st.DrawFn) -> list[Extent]:
    points = sorted(draw(st.sets(st.integers(0, SIZE), max_size=20)))
    kinds = st.sampled_from(list(ExtentKind))
    pairs = zip(points[::2], points[1::2], strict=False)
    return [Extent(first, last - first, draw(kinds)) for first, last in pairs]


@given(increasing(), st.integers(0, SIZE), st.integers(0, SIZE))
def test_gapless_covers_exactly_and_keeps_kinds(extents: list[Extent], a: int, b: int) -> None:
    start, end = min(a, b), max(a, b)
    covered = list(gapless(extents, start, end))
    position = start
    for extent in covered:
        assert extent.offset == position
        assert extent.length > 0
        position = extent.end
    assert position == end
    kind_at = {o: e.kind for e in extents for o in range(e.offset, e.end)}
    for extent in covered:
        for offset in range(extent.offset, extent.end):
            assert extent.kind == kind_at.get(offset, ExtentKind.HOLE)


@given(increasing())
def test_joined_is_minimal(extents: list[Extent]) -> None:
    found = list(joined(extents))
    assert sum(e.length for e in found) == sum(e.length for e in extents)
    for one, two in itertools.pairwise(found):
        assert one.end < two.offset or (one.end == two.offset and one.kind != two.kind)


def test_overlap_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        list(joined([Extent(0, 10), Extent(9, 1)]))


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (0, 11), (10, 1), (11, 0)])
def test_ranges_outside(offset: int, length: int) -> None:
    with pytest.raises(InvalidInput):
        check_range(offset, length, 10)


def test_bounds() -> None:
    check_range(10, 0, 10)
    check_start(10, 10)
    for start in (-1, 11):
        with pytest.raises(InvalidInput):
            check_start(start, 10)
    with pytest.raises(InvalidInput, match="at most"):
        check_transfer(0, 1 << 30, 1 << 40)


def test_allocation_flags() -> None:
    assert [allocation_kind(flags) for flags in range(4)] == [
        ExtentKind.DATA,
        ExtentKind.DATA,  # a hole whose content is not known to be zero must be read
        ExtentKind.ZERO,
        ExtentKind.HOLE,
    ]


def test_status_is_cut_and_never_empty() -> None:
    assert decode_status(10, [5, 0, 100, 3], 20) == [(10, 5, 0), (15, 5, 3)]
    for entries in ([], [0, 0]):
        with pytest.raises(Corrupt):
            decode_status(10, entries, 20)


async def test_overlap_order() -> None:
    order, seen = OverlapOrder(), list[str]()
    gate = asyncio.Event()

    async def operation(name: str, offset: int, length: int, wait: bool) -> None:
        async def work() -> None:
            if wait:
                await gate.wait()
            seen.append(name)

        await order.run(offset, length, work)

    tasks = [
        asyncio.create_task(operation("first", 0, 10, True)),
        asyncio.create_task(operation("overlaps", 9, 10, False)),
        asyncio.create_task(operation("apart", 30, 10, False)),
        asyncio.create_task(operation("all", 0, 100, False)),
    ]
    await asyncio.sleep(0.01)
    assert seen == ["apart"]
    tasks[1].cancel()
    gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert seen == ["apart", "first", "all"]


async def test_a_cancelled_operation_holds_its_range_until_its_thread_has_ended() -> None:
    order, seen, gate = OverlapOrder(), list[str](), threading.Event()

    def slow() -> None:
        gate.wait(10)
        seen.append("slow")

    async def later() -> None:
        seen.append("later")

    first = asyncio.create_task(order.run(0, 10, lambda: asyncio.to_thread(slow)))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(order.run(5, 10, later))
    await asyncio.sleep(0.05)
    assert seen == []
    gate.set()
    await second
    assert seen == ["slow", "later"]


async def test_an_operation_that_fails_frees_its_range() -> None:
    order, seen = OverlapOrder(), list[str]()

    async def fails() -> None:
        raise Corrupt("no")

    async def works() -> None:
        seen.append("works")

    with pytest.raises(Corrupt):
        await order.run(0, 10, fails)
    await order.run(0, 10, works)
    assert seen == ["works"]
