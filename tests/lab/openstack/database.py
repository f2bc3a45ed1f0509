"""MariaDB on a Unix socket, without fsync; fresh schemas come from a cache."""

from __future__ import annotations

import os
import subprocess

from tests.lab.openstack.processes import environment, first_time, launch, mark_done, output, run, wait_for
from tests.lab.openstack.settings import CACHE, DATABASES, MYSQL_SOCKET, SOCKETS, home, say


def mysql(sql, *args):
    run("mysql", "/usr/bin/mariadb", f"--socket={MYSQL_SOCKET}", "-uroot", *args, stdin=sql.encode())


def schema(service, databases, *make):
    """Fill fresh databases from the cache, else with the command MAKE, and cache the result."""
    version = output("dpkg-query", "-W", "-f", "${Version}", f"python3-{service}").replace(":", "_")
    cached = {d: os.path.join(CACHE, f"{d}-{version}.sql") for d in databases}
    if CACHE and all(map(os.path.exists, cached.values())):
        for d, path in cached.items():
            with open(path) as f:
                mysql(f.read(), d)
        return
    run(f"{service}-setup", *make)
    for d, path in cached.items() if CACHE else ():
        os.makedirs(CACHE, exist_ok=True)
        run(
            "mysql",
            "/usr/bin/mariadb-dump",
            f"--socket={MYSQL_SOCKET}",
            "-uroot",
            "--single-transaction",
            f"--result-file={path}.{os.getpid()}",
            d,
        )
        os.rename(f"{path}.{os.getpid()}", path)  # a half-written one is never seen


def start_mysql():
    # a test cloud: speed before durability
    nosync = environment(LD_PRELOAD="/usr/lib/x86_64-linux-gnu/libeatmydata.so")
    if first_time("mysql"):
        run(
            "mysql",
            "/usr/bin/mariadb-install-db",
            "--no-defaults",
            "--user=root",
            f"--datadir={home('data/mysql')}",
            "--skip-test-db",
            "--auth-root-authentication-method=socket",
            env=nosync,
        )
    launch(
        "mysql",
        [
            "/usr/sbin/mariadbd",
            "--no-defaults",
            "--user=root",
            f"--datadir={home('data/mysql')}",
            f"--socket={MYSQL_SOCKET}",
            "--skip-networking",
            "--skip-name-resolve",
            f"--pid-file={SOCKETS}/mysql.pid",
            "--character-set-server=utf8mb3",
            "--max-connections=1000",
            "--innodb-buffer-pool-size=128M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--performance-schema=0",
        ],
        nosync,
    )
    wait_for(
        "mariadb",
        ["mysql"],
        lambda: (
            subprocess.run(
                ["/usr/bin/mariadb-admin", f"--socket={MYSQL_SOCKET}", "-uroot", "ping"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ).returncode
            == 0
        ),
    )
    if first_time("mysql"):
        mysql(
            "CREATE USER IF NOT EXISTS osl@localhost IDENTIFIED BY 'osl';"
            + "".join(f"CREATE DATABASE IF NOT EXISTS {d}; GRANT ALL ON {d}.* TO osl@localhost;" for d in DATABASES)
        )
        mark_done("mysql")
    say("mariadb is up")
