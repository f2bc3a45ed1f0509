"""Lists are whole, also where a cloud gives shorter pages than were asked for."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("openstack")
from coriolis.providers.base import Page
from coriolis.providers.openstack import inventory, rest

NAMES = {"servers": "servers_links", "volume_types": "volume_type_links", "ports": "ports_links", "images": ""}


class CappedService:
    """Answers with at most ``cap`` of ``count`` items, and a link while there are more, as the services do: Glance
    has a ``next``, the others ``…_links``."""

    def __init__(self, key: str, count: int, cap: int) -> None:
        self.key, self.cap, self.calls = key, cap, 0
        self.ids = [f"{number:06}" for number in range(count)]

    def ask(self, cloud: Any, service: str, method: str, path: str, body: Any = None, params: Any = None) -> Any:
        self.calls += 1
        limit = min(int(params["limit"]), self.cap)
        after = [one for one in self.ids if one > params.get("marker", "")]
        page = [{"id": one} for one in after[:limit]]
        answer: dict[str, Any] = {self.key: page}
        if page and len(page) == limit:
            link = f"http://cloud.test{path}?marker={page[-1]['id']}"
            links = NAMES[self.key]
            answer |= {links: [{"rel": "next", "href": link}]} if links else {"next": link}
        return answer


@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize(("count", "cap"), [(0, 100), (99, 100), (100, 100), (250, 100), (1000, 1000), (1201, 1000)])
def test_a_list_is_whole_whatever_the_cap(monkeypatch: pytest.MonkeyPatch, key: str, count: int, cap: int) -> None:
    service = CappedService(key, count, cap)
    monkeypatch.setattr(rest, "ask", service.ask)
    found = rest.listed(None, "any", "/things", key)  # type: ignore[arg-type]
    assert [one["id"] for one in found] == service.ids
    assert service.calls <= count // min(cap, rest.PAGE) + 1


def test_neutrons_link_back_leads_nowhere() -> None:
    links = [{"rel": "previous", "href": "http://cloud.test"}]
    assert not rest.goes_on({"ports": [{"id": "1"}], "ports_links": links}, [{"id": "1"}], 500)


def test_a_page_of_servers_is_filled_by_several_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    service = CappedService("servers", 130, 50)
    monkeypatch.setattr(inventory, "ask", service.ask)
    for limit, marker, last in ((120, "", "000119"), (120, "000119", "000129")):
        found = inventory._servers_after(None, Page(limit=limit, marker=marker))  # type: ignore[arg-type]
        assert found[-1]["id"] == last
