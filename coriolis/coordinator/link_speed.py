"""How fast links between sites are, from what running transfers report. Pure; times are given."""

from __future__ import annotations

from collections import OrderedDict, deque

import msgspec

Link = tuple[str, str]
"""(origin site, destination site)."""

SLOT_S = 2.0
"""Reports come once a second and not in step: speed is judged over this long."""
WEIGHT = 0.4
"""Of the newest slot in the smoothed speed."""
QUIET_S = 10.0
"""A link that nothing was sent over for this long has speed 0."""
BEST_S = 3600.0
BEST_SLOT_S = 60.0
MAX_LINKS = 10_000
MAX_DISKS = 100_000


class _Speed(msgspec.Struct):
    slot_began: float
    slot_bytes: int = 0
    smoothed: float = 0.0
    last: float = 0.0
    best: deque[tuple[float, float]] = msgspec.field(default_factory=deque)


class LinkSpeeds:
    """Speed per link, now and at best within the last hour; in memory only."""

    def __init__(self) -> None:
        self._links: OrderedDict[Link, _Speed] = OrderedDict()
        self._sent: OrderedDict[tuple[str, str], int] = OrderedDict()

    def report(self, link: Link, task_id: str, disk_id: str, sent_bytes: int, now: float) -> None:
        """``sent_bytes`` of one attempt so far; a smaller number than before is a new attempt's."""
        before = self._sent.pop((task_id, disk_id), 0)
        self._sent[task_id, disk_id] = sent_bytes
        if len(self._sent) > MAX_DISKS:
            self._sent.popitem(last=False)
        moved = sent_bytes - before if sent_bytes >= before else sent_bytes
        if moved:
            self._add(link, moved, now)

    def _add(self, link: Link, moved: int, now: float) -> None:
        speed = self._links.pop(link, None) or _Speed(slot_began=now - 1.0)
        self._links[link] = speed
        if len(self._links) > MAX_LINKS:
            self._links.popitem(last=False)
        if now - speed.last > QUIET_S:
            # the pause before this report was idleness, not slowness
            speed.slot_began, speed.slot_bytes, speed.smoothed = now - 1.0, 0, 0.0
        speed.slot_bytes += moved
        speed.last = now
        if now - speed.slot_began < SLOT_S:
            return
        rate = speed.slot_bytes / (now - speed.slot_began)
        speed.smoothed += (WEIGHT if speed.smoothed else 1.0) * (rate - speed.smoothed)
        speed.slot_began, speed.slot_bytes = now, 0
        _note_best(speed.best, now, speed.smoothed)

    def links(self) -> list[Link]:
        """Every link that something moved on."""
        return list(self._links)

    def now(self, link: Link, now: float) -> float:
        """Smoothed bytes per second; 0 while nothing moves."""
        speed = self._links.get(link)
        return speed.smoothed if speed is not None and now - speed.last <= QUIET_S else 0.0

    def best(self, link: Link, now: float) -> float:
        """The highest smoothed speed of the last hour."""
        speed = self._links.get(link)
        if speed is None:
            return 0.0
        # a transfer shorter than a slot counts as if it had lasted as long
        short = speed.slot_bytes / SLOT_S if now - speed.last <= BEST_S else 0.0
        return max(short, max((rate for at, rate in speed.best if now - at <= BEST_S), default=0.0))


def _note_best(best: deque[tuple[float, float]], now: float, rate: float) -> None:
    """One maximum per minute, for an hour."""
    if best and now - best[-1][0] < BEST_SLOT_S:
        at, before = best.pop()
        best.append((at, max(before, rate)))
    else:
        best.append((now, rate))
    while best and now - best[0][0] > BEST_S:
        best.popleft()
