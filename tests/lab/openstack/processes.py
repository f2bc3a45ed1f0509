"""Processes of a home: started in sessions of their own, known by pid and start time, logs under log/."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from tests.lab.openstack.settings import HEALTH, HOME, PORTS, SYSTEM_PATH, TIMEOUT, Failed, home, say, url, write


def environment(**more):
    """Nothing leaks in from the caller: no proxies, no virtualenv, no pyenv."""
    return {
        "PATH": f"{HOME}/shims:{SYSTEM_PATH}",
        "HOME": home("home"),
        "LANG": "C.UTF-8",
        "OS_KEYSTONE_CONFIG_DIR": home("etc/keystone"),
        "OS_PLACEMENT_CONFIG_DIR": home("etc/placement"),
        **more,
    }


def start_time(pid):
    """The start time of a process, so that a reused pid is never taken for ours."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        return None


def pid_of(name):
    try:
        with open(home("run", name + ".pid")) as f:
            pid, born = f.read().split()
    except (OSError, ValueError):
        return None
    return int(pid) if start_time(pid) == born else None


def connects(port, send=b""):
    """Something listens there (and, if anything is sent, replies)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
            s.sendall(send)
            return not send or bool(s.recv(1))
    except OSError:
        return False


CHILDREN = {}


def launch(name, argv, env=None, port=None):
    if pid_of(name):
        return False
    if port and connects(PORTS[port]):
        raise Failed(
            f"port {PORTS[port]} is taken by something that is not ours; stop it "
            f"or set CORIOLIS_OPENSTACK_PORT_{port.upper()}"
        )
    with open(home("log", name + ".log"), "ab") as log:
        p = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env or environment(),
            cwd=HOME,
            start_new_session=True,
        )
    CHILDREN[name] = p
    write(home("run", name + ".pid"), f"{p.pid} {start_time(p.pid)}\n")
    return True


def tail(name, lines=25):
    try:
        with open(home("log", name + ".log"), errors="replace") as f:
            return "".join(f.readlines()[-lines:])
    except OSError:
        return ""


def check_alive(name):
    if name in CHILDREN:
        CHILDREN[name].poll()  # reap, so that a dead child is not a zombie
    if not pid_of(name):
        raise Failed(f"{name} died; end of {home('log', name + '.log')}:\n{tail(name)}")


def run(name, *argv, ok=(0,), env=None, stdin=None):
    """Run a command to its end, output to the log NAME; fail loudly."""
    with open(home("log", name + ".log"), "ab") as log:
        p = subprocess.run(argv, stdout=log, stderr=log, env=env or environment(), cwd=HOME, input=stdin)
    if p.returncode not in ok:
        raise Failed(f"{' '.join(argv)} failed with {p.returncode}; end of {home('log', name + '.log')}:\n{tail(name)}")


def wait_for(what, names, probe):
    deadline = time.monotonic() + TIMEOUT
    while not probe():
        for n in names:
            check_alive(n)
        if time.monotonic() > deadline:
            raise Failed(
                f"{what} did not come up in {TIMEOUT} s\n"
                + "\n".join(f"end of {home('log', n + '.log')}:\n{tail(n)}" for n in names)
            )
        time.sleep(0.2)
    for n in names:
        check_alive(n)


def answers(service):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(url(service, HEALTH[service]), timeout=10).status
    except urllib.error.HTTPError as e:
        return e.code if e.code < 500 else None
    except OSError:
        return None


def first_time(mark):
    return not os.path.exists(home("done", mark))


def mark_done(mark):
    write(home("done", mark), "")


def output(*argv):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def group_alive(pid):
    try:
        os.killpg(pid, 0)
        return True
    except (ProcessLookupError, PermissionError):
        return False


def stop_group(names, patience):
    """TERM to the process groups of these, all at once; KILL to those that stay."""
    pids = {n: pid_of(n) for n in names}
    pids = {n: p for n, p in pids.items() if p}
    for p in pids.values():
        try:
            os.killpg(p, signal.SIGTERM)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + patience
    while any(map(group_alive, pids.values())) and time.monotonic() < deadline:
        time.sleep(0.1)
    for n, p in pids.items():
        if group_alive(p):
            say(f"{n} did not stop in {patience} s: killed")
            try:
                os.killpg(p, signal.SIGKILL)
            except ProcessLookupError:
                pass
    for n in names:
        try:
            os.unlink(home("run", n + ".pid"))
        except FileNotFoundError:
            pass
