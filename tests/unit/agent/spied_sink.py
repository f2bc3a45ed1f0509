"""A sink that shows a test every frame between TLS and its check."""

from __future__ import annotations

import msgspec

from coriolis.agent.sink_disk import OpenedDisk, SinkDisk
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.transfer.codec import Frame
from coriolis.transfer.receiver import Accepted, Intake


class SpyIntake(Intake):
    """Shows every frame to its sink before it is judged."""

    sink: SpiedSink

    def accept(self, frame: Frame) -> Accepted:
        return super().accept(self.sink.seen(frame))


class SpiedSink(SinkDisk):
    """Sees, and may change, every frame of either transport after TLS and before the digest is checked."""

    def open(self, request: pb.OpenDiskRequest) -> pb.OpenDiskResponse:
        answer = super().open(request)
        assert self.opened is not None
        plain = self.opened.served.intake
        spy = SpyIntake(plain.size_bytes, plain.generation, plain.touched)
        spy.sink = self
        self.opened = OpenedDisk(
            msgspec.structs.replace(self.opened.served, intake=spy), self.opened.touched_descriptor
        )
        return answer

    def seen(self, frame: Frame) -> Frame:
        return frame
