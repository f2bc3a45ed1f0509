"""An etcd client from configuration."""

from __future__ import annotations

from pathlib import Path

from coriolis.config import EtcdConfig
from coriolis.etcd.client import Credentials, EtcdClient
from coriolis.rpc.tls import TlsFiles


def connect(config: EtcdConfig) -> EtcdClient:
    """Not connected yet: use it as an asynchronous context."""
    tls = TlsFiles.in_directory(Path(config.tls_dir)) if config.tls_dir else None
    credentials = None
    if config.user:
        credentials = Credentials(config.user, Path(config.password_file).read_text().strip())
    return EtcdClient(config.endpoints, tls=tls, server_name=config.server_name or None, credentials=credentials)
