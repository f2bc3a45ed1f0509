"""Where a process's key material is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the CA that both sides trust, our certificate (chain) and its private key."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def in_directory(cls, directory: Path) -> TlsFiles:
        """``ca.pem``, ``cert.pem`` and ``key.pem`` in ``directory``, as ``pki.issue`` writes them."""
        return cls(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
