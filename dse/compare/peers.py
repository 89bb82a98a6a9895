"""Published designs, for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evolute.dse.compare.contenders import Task
from evolute.support import schema


@dataclass(frozen=True)
class Peer:
    """A published design and its area per multiply-accumulate per cycle.

    The areas are our own: the published Verilog, mapped to the same library as the engines with
    Yosys 0.70, without sizing of gates. What is inside the areas differs, see `what`.
    """

    name: str
    what: str
    source: str
    activations: str
    um2_per_mac_per_cycle: Mapping[str, float]
    """Area in square micrometres, by the name of the weights' format."""


_LUT_TENSOR_CORE = "Mo et al., LUT Tensor Core, ISCA 2025 (arXiv 2408.06003), its artifact"
_BITMOD = "Chen et al., BitMoD, HPCA 2025 (arXiv 2411.11745), its Verilog"

PEERS = (
    Peer(
        "LUT Tensor Core M2 N64 K4",
        "FP16 tables and adders; without the tables' registers and build",
        _LUT_TENSOR_CORE,
        "fp16",
        {"w1": 227, "w2": 459, "w4": 928},
    ),
    Peer(
        "BitMoD PE",
        "four bit-serial lanes, group accumulator and scaling",
        _BITMOD,
        "fp16",
        {"bitmod3": 1856, "bitmod4": 1856, "w6": 2784, "w8": 3711},
    ),
    Peer(
        "dual FMA",
        "FP16 fused multiply-add for one INT8 or two 4-bit weights, which it decodes in part",
        _BITMOD,
        "fp16",
        {"bitmod3": 1582, "bitmod4": 1582, "w4": 1582},
    ),
    Peer(
        "FP16 x INT8 FMA",
        "fused multiply-add with registers",
        _BITMOD,
        "fp16",
        {f"w{bits}": 1941 for bits in range(4, 9)},
    ),
)
"""Only those whose figures are in the same library."""


def peers(task: Task) -> list[schema.Published]:
    """The published designs for the task's weights and activations."""
    kind = task.activations.format
    return [
        schema.Published(
            peer.name, peer.what, peer.source, peer.um2_per_mac_per_cycle[task.codes.name]
        )
        for peer in PEERS
        if kind is not None
        and peer.activations == kind.name
        and task.codes.name in peer.um2_per_mac_per_cycle
    ]
