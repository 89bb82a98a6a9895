"""Mutation coverage: what is drawn, what a fault does, and what is proved of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue] not in its stubs
from click.testing import CliRunner

import evolute.hw.rtl
from evolute.front import cli
from evolute.hw.rtl import BUILD
from evolute.hw.synthesis import yosys
from evolute.support.files import RECORDS, read_records
from evolute.verif.mutation.equivalence import Reset, proof
from evolute.verif.mutation.netlist_faults import (
    DESIGNS,
    Mutation,
    draw,
    first_difference,
    netlist,
    planted,
    points,
    some_points,
)

NO_LOGIC = {"__init__.py", "registry.py", "words.py"}
"""Files of the RTL that name and cut signals only."""


@pytest.mark.slow
def test_every_file_that_makes_logic_is_in_some_design() -> None:
    found: set[str] = set()
    for spec in DESIGNS.values():
        text = rtlil.convert(BUILD[type(spec)](spec), name="top", emit_src=True)
        found |= set(re.findall(r"/hw/rtl/((?:\w+/)*\w+\.py):", text))
    folder = Path(evolute.hw.rtl.__file__).parent
    files = {
        str(path.relative_to(folder)) for path in folder.rglob("*.py") if path.name not in NO_LOGIC
    }
    assert files <= found


def test_lines_come_once_before_any_comes_again_and_equal_seeds_draw_alike() -> None:
    known = {name: some_points(name, 1) for name in ("mac-systolic", "serial-planes")}
    lines = {line for each in known.values() for line in each}
    chosen = draw(known, len(lines) + 5, 2)
    counts = Counter((each.file, each.line) for each in chosen)
    assert set(counts) == lines and sorted(counts.values()) == [1] * (len(lines) - 5) + [2] * 5
    assert len(set(chosen)) == len(chosen)
    assert draw(known, len(lines) + 5, 2) == chosen != draw(known, len(lines) + 5, 3)


def test_a_fault_shows_only_where_it_is_switched_on() -> None:
    spec = DESIGNS["serial-planes"]
    flat = netlist(spec)
    known = points("serial-planes", flat, 1)
    fault = next(
        mutation
        for (file, _), each in known.items()
        for mutation in each
        if file == "engines/bit_serial.py" and re.match(r"-mode inv .* -port Y", mutation.change)
    )
    verilog = planted(spec, flat, [fault])
    assert first_difference(spec, verilog, 0) is None
    assert "psum" in (first_difference(spec, verilog, 1) or "")


PROVED = r"""
module top(input clk, input rst, input a, input b, output y, output z);
  wire either = a | b;
  reg [1:0] count;
  always @(posedge clk) count <= rst || count == 2 ? 2'd0 : count + 2'd1;
  \$and #(.A_SIGNED(0), .B_SIGNED(0), .A_WIDTH(1), .B_WIDTH(1), .Y_WIDTH(1))
    both (.A(a), .B(either), .Y(y));
  \$and #(.A_SIGNED(0), .B_SIGNED(0), .A_WIDTH(1), .B_WIDTH(1), .Y_WIDTH(1))
    three (.A(count[0]), .B(count[1]), .Y(z));
endmodule
"""


@pytest.mark.parametrize(
    ("change", "how"),
    [
        ("-mode const1 -cell both -port B -portbit 0", "no state in which it shows"),
        ("-mode const0 -cell both -port B -portbit 0", None),
        # The count is never 3, once it has been reset.
        ("-mode const0 -cell three -port Y -portbit 0", "no state after a reset"),
        ("-mode const1 -cell three -port Y -portbit 0", None),
        ("-mode const1 -cell three -port A -portbit 0", None),
    ],
)
def test_what_no_state_shows_is_proved_and_nothing_else(change: str, how: str | None) -> None:
    script = ["read_verilog -icells top.v", "proc", "opt_clean", "write_rtlil top.il"]
    flat = yosys.run(script, {"top.v": PROVED}, ["top.il"], timeout_s=60).files["top.il"]
    found = proof(flat, "top", change, Reset(("rst",), 1))
    assert (found is None) == (how is None) and (how or "") in (found or "")


def test_writes_of_a_memory_are_compared_where_they_are_enabled() -> None:
    text = r"""
module top(input clk, input rst, input [1:0] at, input [3:0] word, input on, output [3:0] y);
  reg [3:0] store [0:3];
  always @(posedge clk) if (on) store[at] <= enabled;
  assign y = store[at];
  wire [3:0] enabled;
  \$and #(.A_SIGNED(0), .B_SIGNED(0), .A_WIDTH(4), .B_WIDTH(4), .Y_WIDTH(4))
    gated (.A(word), .B({4{on}}), .Y(enabled));
endmodule
"""
    script = ["read_verilog -icells top.v", "proc", "opt_clean", "memory_dff", "write_rtlil top.il"]
    flat = yosys.run(script, {"top.v": text}, ["top.il"], timeout_s=60).files["top.il"]
    reset = Reset(("rst",), 1)
    same = "-mode const1 -cell gated -port B -portbit 2"  # it is 1 in all writes
    assert proof(flat, "top", same, reset) == "no state in which it shows"
    assert proof(flat, "top", same.replace("const1", "const0"), reset) is None


KEPT = r"""
module top(input clk, input rst, input go, input on, input [3:0] x, output [3:0] y, output [3:0] z);
  reg full;
  reg [3:0] word, late;
  wire load, ready = go | on;
  always @(posedge clk) begin
    full <= go & ~rst;
    if (load) word <= x;
    late <= word;
  end
  assign y = full ? word : 4'd0;
  assign z = full & on ? late : 4'd0;
  \$and #(.A_SIGNED(0), .B_SIGNED(0), .A_WIDTH(1), .B_WIDTH(1), .Y_WIDTH(1))
    gate (.A(go), .B(ready), .Y(load));
endmodule
"""


@pytest.mark.parametrize(
    ("change", "shown", "how"),
    [
        # The word is looked at only where it has just been loaded.
        ("-mode const1 -cell gate -port Y -portbit 0", "y", "nothing depends on"),
        ("-mode const0 -cell gate -port Y -portbit 0", "y", None),
        # What was the word a cycle ago may be looked at although none was loaded then.
        ("-mode const1 -cell gate -port Y -portbit 0", "z", None),
    ],
)
def test_registers_may_differ_while_nothing_depends_on_them(
    change: str, shown: str, how: str | None
) -> None:
    text = re.sub(rf"assign (?!{shown})[yz] = .*;", "", KEPT)
    script = ["read_verilog -icells top.v", "proc", "opt_clean", "write_rtlil top.il"]
    flat = yosys.run(script, {"top.v": text}, ["top.il"], timeout_s=60).files["top.il"]
    found = proof(flat, "top", change, Reset(("rst",), 1))
    assert (found is None) == (how is None) and (how or "") in (found or "")


HELD = r"""
module top(input clk, input other_clk, input rst, input other_rst, input on, input [7:0] x,
           output y, output z);
  reg [1:0] count, twin;
  reg [7:0] kept;
  always @(posedge clk) begin
    kept <= x;
    if (rst) count <= 0; else if (on) count <= count == 2 ? 2'd0 : count + 2'd1;
  end
  always @(posedge other_clk)
    if (other_rst) twin <= 2'd1; else if (on && twin != count) twin <= 2'd2;
  \$and #(.A_SIGNED(0), .B_SIGNED(0), .A_WIDTH(1), .B_WIDTH(1), .Y_WIDTH(1))
    three (.A(&count), .B(&kept), .Y(y));
  \$and #(.A_SIGNED(0), .B_SIGNED(0), .A_WIDTH(1), .B_WIDTH(1), .Y_WIDTH(1))
    none (.A(~|twin), .B(&kept), .Y(z));
endmodule
"""


@pytest.mark.parametrize(
    ("change", "proved"),
    [
        # A count that is held may be 3 for as long as one likes, but that it never becomes.
        ("-mode const0 -cell three -port Y -portbit 0", True),
        ("-mode const0 -cell none -port Y -portbit 0", True),
        ("-mode const1 -cell three -port A -portbit 0", False),
        ("-mode const1 -cell none -port A -portbit 0", False),
    ],
)
def test_values_that_registers_of_several_clocks_never_have_are_known(
    change: str, proved: bool
) -> None:
    script = ["read_verilog -icells top.v", "proc", "opt_clean", "write_rtlil top.il"]
    flat = yosys.run(script, {"top.v": HELD}, ["top.il"], timeout_s=60).files["top.il"]
    found = proof(flat, "top", change, Reset(("rst", "other_rst"), 1))
    assert (found is not None) == proved


LONG = r"""
module top(input clk, input rst, input on, input [7:0] x, output y, output [7:0] z);
  reg [11:0] count;
  reg full, late_full;
  reg [7:0] word, late;
  wire load;
  always @(posedge clk) begin
    if (rst) count <= 0; else if (on) count <= count == 2500 ? 12'd0 : count + 12'd1;
    full <= on & ~rst;
    late_full <= full & ~rst;
    if (load) word <= x;
    late <= word;
  end
  assign z = SHOWN ? late : 8'd0;
  \$and #(.A_SIGNED(0), .B_SIGNED(0), .A_WIDTH(1), .B_WIDTH(1), .Y_WIDTH(1))
    end_ (.A(count == 3000), .B(x[0]), .Y(y));
  \$and #(.A_SIGNED(0), .B_SIGNED(0), .A_WIDTH(1), .B_WIDTH(1), .Y_WIDTH(1))
    gate (.A(on), .B(on | x[7]), .Y(load));
endmodule
"""


@pytest.mark.parametrize(
    ("change", "shown", "how"),
    [
        # Induction would have to look back 500 cycles.
        ("-mode const0 -cell end_ -port Y -portbit 0", "late_full", "by an invariant"),
        ("-mode const1 -cell end_ -port A -portbit 0", "late_full", None),
        # Neither word is looked at unless it was loaded: each has a bit of its own that says so.
        ("-mode const1 -cell gate -port A -portbit 0", "late_full", "in what either design gives"),
        ("-mode const1 -cell gate -port A -portbit 0", "full", None),
    ],
)
def test_what_holds_in_every_state_is_found(change: str, shown: str, how: str | None) -> None:
    script = ["read_verilog -icells top.v", "proc", "opt_clean", "write_rtlil top.il"]
    text = LONG.replace("SHOWN", shown)
    flat = yosys.run(script, {"top.v": text}, ["top.il"], timeout_s=60).files["top.il"]
    found = proof(flat, "top", change, Reset(("rst",), 1))
    assert (found is None) == (how is None) and (how or "") in (found or "")


def test_a_reset_counts_for_as_long_as_it_lasts() -> None:
    text = r"""
module top(input clk, input rst, input x, output reg y);
  reg first;
  \$sdff #(.WIDTH(1), .CLK_POLARITY(1), .SRST_POLARITY(1), .SRST_VALUE(1'b0))
    front (.CLK(clk), .SRST(rst), .D(x), .Q(first));
  \$sdff #(.WIDTH(1), .CLK_POLARITY(1), .SRST_POLARITY(1), .SRST_VALUE(1'b0))
    behind (.CLK(clk), .SRST(rst), .D(first), .Q(y));
endmodule
"""
    script = ["read_verilog -icells top.v", "proc", "opt_clean", "write_rtlil top.il"]
    flat = yosys.run(script, {"top.v": text}, ["top.il"], timeout_s=60).files["top.il"]
    for cell, cycles, proved in (("behind", 1, False), ("behind", 2, True), ("front", 2, False)):
        change = f"-mode const0 -cell {cell} -port SRST -portbit 0"
        assert (proof(flat, "top", change, Reset(("rst",), 1, cycles)) is not None) == proved


@pytest.mark.slow  # .ci/run also runs a sample
def test_the_command_counts_by_file(tmp_path: Path) -> None:
    arguments = ["mutants", "--count", "6", "--seed", "4", "--workers", "1", "--json"]
    done = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path)])
    record = json.loads(done.stdout)
    assert read_records(tmp_path / RECORDS) == [record]
    assert record["tried"] == len(record["mutants"]) == 6
    assert done.exit_code == (0 if record["killed_share"] >= 0.99 else 1), done.output
    verdicts = ("killed", "equivalent", "survived")
    assert record["tried"] == sum(record[each] for each in verdicts)
    for key in ("tried", *verdicts):
        assert record[key] == sum(each[key] for each in record["by_file"].values())
    assert record["cpu_seconds"] > 0 and record["complete"]
    assert all(each["reason"] for each in record["mutants"] if each["verdict"] != "survived")


def test_mutations_name_lines_of_the_source() -> None:
    found = points("mac", netlist(DESIGNS["mac"]), 1)
    folder = Path(evolute.hw.rtl.__file__).parent
    for (file, line), each in found.items():
        assert 0 < line <= len((folder / file).read_text().splitlines())
        assert all(isinstance(mutation, Mutation) for mutation in each)
        assert all("/" not in mutation.change for mutation in each)  # nothing of this machine
