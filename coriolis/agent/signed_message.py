"""Signed statements on the wire between two agents."""

from __future__ import annotations

import base64

from coriolis.errors import Denied
from coriolis.rpc.gen.coriolis.v1 import types_pb2 as pb
from coriolis.transfer.attestation import Signed


def signed_message(signed: Signed) -> pb.SignedStatement:
    return pb.SignedStatement(
        statement=signed.statement, signature=base64.b64decode(signed.signature), certificate=signed.certificate
    )


def read_signed(message: pb.SignedStatement) -> Signed:
    """Raises Denied for a peer that signed nothing."""
    if not message.statement or not message.signature:
        raise Denied("the peer signed no statement of the disk; both agents must be of a version that does")
    return Signed(message.statement, base64.b64encode(message.signature).decode(), message.certificate)
