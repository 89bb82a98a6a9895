"""The metrics by which a search can judge candidates, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A number that every candidate has. `how` says how it is obtained."""

    title: str
    direction: Literal["minimize", "maximize"]
    unit: str
    how: Literal["synthesized", "modelled", "measured"]


METRICS: dict[str, Metric] = {
    "area_ge": Metric("area", "minimize", "GE", "synthesized"),
    "delay_ns": Metric("longest path", "minimize", "ns", "synthesized"),
    "tokens_per_s": Metric("decode speed", "maximize", "tokens/s", "modelled"),
    "prefill_tokens_per_s": Metric("prefill speed", "maximize", "tokens/s", "modelled"),
    "perplexity": Metric("perplexity", "minimize", "", "measured"),
}
"""Area in two-input NAND gates and delay before layout, both of the mapped netlist; speed from
exact cycles and an ideal memory bus; perplexity through the engine's arithmetic."""
