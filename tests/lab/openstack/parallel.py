"""Steps of a start that run side by side."""

from __future__ import annotations

import threading

from tests.lab.openstack.settings import Failed

FAILURES = []  # of background threads; start() reports them


def await_all(events):
    for e in filter(None, events):
        while not e.wait(0.1):
            if FAILURES:
                raise Failed("given up")  # the first failure is the one to read


def background(name, function, *args):
    """Run in a thread; the event is set when it ended well."""
    done = threading.Event()

    def body():
        try:
            function(*args)
            done.set()
        except Failed as e:
            FAILURES.append(f"{name}: {e}")
        finally:
            if not done.is_set():  # start() reports it; of anything unforeseen the thread has shown the trace
                FAILURES.append(f"{name} failed")

    t = threading.Thread(target=body, daemon=True)
    t.start()
    done.thread = t
    return done


def finish(*events):
    for e in filter(None, events):
        while e.thread.is_alive():
            e.thread.join(0.2)
            if FAILURES:
                raise Failed("\n".join(FAILURES))
    if FAILURES:
        raise Failed("\n".join(FAILURES))
