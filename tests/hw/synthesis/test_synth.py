"""Netlists: what they must never contain, and that the figures taken from them add up."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from amaranth.back import verilog
from click.testing import CliRunner

from evolute.front import cli
from evolute.hw.emit.yosys_script import FPGA_MAPPING, fpga_passes
from evolute.hw.rtl.core.buffer import BeatBuffer
from evolute.hw.spec import CoreSpec, Engine, LutTensorCore, Mac
from evolute.hw.spec.core import Buffer
from evolute.hw.spec.presets import PRESETS
from evolute.hw.synthesis import asic, libraries, nextpnr, sram, synth, yosys
from evolute.hw.synthesis.fpga import FAMILIES, Family, Part
from evolute.hw.synthesis.libraries import LIBRARIES, NANGATE45
from evolute.hw.synthesis.tools import ToolError, run_tool
from evolute.support import files, json_schema
from evolute.support.errors import RefusedError, UnknownNameError
from evolute.support.files import FileError

TINY = LutTensorCore(m=1, n=2, k=2, kg=1, activation_bits=4, weight_bits=2, group_size=4)
ROUNDED = TINY.evolve(k=3, activation_bits=8, table_bits=6)
MULTIPLIERS = Mac(m=1, n=2, k=2, activation_bits=4, weight_bits=3, group_size=4)
CORE = CoreSpec(
    engine=TINY,
    bus_bits=64,
    address_bits=16,
    outstanding_reads=1,
    weight_buffer_bytes=1024,
    activation_buffer_bytes=64,
    scale_buffer_bytes=64,
    accumulators=8,
    scale_lanes=2,
    sum_bits=16,
)
ENGINES = {name: each for name, each in PRESETS.items() if isinstance(each.spec, Engine)}


@pytest.fixture(scope="module")
def library() -> str:
    try:
        return libraries.text_of(NANGATE45)
    except FileError as error:
        pytest.skip(f"no cell library: {error}")


@pytest.fixture
def empty_cache(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds the cell library and no results."""
    packed = Path("liberty") / Path(NANGATE45.members[0]).name
    (tmp_path / "liberty").mkdir()
    (tmp_path / packed).symlink_to(files.cache_directory() / packed)
    monkeypatch.setattr(files, "cache_directory", lambda: tmp_path)
    return tmp_path


# The engines.


def check_netlist(spec: Engine) -> asic.AsicResult:
    found = synth.synthesize(spec, "asic")
    assert (found.latches, found.multipliers) == (0, 0)
    assert found.flops > spec.n * spec.acc_bits
    assert found.area_ge == pytest.approx(found.area_um2 / 0.798, abs=0.1)  # NAND2_X1
    assert 0.1 < found.delay_ns < 5
    return found


@pytest.mark.parametrize("spec", [TINY, ROUNDED, MULTIPLIERS], ids=["exact", "rounded", "mac"])
def test_no_latch_and_no_multiplier(spec: Engine, empty_cache: Path) -> None:
    check_netlist(spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_no_latch_and_no_multiplier_in_a_preset(name: str, library: str) -> None:
    spec = PRESETS[name].spec
    assert isinstance(spec, Engine)
    check_netlist(spec)


def test_blocks_sum_to_their_total(library: str) -> None:
    split, whole = synth.split_area(TINY), synth.synthesize(TINY, "asic")
    blocks = split.blocks
    parts = {"operands", "multiply", "accumulators", "sequencer"}
    assert set(blocks) == parts | {"lut_tensor_core"}
    assert sum(block.area_um2 for block in blocks.values()) == pytest.approx(split.area_um2)
    assert all(0 <= block.register_um2 <= block.area_um2 for block in blocks.values())
    assert blocks["multiply"].register_um2 == 0  # combinational by its contract
    # Registers have one size; some that are equal across blocks merge in the flattened netlist.
    registers = sum(block.register_um2 for block in blocks.values()) / 4.522  # DFF_X1
    assert registers == pytest.approx(round(registers), abs=1e-3)
    assert whole.flops <= round(registers) <= 1.05 * whole.flops
    assert 0.9 < split.area_um2 / whole.area_um2 < 1.2


def test_more_columns_cost_more(library: str) -> None:
    wide = synth.synthesize(TINY.evolve(n=4), "asic")
    assert wide.area_um2 > synth.synthesize(TINY, "asic").area_um2


@pytest.mark.parametrize("family", ["ice40", "gowin"])
def test_mapped_family_has_counts_and_no_invented_clock(family: str) -> None:
    found = synth.synthesize(TINY, family)
    assert isinstance(found, synth.FpgaResult)
    assert found.lut > 0 and found.ff > 0 and (found.bram, found.dsp) == (0, 0)
    assert found.device == FAMILIES[family].parts[0].name
    assert found.fmax_mhz is None and found.fmax_is.startswith("none: ")


@pytest.mark.slow
def test_xilinx_has_counts() -> None:
    found = synth.synthesize(TINY, "xilinx")
    assert isinstance(found, synth.FpgaResult)
    assert found.lut > 0 and found.ff > 0 and (found.bram, found.dsp) == (0, 0)


def test_ecp5_is_placed_and_routed() -> None:
    found = synth.synthesize(TINY, "ecp5")
    assert isinstance(found, synth.FpgaResult)
    assert found.lut > 0 and found.ff > 0 and (found.bram, found.dsp) == (0, 0)
    assert found.fmax_mhz is not None and 20 < found.fmax_mhz < 500
    # Every mapped flip-flop is placed on the device's 24,288.
    assert found.utilization["TRELLIS_FF"] == pytest.approx(found.ff / 24_288, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ice40", "ecp5"])
def test_fpga_preset_fits_the_smallest_part(family: str) -> None:
    found = synth.synthesize(PRESETS["lut-fpga"].spec, family)
    assert isinstance(found, synth.FpgaResult)
    assert found.device == FAMILIES[family].parts[0].name
    assert found.lut > 0 and found.ff > 0 and (found.bram, found.dsp) == (0, 0)


# Cores.


@pytest.mark.parametrize("family", ["ecp5", "ice40", pytest.param("gowin", marks=pytest.mark.slow),
                                    pytest.param("xilinx", marks=pytest.mark.slow),
                                    pytest.param("xilinx-us", marks=pytest.mark.slow)])  # fmt: skip
def test_a_buffer_is_block_memory_and_nothing_else(family: str) -> None:
    """No flip-flop, and no logic that would make up for what a block memory cannot do."""
    buffer = BeatBuffer(Buffer("weight", bus_words=2048, bus_bits=64, beat_bits=64))
    text = verilog.convert(buffer, name="t", strip_internal_attrs=True)
    script = [*fpga_passes(family, "t.v", "t"), "tee -q -o s.json stat -json"]
    run = yosys.run(script, {"t.v": text}, ("s.json",), timeout_s=120)
    used = FAMILIES[family].usage(yosys.cell_counts(run.files["s.json"]))
    assert used.pop("bram") >= 2048 * 64 / (36 * 1024)
    assert set(used.values()) == {0}


def test_large_memories_of_a_core_are_listed_and_small_ones_are_logic(library: str) -> None:
    found = synth.synthesize(CORE, "asic")
    (weights,) = found.memories
    assert (weights.words, weights.bits) == (128, 64) and "weight" in weights.name
    assert (weights.read_ports, weights.write_ports) == (1, 1)
    assert found.memory_bits == 8192 and found.cells["$mem_v2"] == 1
    kept_bits = (64 + 64) * 8 + CORE.accumulators * CORE.sum_bits
    kept_bits += CORE.fetch_words * CORE.bus_bits
    assert found.flops > kept_bits
    assert found.latches == 0 and found.multipliers >= 2 * CORE.scale_lanes
    model = sram.sram(128, 64, shared_port=False)
    assert model is not None and weights.area_um2 == pytest.approx(model.area_um2, abs=1e-2)
    assert found.total_area_um2 == pytest.approx(found.area_um2 + model.area_um2, abs=1e-2)
    assert sram.SOURCE in found.delay_is
    # A path from the memory takes its access time at least.
    assert found.delay_ns > model.access_ns


def test_memories_without_figures_leave_the_whole_unknown(library: str) -> None:
    found = asic.map_asic(MEMORY, "t", LIBRARIES["sky130hd"])
    assert found.total_area_um2 is None and found.memories[0].area_um2 is None
    assert "memories without access time" in found.delay_is
    assert asic.map_asic(MEMORY, "t").total_area_um2 is not None


@pytest.mark.slow
def test_a_large_block_is_split_in_turn(library: str) -> None:
    split = synth.split_area(CORE)
    assert sum(block.area_um2 for block in split.blocks.values()) == pytest.approx(split.area_um2)
    assert all(block.area_um2 >= -1e-3 for block in split.blocks.values())
    assert {"core", "dispatch", "store"} <= set(split.blocks)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["xilinx", "xilinx-us"])
def test_core_preset_maps_to_a_xilinx_part(family: str) -> None:
    spec = PRESETS["core-fpga"].spec
    found = synth.synthesize(spec, family)
    assert isinstance(found, synth.FpgaResult)
    assert isinstance(spec, CoreSpec)
    assert found.device == FAMILIES[family].parts[0].name
    bits = sum(getattr(spec, f"{buffer.name}_buffer_bytes") * 8 for buffer in spec.buffers)
    assert found.bram >= bits / (18 * 1024) and found.dsp >= spec.scale_lanes
    assert set(found.utilization) == {"lut", "ff", "bram", "dsp"}


@pytest.mark.slow
def test_core_preset_meets_its_clock_on_ecp5() -> None:
    spec = PRESETS["core-fpga"].spec
    assert isinstance(spec, CoreSpec)
    found = synth.synthesize(spec, "ecp5")
    assert isinstance(found, synth.FpgaResult)
    assert found.fmax_mhz is not None and found.fmax_mhz > spec.clock_mhz
    path = found.critical_path
    assert [hop.at_ns for hop in path] == sorted(hop.at_ns for hop in path)
    assert path[-1].at_ns <= 1000 / found.fmax_mhz + 0.01
    assert any(hop.source and hop.source.startswith("hw/rtl/") for hop in path)


REPORT = {
    "critical_paths": [
        {"from": "<async>", "to": "posedge c", "path": []},
        {
            "from": "posedge c",
            "to": "posedge c",
            "path": [
                {"type": "clk-to-q", "delay": 0.5, "from": {}, "to": {}},
                {"type": "routing", "delay": 1.0, "net": "a.count[3]", "from": {}, "to": {}},
                {"type": "logic", "delay": 0.25, "from": {}, "to": {}},
                {"type": "routing", "delay": 0.0, "net": "carry", "from": {}, "to": {}},
                {"type": "routing", "delay": 2.0, "net": "_7__Z_LUT4_A", "from": {}, "to": {}},
                {"type": "setup", "delay": 0.1, "from": {}, "to": {}},
            ],
        },
    ]
}
NETLIST = {
    "modules": {
        "t": {
            "netnames": {
                "a.count": {"attributes": {"src": "top.v:12.8-12.13"}},
                "other": {"attributes": {"src": "/usr/share/cells.v:4.1-4.2"}},
            },
            "cells": {"_7_": {"attributes": {"src": "cells.v:9.1-9.5|top.v:30.3-30.9"}}},
        }
    }
}


def test_a_slowest_path_leads_to_lines_of_the_verilog() -> None:
    declared = nextpnr.declared_lines(json.dumps(NETLIST))
    assert declared == {"a.count": 12, "_7_": 30}
    hops = list(nextpnr.slowest_path(REPORT, "posedge c", declared))
    assert hops == [
        nextpnr.Hop(1.5, "a.count[3]", 12),
        nextpnr.Hop(3.75, "_7__Z_LUT4_A", 30),
    ]


# The checks see what they look for.

LATCH = "module t(input e, c, d, output reg q); always @* if (e) q = c ^ d; endmodule"
PRODUCT = """
module t(input clk, input [7:0] a, b, output reg [15:0] q);
  always @(posedge clk) q <= a * b;
endmodule
"""
MEMORY = """
module t(input clk, we, input [7:0] a, b, input [31:0] d, output reg [31:0] q);
  reg [31:0] kept [255:0];
  always @(posedge clk) begin
    if (we) kept[a] <= d;
    q <= kept[b];
  end
endmodule
"""
SUM = PRODUCT.replace("a * b", "q + a")  # which has a path between registers
LOOP = "module t(input a, output y); assign y = ~(y & a); endmodule"
UNDRIVEN = "module t(input a, output y); wire b; assign y = a & b; endmodule"


def test_a_latch_is_refused(empty_cache: Path) -> None:
    with pytest.raises(ToolError, match="t: has 1 latches, of which no timing is known here"):
        asic.map_asic(LATCH, "t")


def test_a_multiplier_is_counted(empty_cache: Path) -> None:
    found = asic.map_asic(PRODUCT, "t")
    assert (found.multipliers, found.latches, found.flops) == (1, 0, 16)


@pytest.mark.parametrize("verilog", [LOOP, UNDRIVEN, "module t(input a; endmodule"])
def test_broken_verilog_is_refused_in_one_line(verilog: str, empty_cache: Path) -> None:
    with pytest.raises(ToolError, match=r"^yosys: .*ERROR") as refused:
        asic.map_asic(verilog, "t")
    assert "\n" not in str(refused.value)
    assert not (empty_cache / "synth").exists()


def test_an_unknown_cell_is_no_count() -> None:
    with pytest.raises(ToolError, match="unknown cell SB_NEW"):
        FAMILIES["ice40"].usage({"SB_LUT4": 3, "SB_NEW": 1})


def test_carry_cells_count_as_the_tables_they_displace() -> None:
    used = FAMILIES["ecp5"].usage({"LUT4": 3, "CCU2C": 2, "PFUMX": 5, "TRELLIS_FF": 1})
    assert used == {"lut": 7, "ff": 1, "bram": 0, "dsp": 0}
    assert FAMILIES["ecp5"].usage({"TRELLIS_DPR16X4": 2})["lut"] == 12
    assert FAMILIES["xilinx-us"].usage({"RAMB36E2": 3, "RAMB18E2": 1})["bram"] == 7


def test_a_part_keeps_a_tenth_to_spare() -> None:
    family = FAMILIES["ice40"]
    small, large = family.parts

    def smallest(**used: int) -> str | None:
        part = family.smallest_part({"lut": 1, "ff": 1, "bram": 0, "dsp": 0} | used)
        return part and part.name

    assert smallest(lut=int(small.lut * 0.9)) == small.name
    assert smallest(lut=small.lut) == large.name
    assert smallest(lut=large.lut) is None
    assert smallest(bram=small.bram) == small.name
    assert smallest(bram=small.bram + 1) == large.name
    assert smallest(dsp=small.dsp) == small.name
    assert smallest(lut=small.lut, dsp=1) is None  # the larger part has no multipliers
    assert small.shares({"lut": 528, "dsp": 2}) == {"lut": 0.1, "dsp": 0.25}


def test_a_part_can_be_asked_for() -> None:
    assert FAMILIES["ecp5"].part("LFE5U-45F") == FAMILIES["ecp5"].parts[1]
    with pytest.raises(UnknownNameError, match=r"unknown ecp5 part .* mean LFE5U-85F"):
        synth.synthesize(TINY, "ecp5", device="LFE5U-86F")
    with pytest.raises(RefusedError, match=r"^asic: has no parts"):
        synth.synthesize(TINY, "asic", device="LFE5U-85F")
    found = synth.synthesize(TINY, "gowin", device="GW2A-18")
    assert isinstance(found, synth.FpgaResult) and found.device == "GW2A-18"


# Results are kept, and only as long as they hold.


def test_a_result_is_computed_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Callable[..., yosys.ScriptResult] = yosys.run
    runs = 0

    def counted(*arguments: Any, **named: Any) -> yosys.ScriptResult:
        nonlocal runs
        runs += 1
        return run(*arguments, **named)

    monkeypatch.setattr(yosys, "run", counted)
    first = asic.map_asic(PRODUCT, "t")
    assert asic.map_asic(PRODUCT, "t") == first and runs == 1
    assert asic.map_asic(PRODUCT.replace("a * b", "a + b"), "t") != first and runs == 2
    monkeypatch.setattr(yosys, "version", lambda: "Yosys 99")
    asic.map_asic(PRODUCT, "t")
    assert runs == 3


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda each: each.name)
def test_another_part_or_seed_is_not_synthesized_again(
    family: Family, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a design is placed, that is done for each; what is placed is the same netlist."""
    run, place = yosys.run, nextpnr.place
    calls: list[str] = []

    def counted(*arguments: Any, **named: Any) -> yosys.ScriptResult:
        calls.append("mapped")
        return run(*arguments, **named)

    def placed(netlist: str, part: Part, seed: int, timeout_s: float) -> nextpnr.Placement:
        calls.append(f"{part.name} {seed}")
        return place(netlist, part, seed, timeout_s)

    monkeypatch.setattr(yosys, "run", counted)
    monkeypatch.setattr(nextpnr, "place", placed)
    small, large = family.parts[0], family.parts[-1]
    found = [
        synth.map_fpga(SUM, "t", family, seed, part)
        for part, seed in ((small, 1), (large, 1), (large, 2), (large, 2), (small, 1))
    ]
    assert [each.device for each in found] == [
        *(small.name, large.name, large.name, large.name, small.name)
    ]
    assert found[0] == found[4] and found[2] == found[3]
    assert len({(each.lut, each.ff, each.dsp) for each in found}) == 1
    assert calls.count("mapped") == 1
    places = [f"{small.name} 1", f"{large.name} 1", f"{large.name} 2"]
    assert calls[1:] == (places if family.name == nextpnr.FAMILY else [])


# The tools.


def test_a_slow_tool_ends_with_its_children(tmp_path: Path) -> None:
    script = "sleep 60 & echo $! > child; wait"
    with pytest.raises(ToolError, match=r"longer than 0\.5 s"):
        run_tool("sh", ["sh", "-c", script], tmp_path, timeout_s=0.5)
    status = Path("/proc") / (tmp_path / "child").read_text().strip() / "status"
    for _ in range(50):
        if not status.exists() or "State:\tZ" in status.read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the tool's child still runs")


def test_a_failing_tool_is_quoted(tmp_path: Path) -> None:
    script = "print('Error: reason'); print('bye'); raise SystemExit(3)"
    with pytest.raises(ToolError, match=r"^t: stopped with code 3: Error: reason$"):
        run_tool("t", [sys.executable, "-c", script], tmp_path, timeout_s=30)


def test_a_netlist_that_cannot_be_placed_is_refused() -> None:
    with pytest.raises(ToolError, match=r"^nextpnr-ecp5: stopped .*ERROR: "):
        nextpnr.place("{}", FAMILIES["ecp5"].parts[0], seed=1, timeout_s=60)


# The command.


def test_command_reports_blocks(library: str, tmp_path: Path) -> None:
    changes = [f"--set={name}={value}" for name, value in TINY.to_dict().items() if name != "kind"]
    arguments = ["synth", "lut-fpga", "--target", "asic", "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(cli, [*arguments, *changes], catch_exceptions=False)
    document = json.loads(done.stdout)
    assert document["digest"] == TINY.digest
    assert document["area_um2"] == synth.synthesize(TINY, "asic").area_um2
    parts_ge = sum(block["area_ge"] for block in document["blocks"].values())
    assert parts_ge == pytest.approx(document["blocks_area_ge"], abs=1)
    assert files.read_records(tmp_path / files.RECORDS) == [document]
    json_schema.require(document)


def test_unknown_target_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean ecp5"):
        synth.synthesize(TINY, "ecp")


def test_every_family_has_a_mapping() -> None:
    assert FPGA_MAPPING.keys() == FAMILIES.keys()
