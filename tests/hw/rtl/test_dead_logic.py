"""No design has registers that nothing reads, or adders whose sums nobody takes."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue] not in its stubs

from evolute.hw.rtl import BUILD
from evolute.hw.spec import Spec
from evolute.hw.synthesis import yosys
from evolute.verif.mutation.netlist_faults import DESIGNS

SPECS: dict[str, Spec] = {
    **DESIGNS,
    **{f"mac of {bits} bits": DESIGNS["mac"].evolve(weight_bits=bits) for bits in (1, 2, 3, 4)},
}
DEAR = ("$add", "$sub", "$mul", "$neg", "$lt", "$le", "$gt", "$ge")
"""Cells with carries."""


def cells(text: str) -> dict[str, Any]:
    (module,) = json.loads(text)["modules"].values()
    return module


@pytest.mark.parametrize("name", SPECS)
def test_everything_is_read(name: str) -> None:
    spec = SPECS[name]
    text = rtlil.convert(BUILD[type(spec)](spec), name="top", emit_src=False)
    script = ["read_rtlil top.il", "proc -norom", "flatten", "opt_expr"]
    script += ["write_json before.json", "opt_clean", "write_json after.json"]
    files = ["before.json", "after.json"]
    found = yosys.run(script, {"top.il": text}, files, timeout_s=120).files
    before, after = (cells(found[file]) for file in files)
    gone = Counter(
        before["cells"][each]["type"] for each in before["cells"].keys() - after["cells"]
    )
    assert not {kind: count for kind, count in gone.items() if kind in DEAR or "dff" in kind}

    read = {bit for port in after["ports"].values() for bit in port["bits"]}
    registers = []
    for cell in after["cells"].values():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                read.update(bits)
        if "dff" in cell["type"]:
            registers += cell["connections"]["Q"]
    nets = after["netnames"].items()
    assert registers
    assert not [net for net, each in nets if set(each["bits"]) & (set(registers) - read)]
