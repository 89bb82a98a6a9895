"""What every engine is to the outside: four streams."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.spec import layout
from hw.spec.engine import Engine


class EngineComponent(wiring.Component):
    """Base of the engines; the streams carry the words of `hw.spec.layout`."""

    command: stream.Interface
    activation: stream.Interface
    weight: stream.Interface
    result: stream.Interface

    def __init__(self, spec: Engine):
        streams = layout.streams(spec)
        super().__init__(
            {
                "command": In(stream.Signature(streams.command.bits)),
                "activation": In(stream.Signature(streams.activation.bits)),
                "weight": In(stream.Signature(streams.weight.bits)),
                "result": Out(stream.Signature(streams.result.bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        raise NotImplementedError
