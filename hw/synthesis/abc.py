"""ABC, from the Python wheel of Yosys: what holds in every state of a design."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from evolute.hw.synthesis import yosys
from evolute.hw.synthesis.tools import ToolError, run_tool

_TO_BLIF = (
    *("read_json design.json", "opt -full -nodffe -nosdff", "opt_clean -purge", "techmap"),
    *("opt -fast -nodffe -nosdff", "aigmap", "opt_clean -purge"),
    *("setundef -undriven -expose", "write_blif design.blif"),
)
_PROVED = ("Property proved", "UNSATISFIABLE")


def never_true(design: str, seconds: int) -> bool:
    """Whether the only output of a design, in Yosys' JSON, is proved to be 0 in every state that it
    comes to; False where it is not, or where that is not decided in so many seconds.

    All registers have one clock, and begin with 0. Signals that are always equal are merged first
    (`scorr`); then property directed reachability (`pdr`, also known as IC3) looks for an invariant
    and proves it. What is left without registers is proved by SAT (`iprove`).
    """
    mapped = yosys.run(_TO_BLIF, {"design.json": design}, ["design.blif"], timeout_s=300)
    commands = f"read_blif design.blif; strash; &get; &scorr; &put; pdr -T {seconds}; iprove"
    with tempfile.TemporaryDirectory(prefix="evolute-") as name:
        folder = Path(name)
        (folder / "design.blif").write_text(mapped.files["design.blif"], encoding="utf-8")
        try:
            log = run_tool("abc", [str(_program()), "-c", commands], folder, 4 * seconds)
        except ToolError:
            return False
    return any(words in log for words in _PROVED)


def _program() -> Path:
    """The program in the wheel."""
    wheel = importlib.util.find_spec("pyosys")
    if wheel is None or wheel.origin is None:
        raise ToolError("abc: the Python package pyosys is missing")
    return Path(wheel.origin).parent / "yosys-abc"
