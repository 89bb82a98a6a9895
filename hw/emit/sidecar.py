"""What the ports of an accelerator mean, as data for programs. It is derived from the spec
alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from evolute.hw.isa import instructions as isa
from evolute.hw.isa import registers
from evolute.hw.spec import CoreSpec, Engine, Spec, UnitSpec, layout
from evolute.hw.spec.beat import Beat
from evolute.hw.spec.core import RESULT_BITS


@dataclass(frozen=True)
class Bus:
    """An AXI interface. Its ports are called `name`, an underscore, and the signal's name in the
    AXI specification."""

    name: str
    protocol: str
    role: str
    """`manager` starts transfers, `subordinate` answers them."""
    data_bits: int
    address_bits: int
    id_bits: int
    most_burst_beats: int
    most_outstanding_reads: int
    most_outstanding_writes: int


@dataclass(frozen=True)
class ControlPorts:
    """The ports that carry no data stream: clock (rising edge), synchronous reset, interrupt and
    AXI interfaces."""

    clock: str
    reset: str
    reset_level: int
    interrupt: str | None = None
    buses: tuple[Bus, ...] = ()
    more_clocks: tuple[tuple[str, str], ...] = ()
    """Further clocks, each as (clock, reset)."""


def ports(spec: Spec) -> ControlPorts:
    """The clock, reset, interrupt and AXI ports of the spec's top module."""
    if isinstance(spec, UnitSpec):
        return ControlPorts("clk", "rst", 1, more_clocks=spec.more_clocks)
    if not isinstance(spec, CoreSpec):
        return ControlPorts(clock="clk", reset="rst", reset_level=1)
    stored_words = spec.bank_words * spec.scale_lanes * RESULT_BITS // spec.bus_bits
    memory = Bus(
        name="m_axi",
        protocol="AXI4",
        role="manager",
        data_bits=spec.bus_bits,
        address_bits=spec.address_bits,
        id_bits=0,
        most_burst_beats=spec.burst_beats,
        most_outstanding_reads=spec.outstanding_reads,
        # One store's bursts: all sums of a bank, the first burst being as short as one word.
        most_outstanding_writes=1 + -(-(stored_words - 1) // spec.burst_beats),
    )
    host = Bus(
        name="s_axi",
        protocol="AXI4-Lite",
        role="subordinate",
        data_bits=32,
        address_bits=registers.ADDRESS_BITS,
        id_bits=0,
        most_burst_beats=1,
        most_outstanding_reads=1,
        most_outstanding_writes=1,
    )
    return ControlPorts("aclk", "aresetn", 0, "interrupt", (memory, host))


def meaning(spec: Spec) -> dict[str, Any]:
    """The part of the sidecar that follows from the spec: what moves over the ports, and when."""
    latencies = {name: getattr(spec, name) for name in dir(type(spec)) if name.endswith("_cycles")}
    if isinstance(spec, CoreSpec):
        return {**_core(spec), "latencies": latencies}
    if isinstance(spec, UnitSpec):
        beats, text = spec.beats, spec.meaning
    else:
        assert isinstance(spec, Engine)
        streams = layout.streams(spec)
        beats = {stream.name: getattr(streams, stream.name) for stream in fields(streams)}
        text = _meaning_of_streams(spec)
    return {
        "payloads": {f"{name}__payload": _ranges(beat) for name, beat in beats.items()},
        "meaning": text,
        "latencies": latencies,
    }


def _meaning_of_streams(spec: Engine) -> str:
    return f"{layout.STREAMS_MEANING}\nA beat of weights: {spec.weight_beat.meaning}"


def _ranges(beat: Beat) -> list[dict[str, Any]]:
    """Bits `low`..`high` of each field, and how its elements are laid out, last index fastest."""
    return [
        {
            "field": field.name,
            "low": beat.offsets[field.name],
            "high": beat.offsets[field.name] + field.total_bits - 1,
            "element_bits": field.bits,
            "shape": list(field.shape),
            "signed": field.signed,
        }
        for field in beat.fields
    ]


def _core(core: CoreSpec) -> dict[str, Any]:
    streams = layout.streams(core.engine)
    beats = {"weight": streams.weight, "activation": streams.activation, "scale": core.scale_beat}
    return {
        "buses": {bus.name: asdict(bus) for bus in ports(core).buses},
        "interrupt": {"port": ports(core).interrupt, "level": 1},
        "registers": {
            register.name: {
                "offset": register.offset,
                "access": "read-write" if register.writable else "read",
                "meaning": register.meaning,
            }
            for register in registers.REGISTERS.values()
        },
        "identity": registers.IDENTITY,
        "control": {str(bit.name): bit.value for bit in registers.Control},
        "status": {str(bit.name): bit.value for bit in registers.Status},
        "faults": {fault.name: fault.value for fault in isa.Fault},
        "instruction_bits": isa.INSTRUCTION_BITS,
        "units": {unit.name.lower(): unit.value for unit in isa.Unit},
        "instructions": {
            operation.name: _instruction(operation) for operation in isa.OPERATIONS.values()
        },
        "buffers": {
            buffer.name: {
                "number": number,
                "bus_words": buffer.bus_words,
                "stride_bits": buffer.stride_bits,
                "beat": _ranges(beats[buffer.name]),
            }
            for number, buffer in enumerate(core.buffers)
        },
        "sums": {
            "words": core.accumulator_words,
            "sums_per_word": core.scale_lanes,
            "words_per_tile": core.scale_steps,
            "banks": 2,
        },
        "meaning": _meaning_of_streams(core.engine),
    }


def _instruction(operation: isa.Operation) -> dict[str, Any]:
    header = {
        "opcode": (0, isa.OPCODE_BITS),
        "wait": (isa.WAIT_OFFSET, len(isa.Unit)),
        "signal": (isa.SIGNAL_OFFSET, len(isa.Unit)),
    }
    return {
        "opcode": operation.opcode,
        "unit": None if operation.unit is None else operation.unit.name.lower(),
        "meaning": operation.meaning,
        "header": {name: [low, low + bits - 1] for name, (low, bits) in header.items()},
        "fields": [
            {
                "field": field.name,
                "low": operation.offsets[field.name],
                "high": operation.offsets[field.name] + field.bits - 1,
                "stored_less_1": field.less_one,
                "meaning": field.meaning,
            }
            for field in operation.fields
        ],
    }
