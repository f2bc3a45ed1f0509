"""Bandwidth limits on the wire (bandwidth.proto), for both ends."""

from __future__ import annotations

from datetime import datetime

from coriolis.clock import wire_time
from coriolis.errors import InvalidInput
from coriolis.model.bandwidth import Limit, Rate, Scope, ScopeKind, Window, next_change, rate_at
from coriolis.rpc.gen.coriolis.v1 import bandwidth_pb2 as pb


def scope_message(scope: Scope) -> pb.BandwidthScope:
    return pb.BandwidthScope(kind=scope.kind, name=scope.name)


def read_scope(message: pb.BandwidthScope, project_id: str) -> Scope:
    """``project_id`` counts for jobs only. Raises InvalidInput for an unknown kind."""
    try:
        kind = ScopeKind(message.kind)
    except ValueError as unknown:
        raise InvalidInput(f"scope.kind: not one of {', '.join(ScopeKind)}") from unknown
    return Scope(kind, message.name, project_id if kind is ScopeKind.JOB else "")


def limit_message(limit: Limit) -> pb.BandwidthLimit:
    """What was set, as in a request."""
    message = pb.BandwidthLimit(
        scope=scope_message(limit.scope),
        windows=[_window_message(window) for window in limit.windows],
        time_zone=limit.time_zone,
        created_at=limit.created_at,
        updated_at=limit.updated_at,
    )
    if limit.rate is not None:
        message.rate_bytes_per_s = limit.rate
    return message


def answer_message(limit: Limit, now: datetime) -> pb.BandwidthLimit:
    """What was set, what is in force at ``now``, and what comes next."""
    message = limit_message(limit)
    rate = rate_at(limit, now)
    if rate is not None:
        message.rate_now_bytes_per_s = rate
    change = next_change(limit, now)
    if change is not None:
        message.next_change_at = wire_time(change.at)
        if change.rate is not None:
            message.next_rate_bytes_per_s = change.rate
    return message


def read_limit(message: pb.BandwidthLimit, project_id: str) -> Limit:
    """Not checked (``coriolis.model.bandwidth.check``). Raises InvalidInput for an unknown kind of scope."""
    return Limit(
        read_scope(message.scope, project_id),
        _rate(message),
        tuple(
            Window(tuple(window.days), window.start_minute, window.end_minute, _rate(window))
            for window in message.windows
        ),
        message.time_zone or "UTC",
        message.created_at,
        message.updated_at,
    )


def _window_message(window: Window) -> pb.BandwidthWindow:
    message = pb.BandwidthWindow(days=window.days, start_minute=window.start, end_minute=window.end)
    if window.rate is not None:
        message.rate_bytes_per_s = window.rate
    return message


def _rate(message: pb.BandwidthLimit | pb.BandwidthWindow) -> Rate:
    return message.rate_bytes_per_s if message.HasField("rate_bytes_per_s") else None
