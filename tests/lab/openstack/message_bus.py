"""RabbitMQ with an epmd of its own."""

from __future__ import annotations

import time

from tests.lab.openstack.processes import check_alive, connects, environment, launch, wait_for
from tests.lab.openstack.settings import PORTS, home, say


def start_rabbitmq():
    env = environment(
        HOME=home("data/rabbitmq"),
        RABBITMQ_NODENAME="osl@localhost",
        RABBITMQ_NODE_IP_ADDRESS="127.0.0.1",
        RABBITMQ_NODE_PORT=str(PORTS["rabbit"]),
        RABBITMQ_DIST_PORT=str(PORTS["rabbit_dist"]),
        RABBITMQ_LOGS="-",
        RABBITMQ_MNESIA_BASE=home("data/rabbitmq/mnesia"),
        RABBITMQ_LOG_BASE=home("data/rabbitmq/log"),
        RABBITMQ_CONF_ENV_FILE="/dev/null",
        RABBITMQ_CONFIG_FILE=home("etc/rabbitmq/rabbitmq.conf"),
        RABBITMQ_ENABLED_PLUGINS_FILE=home("etc/rabbitmq/enabled_plugins"),
        RABBITMQ_PID_FILE=home("data/rabbitmq/pid"),
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none "
        "-kernel inet_dist_use_interface {127,0,0,1}",
        ERL_EPMD_PORT=str(PORTS["epmd"]),
        ERL_EPMD_ADDRESS="127.0.0.1",
    )
    # our own epmd, else erlang leaves one behind that nobody stops
    launch("epmd", ["/usr/bin/epmd", "-address", "127.0.0.1", "-port", str(PORTS["epmd"])], env, port="epmd")
    time.sleep(0.3)
    check_alive("epmd")
    launch("rabbitmq", ["/usr/lib/rabbitmq/bin/rabbitmq-server"], env, port="rabbit")

    wait_for("rabbitmq", ["rabbitmq", "epmd"], lambda: connects(PORTS["rabbit"], b"AMQP\x00\x00\x09\x01"))
    say("rabbitmq is up")
