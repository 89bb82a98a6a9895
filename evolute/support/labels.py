"""What kind of number a figure is: said here once, for terminal, records and report alike."""

from __future__ import annotations

MEANINGS = {
    "exact": "counted by construction; equal to the RTL, cycle by cycle, wherever it was simulated",
    "measured": "the result of running the model through the engine's bit-exact arithmetic",
    "modelled": "exact cycles at the stated clock; a core's with the stated memory, which keeps to "
    "its times exactly, an engine's with an ideal memory bus",
    "synthesized": "from a netlist that Yosys mapped to a standard-cell library",
}
"""What a label on a number means."""

_TIMES = dict.fromkeys(
    ("seconds", "tokens_per_s", "compute_seconds", "memory_seconds", "waiting_seconds"), "modelled"
)
_COUNTS = dict.fromkeys(("cycles", "utilization", "mac_share"), "exact")
_OF_MEMORY = ("engine_utilization", "bus_utilization", "dram_bytes", "bound")


def sim_labels(is_core: bool) -> dict[str, str]:
    """The label of every figure of `evolute sim`, by the figure's name.

    What memory does is counted in a core's programs, and only modelled beside an engine alone.
    """
    of_memory = dict.fromkeys(_OF_MEMORY, "exact" if is_core else "modelled")
    return {**_COUNTS, **of_memory, **_TIMES, "perplexity": "measured"}
