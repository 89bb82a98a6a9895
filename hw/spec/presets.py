"""Named accelerators: the one home of chosen numbers. The first is the default."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from hw.spec.base import RefusedError, Spec
from hw.spec.core import CoreSpec
from hw.spec.lut_tensor_core import LutTensorCore


class UnknownNameError(RefusedError):
    """A name that is not in a catalogue; the message lists the near ones."""

    def __init__(self, what: str, name: str, known: list[str]):
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        super().__init__(f"unknown {what} {name!r}; did you mean {' or '.join(near)}?")


@dataclass(frozen=True)
class Preset:
    """A spec worth having a name, with the one-line reason."""

    name: str
    spec: Spec
    description: str


_DECODE = LutTensorCore(m=1, n=32, k=4, kg=2, weight_bits=8, group_size=128)

_PREFILL = _DECODE.evolve(m=8, n=16, kg=4)
_FPGA = LutTensorCore(m=1, n=8, k=4, kg=4, weight_bits=4, group_size=64)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "core-decode",
            CoreSpec(engine=_DECODE, accumulators=256),
            "a complete core for one token at a time: lut-decode behind a 256-bit AXI4 port",
        ),
        Preset(
            "core-prefill",
            CoreSpec(
                engine=_PREFILL,
                activation_buffer_bytes=131072,
                accumulators=2048,
                scale_lanes=16,
            ),
            "a complete core for prompts: lut-prefill with activations for 40 tokens and more",
        ),
        Preset(
            "core-fpga",
            CoreSpec(
                engine=_FPGA,
                bus_bits=128,
                address_bits=32,
                weight_buffer_bytes=32768,
                activation_buffer_bytes=8192,
                scale_buffer_bytes=4096,
                accumulators=64,
                scale_lanes=2,
                clock_mhz=50,
            ),
            "a complete core for an ECP5-85K or a small Xilinx part: lut-fpga behind 128 bits",
        ),
        Preset(
            "lut-decode",
            _DECODE,
            "one token at a time: 32 columns x 8 activations eat a 256-bit bus word a cycle",
        ),
        Preset(
            "lut-paper",
            LutTensorCore(m=2, n=64, k=4, kg=1, weight_bits=4, group_size=128),
            "the M2 N64 K4 tile of the ISCA 2025 paper, one table per row",
        ),
        Preset(
            "lut-prefill",
            _PREFILL,
            "eight tokens at a time for prompts: 8 rows x 16 columns x 16 activations",
        ),
        Preset(
            "lut-int8-table",
            _DECODE.evolve(table_bits=8, weight_bits=4),
            "table entries rounded to 8 bits with one scale per row, as in T-MAC",
        ),
        Preset(
            "lut-fpga",
            _FPGA,
            "fits the smallest ECP5 and iCE40 parts",
        ),
    )
}

CORES = {each.name: each.spec for each in PRESETS.values() if isinstance(each.spec, CoreSpec)}
ENGINES = {
    each.name: each.spec for each in PRESETS.values() if isinstance(each.spec, LutTensorCore)
}

DEFAULT = next(iter(PRESETS))
DEFAULT_ENGINE = next(iter(ENGINES))


def preset(name: str) -> Preset:
    """The preset called `name`; raises `UnknownNameError` with the near names."""
    if name not in PRESETS:
        raise UnknownNameError("accelerator", name, list(PRESETS))
    return PRESETS[name]
