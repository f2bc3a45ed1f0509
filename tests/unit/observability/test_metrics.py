from __future__ import annotations

import asyncio

import httpx
import pytest

from coriolis.errors import Unavailable
from coriolis.observability import metrics as module
from coriolis.observability.metrics import Metrics, serve_metrics


async def test_metrics_health_and_readiness() -> None:
    metrics = Metrics()
    metrics.counter("transfer_sent_bytes", "Bytes put on the wire.", ["side"]).labels("source").inc(7)
    metrics.gauge("tasks_running", "Tasks now.").set(2)
    metrics.histogram("call_seconds", "Time of calls.", [0.1, 1]).observe(0.5)
    reasons = ["etcd is away"]
    async with serve_metrics("127.0.0.1", 0, metrics, lambda: reasons) as port, httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{port}"
        shown = (await http.get(url + "/metrics")).text
        assert 'coriolis_transfer_sent_bytes_total{side="source"} 7.0' in shown
        assert "coriolis_tasks_running 2.0" in shown
        assert 'coriolis_call_seconds_bucket{le="1.0"} 1.0' in shown
        assert (await http.get(url + "/healthz")).status_code == 200
        answer = await http.get(url + "/readyz?verbose")
        assert (answer.status_code, answer.text) == (503, "etcd is away\n")
        reasons.clear()
        assert (await http.get(url + "/readyz")).status_code == 200
        assert (await http.get(url + "/etc/passwd")).status_code == 404
        assert (await http.post(url + "/metrics")).status_code == 405
        with pytest.raises(Unavailable):
            await serve_metrics("127.0.0.1", port, metrics, list).__aenter__()


async def test_callers_that_say_nothing_or_too_much_hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.2)
    async with serve_metrics("127.0.0.1", 0, Metrics(), list) as port:
        silent, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(silent.read(), 2) == b""
        writer.close()
        endless, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x" * 100_000)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(endless.readexactly(1), 2)
        writer.close()


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)
    async with serve_metrics("127.0.0.1", 0, Metrics(), list) as port:
        _, first = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.05)
        second, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(second.read(), 2) == b""
        first.close()
        writer.close()


@pytest.mark.parametrize("name", ["coriolis_x", "Upper", "with-dash", ""])
def test_names_have_one_form(name: str) -> None:
    with pytest.raises(AssertionError):
        Metrics().gauge(name, "x")
