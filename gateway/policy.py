"""Who may do what: one table, default deny.

The project of every operation is the token's project; this table only says which roles inside of it suffice.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from types import MappingProxyType

ADMIN = "admin"
MEMBER = "member"
READER = "reader"

ADMINS = frozenset({ADMIN})
WRITERS = frozenset({ADMIN, MEMBER})
READERS = frozenset({ADMIN, MEMBER, READER})

RULES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "migration:migrations:create": WRITERS,
        "migration:migrations:list": READERS,
        "migration:migrations:show": READERS,
        "migration:migrations:watch": READERS,
        "migration:migrations:cancel": WRITERS,
        "migration:migrations:delete": WRITERS,
        "migration:migrations:renew_credentials": WRITERS,
        "migration:migrations:verify": WRITERS,
        "migration:migrations:show_verification": READERS,
        "migration:inspections:create": WRITERS,
        "migration:inspections:show": READERS,
        "migration:surveys:create": WRITERS,
        "migration:surveys:show": READERS,
        "migration:manifests:list": READERS,
        "migration:manifests:show": READERS,
        "migration:services:list": READERS,
        "migration:services:show": READERS,
        "migration:links:list": READERS,
        "migration:providers:list": READERS,
        "migration:bandwidth_limits:list": READERS,
        "migration:bandwidth_limits:set_job": WRITERS,
        # agents and links belong to the whole mesh
        "migration:bandwidth_limits:see_mesh": ADMINS,
        "migration:bandwidth_limits:set_mesh": ADMINS,
        "migration:secrets:create": WRITERS,
        "migration:secrets:list": READERS,
        "migration:secrets:delete": WRITERS,
    }
)


def allows(rule: str, roles: Set[str]) -> bool:
    """Whether one of ``roles`` is enough. A rule that the table lacks allows nobody."""
    return not RULES.get(rule, frozenset()).isdisjoint(roles)
