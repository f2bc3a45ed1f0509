"""What a provider declares of itself, so that the planner never finds out by failing."""

from __future__ import annotations

import msgspec


class Capabilities(msgspec.Struct, frozen=True):
    """``sequential_only_read``/``_write``: disks can only be streamed front to back.

    ``live_source``: a running instance can be read; ``change_log``: changed extents may be available;
    ``starts_instances``: the destination can run what it is given (an image store cannot).
    """

    origin: bool = False
    destination: bool = False
    live_source: bool = False
    change_log: bool = False
    power_control: bool = False
    sequential_only_read: bool = False
    sequential_only_write: bool = False
    starts_instances: bool = False
    proof_of_boot: bool = False
    """A machine can be started for a look before it is made."""
    reserves_nics: bool = False
    """MACs may differ from the origin's, and can be known before the guest is converted."""
    describes_subnets: bool = False
    """What it tells of its networks goes as far as their subnets: missing ones can be made elsewhere."""
    plain_names: bool = False
    """Machines are called by letters, digits, dots, dashes and underscores: others become dashes."""
    takes_tokens: bool = False
    """Works with a Keystone token of the caller's cloud: ``coriolis.keystone.given_token`` says in which members."""
    free_networks: tuple[str, ...] = ()
    """Patterns (``*`` stands for anything) of what network_map may say at this destination though no network is called
    so: ``bridge:*``."""
    storage_member: str = ""
    """Member of the target environment that says where disks go which no map names."""
    storage_required: bool = False
    """There is no default: the target environment must say where disks go."""
    target_platform: str = "kvm"
    """Names the driver table conversion uses for guests that will run here."""
