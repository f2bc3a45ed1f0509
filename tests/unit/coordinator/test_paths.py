"""Which way disk data takes, for every state of knowledge."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coriolis.coordinator.link_view import links
from coriolis.coordinator.paths import Measured, NoPath, Path, PathKind, Peer, choose_path

NO = Measured(reachable=False, error="no answer")


def peer(
    name: str, *, site: str = "", address: str = "x:1", relay: bool = False, projects: tuple[str, ...] = ()
) -> Peer:
    return Peer(name, site or name, address, f"spiffe://lab.test/agent/{name}", relay, projects)


def yes(rtt_ms: float = 1.0) -> Measured:
    return Measured(reachable=True, rtt_ms=rtt_ms)


A, B = peer("a"), peer("b")
Known = dict[tuple[str, str], Measured]


def choose(known: Known, *others: Peer, source: Peer = A, sink: Peer = B, project: str = "") -> Path | NoPath:
    def view(one: Peer, other: Peer) -> Measured | None:
        return known.get((one.agent_id, other.agent_id))

    return choose_path(source, sink, others, view, project)


def test_dialled_when_it_is_known_to_work_or_not_known_at_all() -> None:
    assert choose({("a", "b"): yes(7.0)}) == Path(PathKind.DIALLED, rtt_ms=7.0)
    assert choose({}) == Path(PathKind.DIALLED, proved=False)
    assert choose({("b", "a"): yes()}) == Path(PathKind.DIALLED, proved=False)


def test_reverse_when_only_the_sink_can_dial() -> None:
    assert choose({("a", "b"): NO, ("b", "a"): yes(3.0)}) == Path(PathKind.REVERSE, "a", 3.0)


def test_an_agent_without_an_address_is_not_dialled_whatever_was_measured() -> None:
    hidden = peer("b", address="")
    assert choose({("a", "b"): yes(), ("b", "a"): yes()}, sink=hidden) == Path(PathKind.REVERSE, "a", 1.0)


def test_one_agent_for_both_sides_dials_itself() -> None:
    hidden = peer("a", address="")
    assert choose({}, source=hidden, sink=hidden) == Path(PathKind.DIALLED, rtt_ms=0.0)


BLOCKED: Known = {("a", "b"): NO, ("b", "a"): NO}


def both(relay: str, there: float = 1.0, back: float = 1.0) -> Known:
    return {("a", relay): yes(there), ("b", relay): yes(back)}


def test_the_nearest_willing_relay_is_taken() -> None:
    far, near = peer("r1", relay=True), peer("r2", relay=True)
    known = {**BLOCKED, **both("r1", 20, 20), **both("r2", 5, 10)}
    assert choose(known, far, near, A, B) == Path(PathKind.RELAY, "r2", 15.0)
    assert isinstance(choose({**BLOCKED, **both("r")}, peer("r")), NoPath), "nobody relays against its will"


def test_between_equals_a_neighbour_relays() -> None:
    known = {**BLOCKED, **both("r1", 1.1), **both("r2", 1.2)}
    assert choose(known, peer("r1", relay=True), peer("r2", relay=True, site="b")) == Path(PathKind.RELAY, "r2", 2.2)


def test_a_relay_serves_its_own_projects_only() -> None:
    relay = peer("r", relay=True, projects=("p",))
    known = {**BLOCKED, **both("r")}
    assert isinstance(choose(known, relay, project="q"), NoPath)
    assert choose(known, relay, project="p") == Path(PathKind.RELAY, "r", 2.0)


def test_without_a_way_it_is_said_what_to_do() -> None:
    none = choose({**BLOCKED, ("a", "r"): yes(), ("b", "r"): NO}, peer("r", relay=True))
    assert isinstance(none, NoPath)
    for word in ("a (no answer)", "b (no answer)", "open the data ports", "relay = true"):
        assert word in none.reason


measured = st.one_of(st.none(), st.just(NO), st.floats(0, 500).map(yes))
agents = ("a", "b", "r", "s")


@given(
    known=st.dictionaries(
        st.tuples(st.sampled_from(agents), st.sampled_from(agents)), st.one_of(st.just(NO), st.floats(0, 500).map(yes))
    ),
    hidden=st.sets(st.sampled_from(agents)),
    relays=st.sets(st.sampled_from(("r", "s"))),
)
def test_a_path_never_needs_what_is_known_to_fail(known: Known, hidden: set[str], relays: set[str]) -> None:
    all_of = {name: peer(name, address="" if name in hidden else "x:1", relay=name in relays) for name in agents}

    def may(one: str, other: str) -> bool | None:
        if other in hidden:
            return False
        found = known.get((one, other))
        return None if found is None else found.reachable

    path = choose(known, *all_of.values(), source=all_of["a"], sink=all_of["b"])
    proved_relays = [r for r in relays if may("a", r) and may("b", r)]
    if isinstance(path, NoPath):
        assert may("a", "b") is False
        assert not may("b", "a")
        assert not proved_relays
        return
    legs = {
        PathKind.DIALLED: [("a", "b")],
        PathKind.REVERSE: [("b", "a")],
        PathKind.RELAY: [("a", path.meeting), ("b", path.meeting)],
    }[path.kind]
    assert all(may(*leg) is not False for leg in legs)
    assert path.proved == all(may(*leg) is True for leg in legs)
    if path.kind is not PathKind.DIALLED:
        assert may("a", "b") is False
    if path.kind is PathKind.RELAY:
        assert path.meeting in proved_relays
        assert may("b", "a") is not True


def test_links_show_the_best_pair_of_each_two_sites() -> None:
    peers = [peer("a1", site="x"), peer("a2", site="x"), peer("b1", site="y", projects=("p",))]
    known = {("a1", "b1"): NO, ("a2", "b1"): yes(9.0), ("b1", "a1"): yes(4.0)}

    def view(one: Peer, other: Peer) -> Measured | None:
        return known.get((one.agent_id, other.agent_id))

    there, back = links(peers, view, lambda link: 5.5 if link == ("x", "y") else 0.0, lambda _: 7.0, "p")
    assert (there.origin_site, there.destination_site, list(there.agents)) == ("x", "y", ["a2", "b1"])
    assert (there.path, there.state, there.rtt_ms, there.speed_bytes_per_s) == ("dialled", "OPEN", 9.0, 5)
    assert (back.path, back.rtt_ms, back.speed_bytes_per_s, back.best_speed_bytes_per_s) == ("dialled", 4.0, 0, 7)
    assert not there.HasField("limit_bytes_per_s")
    limits = {("x", "y"): 0.0}
    paused, free = links(peers, view, lambda _: 0.0, lambda _: 0.0, "p", limits.get)
    assert (paused.HasField("limit_bytes_per_s"), free.HasField("limit_bytes_per_s")) == (True, False)
    of_others = links(peers, view, lambda _: 0.0, lambda _: 0.0, "another")
    assert of_others == []
    unknown = links(peers[1:], lambda *_: None, lambda _: 0.0, lambda _: 0.0)[0]
    assert (unknown.state, unknown.rtt_ms) == ("UNKNOWN", -1.0)
    closed = links(peers[1:], lambda *_: NO, lambda _: 0.0, lambda _: 0.0)[0]
    assert (closed.state, closed.path) == ("CLOSED", "")
    assert "relay = true" in closed.why
