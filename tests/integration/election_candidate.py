"""A coordinator that does nothing but lead: one process for the election tests.

Usage: ``election_candidate.py ENDPOINTS ID fenced|unfenced TIMEOUTS_JSON``. While leading it writes
``/audit/<epoch>/<n>`` every 20 ms. When its term ends it tries one more write, as a process paused between
check and write would. Prints one JSON line per event.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys

from coriolis.coordinator.election import Election
from coriolis.coordinator.leadership import LeadershipTerm
from coriolis.coordinator.timeouts import Timeouts
from coriolis.errors import CoriolisError
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.txn import Put, Txn
from coriolis.observability.logging import configure_logging


def say(event: str, **details: object) -> None:
    print(json.dumps({"event": event, **details}), flush=True)


class Candidate:
    def __init__(self, client: EtcdClient, fenced: bool) -> None:
        self._client = client
        self._fenced = fenced

    async def lead(self, term: LeadershipTerm) -> None:
        say("leading", epoch=term.epoch)
        numbers = itertools.count()
        try:
            while True:
                await self._write(term, next(numbers))
                await asyncio.sleep(0.02)
        finally:
            say("ended", epoch=term.epoch, current=term.is_current())
            say("late", epoch=term.epoch, accepted=await self._write(term, next(numbers)))

    async def _write(self, term: LeadershipTerm, number: int) -> bool:
        compares = (term.fence,) if self._fenced else ()
        try:
            txn = Txn(compares, (Put(f"/audit/{term.epoch:020}/{number}", b""),))
            return (await self._client.commit(txn)).succeeded
        except CoriolisError:
            return False


async def main() -> None:
    endpoints, candidate_id, mode, timeouts = sys.argv[1:]
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with EtcdClient(endpoints.split(",")) as client:
        election = Election(client, candidate_id, "127.0.0.1:1", Timeouts(**json.loads(timeouts)))
        say("campaigning")
        await election.run(Candidate(client, mode == "fenced").lead)


if __name__ == "__main__":
    configure_logging(level="WARNING", json=False)
    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        say("stopped")
