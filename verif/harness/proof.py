"""Proofs over all inputs of what combinational RTL claims to be (SAT, by Yosys)."""

from collections.abc import Sequence

from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue] not in its stubs
from amaranth.hdl import Module, Signal, Value

from evolute.hw.synthesis import yosys


def prove(m: Module, inputs: Sequence[Signal], equal: Value) -> None:
    """Raise `ToolError` unless `equal` is 1 for every value of `inputs`."""
    holds = Signal()
    m.d.comb += holds.eq(equal)
    text = rtlil.convert(m, ports=[*inputs, holds], name="top", emit_src=False)
    script = [
        "read_rtlil top.il",
        "proc -norom",
        "flatten",
        "opt -full",
        "techmap",
        "opt",
        "sat -verify -prove holds 1 top",
    ]
    yosys.run(script, {"top.il": text}, (), timeout_s=300)
