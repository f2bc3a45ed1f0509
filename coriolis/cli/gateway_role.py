"""``coriolis gateway``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; variables CORIOLIS_* and options win.")
@click.option("--listen", metavar="HOST:PORT", help="Where clients dial it; default 127.0.0.1:7667.")
@click.option("--coordinator", "coordinators", multiple=True, metavar="HOST:PORT", help="Repeatable; some suffice.")
@click.option("--tls-dir", metavar="DIR", help="ca.pem, cert.pem, key.pem of a gateway ('coriolis pki issue').")
@click.option("--users-file", metavar="FILE", help="Users of the embedded identity ('coriolis user add').")
@click.option("--token-key-file", metavar="FILE", help="Key that signs tokens; made if absent, same for all gateways.")
@click.option("--public-url", metavar="URL", help="What clients are told to dial; default http://LISTEN.")
def gateway(config: Path | None, coordinators: tuple[str, ...], **options: Any) -> None:
    """Run a REST gateway. It keeps nothing: run as many as you like.

    It speaks plain HTTP; put a proxy with TLS in front of it for anything but loopback.

    \b
      coriolis gateway --config gateway.toml
      coriolis gateway --coordinator 10.0.0.1:7668 --coordinator 10.0.0.2:7668 --tls-dir tls --users-file users.json
    """
    from coriolis.cli.roles import run_until_stopped
    from coriolis.config import load_config
    from gateway.app import serve
    from gateway.settings import GatewayConfig

    flags = {**options, "coordinators": list(coordinators) or None}
    run_until_stopped(lambda: serve(load_config(GatewayConfig, config, flags)))
