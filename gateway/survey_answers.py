"""The answers of ``/surveys``. Members that have their default are left out of the inner objects."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gateway.answers import Answer, Identifier


class Subnet(Answer):
    name: str
    cidr: str
    id: str = ""
    gateway: str = ""
    pools: list[tuple[str, str]] = Field(default=[])
    dns_servers: list[str] = Field(default=[])
    dhcp: bool = True
    routes: list[tuple[str, str]] = Field(default=[])
    ipv6_ra_mode: str = ""
    ipv6_address_mode: str = ""


class Network(Answer):
    """``mtu`` 0: unknown. ``external``: it leads out of the cloud. ``kind``: the cloud's word. ``vlan``: ids and
    ranges, ``none`` for untagged, empty where unknown."""

    name: str
    id: str = ""
    subnets: list[Subnet] = Field(default=[])
    mtu: int = 0
    shared: bool = False
    external: bool = False
    port_security: bool = True
    kind: str = ""
    vlan: str = ""
    bridge: str = ""


class SecurityRule(Answer):
    direction: Literal["ingress", "egress"]
    ethertype: Literal["IPv4", "IPv6"] = "IPv4"
    protocol: str = ""
    port_first: int = -1
    port_last: int = -1
    remote_cidr: str = ""
    remote_group: str = ""


class SecurityGroup(Answer):
    name: str
    id: str = ""
    description: str = ""
    rules: list[SecurityRule] = Field(default=[])
    stateful: bool = True


class StorageType(Answer):
    """``kind``: the cloud's word. Bytes are null where the cloud does not tell. ``usable``: false while it is out of
    reach, stopped or in maintenance."""

    name: str
    id: str = ""
    description: str = ""
    encrypted: bool = False
    multiattach: bool = False
    kind: str = ""
    capacity_bytes: int | None = None
    free_bytes: int | None = None
    usable: bool = True


class Takes(Answer):
    """What a destination understands: members of its target environment, patterns of network names that it takes as
    they are written, and how it is told where disks go."""

    members: list[str] | None
    free_networks: list[str]
    storage_member: str
    storage_required: bool


class SurveyedMachine(Answer):
    """``machine``: the VM description, null before the end and where ``message`` says why there is none."""

    instance: str
    machine: dict[str, Any] | None
    message: str | None


class Survey(Answer):
    """``detail`` is ``names`` when the cloud tells no subnets of its networks, null before the end. ``left_out``: how
    many things are not listed because they are too many. ``takes`` is null of an origin."""

    id: Identifier
    side: Literal["origin", "destination"]
    type: str
    status: Literal["RUNNING", "COMPLETED", "ERROR"]
    message: str | None
    detail: Literal["full", "names"] | None
    networks: list[Network]
    security_groups: list[SecurityGroup]
    storage_types: list[StorageType]
    left_out: int
    takes: Takes | None
    machines: list[SurveyedMachine]
    events: list[str]
    created_at: str


class SurveyAnswer(Answer):
    survey: Survey
