"""Registers that a bench may set, in Verilog that is flat or not."""

from __future__ import annotations

import re
from collections.abc import Mapping

from evolute.verif.harness.simulators import SimulatorError


def with_settable(text: str, top: str, registers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Verilog of the module `top` whose `registers`, names to the submodules that they belong to,
    a bench may set; and what Verilator calls them. Raises `SimulatorError` if one is missing."""
    members: dict[str, str] = {}
    modules = re.split(r"(?m)^(?=module )", text)
    for name, part in registers.items():
        declared = {top: rf"\\{part}\.{name} ", f"{top}_{part}": name}
        for i, module in enumerate(modules):
            title = re.match(r"module (\w+)", module)
            if title and title[1] in declared:
                line = rf"(?m)^(  reg \[\d+:0\] {declared[title[1]]})(?= ?[=;])"
                modules[i], replaced = re.subn(line, r"\1/*verilator public_flat_rw*/", module)
                if replaced:
                    dot = "__02e" if title[1] == top else "__DOT__"
                    members[name] = f"{top}__DOT__{part}{dot}{name}"
        if name not in members:
            raise SimulatorError(f"{top}: has no register {part}.{name}")
    return "".join(modules), members
