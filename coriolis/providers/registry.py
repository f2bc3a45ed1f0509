"""Finds providers by entry point ``coriolis.providers``; SDKs load only when one is connected."""

from __future__ import annotations

from importlib.metadata import entry_points

from coriolis.errors import Unsupported
from coriolis.providers.base import Provider

GROUP = "coriolis.providers"


def provider_names() -> list[str]:
    """The types installed here, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def load_provider(name: str) -> Provider:
    """The provider of that type. Raises Unsupported naming what is installed."""
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            provider: Provider = entry.load()()
            return provider
    raise Unsupported(f"no provider {name!r} is installed here; installed: {', '.join(provider_names()) or 'none'}")
