"""Named accelerators: the one home of chosen numbers. The first is the default."""

from __future__ import annotations

from dataclasses import dataclass

from evolute.hw.spec.base import Spec
from evolute.hw.spec.bit_serial import BitSerial
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.lut_dla import LutDla
from evolute.hw.spec.lut_stationary import LutStationary
from evolute.hw.spec.lut_tensor_core import LutTensorCore
from evolute.hw.spec.mac import Mac
from evolute.hw.spec.unit import UnitSpec
from evolute.hw.spec.vq_codebook import VqCodebook
from evolute.support.errors import UnknownNameError


@dataclass(frozen=True)
class Preset:
    """A spec with a name, and in one line what it is for."""

    name: str
    spec: Spec
    description: str


_DECODE = LutTensorCore(m=1, n=32, k=4, kg=2, weight_bits=8, group_size=128)

_PREFILL = _DECODE.evolve(m=8, n=16, kg=4)
_BITMOD = BitSerial(m=1, n=8, k=15, terms="bitmod", weight_bits=4, group_size=128)
_SKIP = _BITMOD.evolve(m=4, n=2, k=7, skips=True)
_FP16 = _DECODE.evolve(activation_format="fp16", activation_bits=13)
_PAIRS = LutTensorCore(m=1, n=32, k=2, kg=16, mirrored=False, weight_bits=1, group_size=128)
_VQ = VqCodebook(n=32, k=2, v=8, entries=256, residual_entries=256, short_v=2)
_VQ_PAIRS = VqCodebook(n=32, k=4, v=2, along="inputs", entries=16, form="table")
_MAC = Mac(m=1, n=8, k=4, weight_bits=8, group_size=128)
_DLA = LutDla(m=8, n=14, v=2, centroids=16, lanes=2, group_size=128)
_STATIONARY = LutStationary(m=64, n=32, v=4, centroids=16, beat_entries=32, subspaces=256)
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
            "core-fp16",
            CoreSpec(engine=_FP16, accumulators=256, sum_bits=48),
            "a complete core for half-precision activations: lut-fp16 behind a 256-bit AXI4 port",
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
            "lut-fp16",
            _FP16,
            "lut-decode for half-precision activations, aligned to 13 bits within each row",
        ),
        Preset(
            "lut-fpga",
            _FPGA,
            "fits the smallest ECP5 and iCE40 parts",
        ),
        Preset(
            "lut-w2",
            _PAIRS.evolve(weight_bits=2, planes_per_step=2),
            "least area per 2-bit weight: sums of pairs, both bits in one step, 32 x 32 weights",
        ),
        Preset(
            "lut-w1",
            _PAIRS.evolve(weight_bits=1),
            "least area per 1-bit weight: sums of pairs, 32 columns x 32 activations",
        ),
        Preset(
            "lut-ternary",
            LutTensorCore(m=1, n=32, k=2, kg=16, base=3, weight_bits=2, group_size=128),
            "least area per ternary weight: pairs of digits to base 3, 32 columns x 32 activations",
        ),
        Preset(
            "core-bitmod",
            CoreSpec(engine=_BITMOD),
            "a complete core for BitMoD's 4-bit weights: bs-bitmod behind a 256-bit AXI4 port",
        ),
        Preset(
            "core-bitmod-serial",
            CoreSpec(engine=_BITMOD, scale_multiplier="serial"),
            "core-bitmod with BitMoD's bit-serial scaling, behind the sums of the next group",
        ),
        Preset(
            "bs-planes",
            BitSerial(m=1, n=16, k=16, terms="planes", weight_bits=8, group_size=128),
            "weights bit by bit, any width: 16 columns x 16 activations, a 256-bit word a cycle",
        ),
        Preset(
            "bs-booth",
            BitSerial(m=1, n=8, k=16, terms="booth", weight_bits=8, group_size=128),
            "INT8 weights in four Booth digits: 8 columns x 16 activations, 256 bits a cycle",
        ),
        Preset(
            "bs-bitmod",
            _BITMOD,
            "BitMoD FP4, FP3 and INT4: two terms a weight, 8 columns x 15 activations",
        ),
        Preset(
            "core-skip",
            CoreSpec(engine=_SKIP, bus_bits=64, accumulators=128, scale_lanes=2),
            "a complete core for BitMoD's 3-bit weights: bs-skip behind a 64-bit AXI4 port",
        ),
        Preset(
            "bs-skip",
            _SKIP,
            "bs-bitmod without the steps that no weight needs: 4 rows x 2 columns x 7 activations",
        ),
        Preset(
            "bs-pairs",
            BitSerial(m=1, n=4, k=64, terms="and", weight_bits=4, group_size=128),
            "weights and activations bit by bit: 4 columns x 64 ANDs and counts, 256 bits a beat",
        ),
        Preset(
            "core-mac",
            CoreSpec(engine=_MAC, accumulators=256),
            "a complete core of plain multipliers: mac-w8 behind a 256-bit AXI4 port",
        ),
        Preset(
            "mac-w8",
            _MAC,
            "the baseline for 8-bit weights: 8 columns x 4 multipliers, 256 bits a cycle",
        ),
        Preset(
            "mac-w4",
            _MAC.evolve(k=8, weight_bits=4),
            "the baseline for 4-bit weights: 8 columns x 8 multipliers, 256 bits a cycle",
        ),
        Preset(
            "mac-w2",
            _MAC.evolve(k=16, weight_bits=2),
            "the baseline for 2-bit weights: 8 columns x 16 multipliers, 256 bits a cycle",
        ),
        Preset(
            "mac-systolic",
            _MAC.evolve(m=8, k=1, arrangement="systolic"),
            "an output-stationary systolic array of 8 x 8 multipliers of 8-bit weights",
        ),
        Preset(
            "core-vq",
            CoreSpec(engine=_VQ),
            "a complete core for VPTQ at 2 bits: vq-residual behind a 256-bit AXI4 port",
        ),
        Preset(
            "core-vq-inputs",
            CoreSpec(engine=_VQ_PAIRS),
            "a complete core for pairs of inputs out of 16, 2 bits a weight: 64 products a slice",
        ),
        Preset(
            "vq-residual",
            _VQ,
            "VPTQ's v8 k256+256: 8 outputs per pair of codewords, 2 bits a weight",
        ),
        Preset(
            "vq-outputs",
            VqCodebook(n=32, k=2, v=8, entries=256),
            "VPTQ's arrangement: 8 outputs per codeword of 256, 1 bit a weight, a copy per lane",
        ),
        Preset(
            "vq-inputs-table",
            VqCodebook(n=32, k=8, v=4, along="inputs", entries=16, form="table"),
            "4 inputs per codeword of 16, 1 bit a weight: 128 products in a table for 32 outputs",
        ),
        Preset(
            "core-dla",
            CoreSpec(
                engine=_DLA,
                accumulators=256,
                scale_lanes=2,
                activation_buffer_bytes=16384,
            ),
            "a complete core of tables by centroid: dla-l1 behind a 256-bit AXI4 port",
        ),
        Preset(
            "dla-l1",
            _DLA,
            "LUT-DLA for prompts: 2 inputs by 16 centroids, 2 entries x 14 columns in 256 bits",
        ),
        Preset(
            "dla-tree",
            LutDla(m=1, n=8, v=4, centroids=16, lanes=16, metric="l2", group_size=128),
            "LUT-DLA for one token: all 16 centroids of 4 inputs at once, by squares",
        ),
        Preset(
            "dla-stationary",
            _STATIONARY,
            "LUT-DLA as published: a chain of 16 distances, two banks of tables, 64 rows of sums",
        ),
        Preset(
            "dla-gather",
            _STATIONARY.evolve(
                m=8,
                encoder="tree",
                beat_centroids=16,
                keeps_indices=True,
                tables="gather",
                dedup=True,
            ),
            "LUT-DLA for few tokens: asks for the table rows that indices name, each once",
        ),
    )
}

_SPECS = {name: preset.spec for name, preset in PRESETS.items()}

CORES = {name: spec for name, spec in _SPECS.items() if isinstance(spec, CoreSpec)}
ENGINE_PRESETS = {name: spec for name, spec in _SPECS.items() if isinstance(spec, Engine)}
UNIT_PRESETS = {name: spec for name, spec in _SPECS.items() if isinstance(spec, UnitSpec)}

DEFAULT = next(iter(PRESETS))
DEFAULT_ENGINE = next(iter(ENGINE_PRESETS))


def preset(name: str) -> Preset:
    """The preset called `name`; raises `UnknownNameError` with the near names."""
    if name not in PRESETS:
        raise UnknownNameError("accelerator", name, list(PRESETS))
    return PRESETS[name]
