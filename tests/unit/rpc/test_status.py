"""Failures of gRPC itself, as opposed to errors that a servicer raised."""

from __future__ import annotations

import grpc
import pytest

from coriolis.rpc.status import to_error


@pytest.mark.parametrize("status", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED])
def test_a_stream_that_broke_inside_grpc_may_be_tried_again(status: grpc.StatusCode) -> None:
    """Seen when the sink's agent was killed in the middle of a write: INTERNAL, "Internal error from Core"."""
    nothing = grpc.aio.Metadata()
    broken = grpc.aio.AioRpcError(status, nothing, nothing, details="Internal error from Core")
    assert to_error(broken).retryable
