"""A check of the checks: faults put into the RTL or the model must be found."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

import evolute
from hw.export import to_verilog
from hw.rtl import BUILD, sequencer
from hw.rtl import lut_tensor_core as engine
from hw.spec.lut_tensor_core import LutTensorCore
from verif.verify import verify

SPEC = LutTensorCore(m=2, n=3, k=3, kg=2, activation_bits=5, weight_bits=3, group_size=13)


@dataclass(frozen=True)
class Mutant:
    """A fault: a piece of RTL source and what takes its place."""

    name: str
    module: ModuleType
    old: str
    new: str
    found_in: str
    """Words that the account of some difference must contain."""


MUTANTS = (
    Mutant(
        "sign: negation without its carry",
        engine,
        "negate_if(value, sign) + sign",
        "negate_if(value, sign)",
        "psum",
    ),
    Mutant(
        "tree: drops its first table",
        engine,
        "enumerate(tables)",
        "enumerate(tables[1:], 1)",
        "psum",
    ),
    Mutant(
        "shift: ternary planes weighed as binary ones",
        engine,
        "Mux(sequencer.ternary, 0, sequencer.plane)",
        "sequencer.plane",
        "psum",
    ),
    Mutant(
        "accumulator: not cleared at the start of a group",
        engine,
        "Mux(clear, 0, total)",
        "total",
        "psum",
    ),
    Mutant(
        "row sums: added once per plane",
        engine,
        '"add_sums": sequencer.plane == 0',
        '"add_sums": Const(1)',
        "row_sum",
    ),
    Mutant(
        "activations: leftover code taken at its value",
        engine,
        "Mux(value == lowest - 1, lowest, value)",
        "value",
        "corner leftover",
    ),
    Mutant(
        "groups: a tile's end does not end its last one",
        sequencer,
        '(in_group == limit["group_slices_minus_1"]) | last_slice',
        'in_group == limit["group_slices_minus_1"]',
        "golden",
    ),
    Mutant(
        "weights: a bubble after every beat",
        engine,
        "self.weight.ready.eq(~code_valid | step)",
        "self.weight.ready.eq(~code_valid)",
        "moves in cycle",
    ),
    Mutant(
        "activations: taken without valid",
        engine,
        "held_valid.eq(self.activation.valid)",
        "held_valid.eq(1)",
        "stall activation",
    ),
    Mutant(
        "result: overwritten while it waits",
        engine,
        "self.ready.eq(~self.result.valid | self.result.ready)",
        "self.ready.eq(1)",
        "before",
    ),
    Mutant(
        "result: valid follows ready",
        engine,
        "wiring.connect(m, accumulators.result, wiring.flipped(self.result))",
        "m.d.comb += [self.result.payload.eq(accumulators.result.payload),"
        " self.result.valid.eq(accumulators.result.valid & self.result.ready),"
        " accumulators.result.ready.eq(self.result.ready)]",
        "valid follows ready",
    ),
    Mutant(
        "reset: a held weight survives",
        engine,
        "code_valid = Signal()",
        "code_valid = Signal(reset_less=True)",
        "reset during",
    ),
)


def mutated(mutant: Mutant) -> ModuleType:
    """The module with its fault; fails if the RTL no longer has the place that the fault is for."""
    source = inspect.getsource(mutant.module)
    assert source.count(mutant.old) == 1, f"{mutant.name}: update the mutant to the RTL"
    module = ModuleType(mutant.module.__name__)
    exec(compile(source.replace(mutant.old, mutant.new), mutant.name, "exec"), vars(module))
    return module


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_fault_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    module = mutated(mutant)
    if mutant.module is sequencer:
        monkeypatch.setattr(engine, "Sequencer", module.Sequencer)
    else:
        monkeypatch.setitem(BUILD, LutTensorCore, module.LutTensorCoreEngine)
    report = verify(SPEC, seed=1, verilog=to_verilog(SPEC))
    assert any(mutant.found_in in difference for difference in report.differences)


@pytest.mark.parametrize("latency", ["operand_latency_cycles", "step_latency_cycles"])
@pytest.mark.parametrize("error", [-1, 1])
def test_wrong_latency_is_found(latency: str, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = getattr(SPEC, latency) + error
    monkeypatch.setattr(LutTensorCore, latency, property(lambda _: wrong))
    report = verify(SPEC, seed=1, kinds=["corners"])
    assert report.rtl_cycles != report.model_cycles
    assert any("moves in cycle" in difference for difference in report.differences)


def test_command_exits_with_1_and_names_what_differs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(LutTensorCore, "step_latency_cycles", property(lambda _: 3))
    arguments = ["verify", "lut-fpga", "--set", "n=2", "--json", "--out", str(tmp_path)]
    result = CliRunner().invoke(evolute.cli, arguments)
    assert result.exit_code == 1
    record = json.loads(result.stdout)
    assert record["mismatches"] == len(record["differences"]) > 0
    assert record["cycles"]["rtl"] < record["cycles"]["model"]
    assert f"spec {record['digest']} seed 1 case 'formats'" in record["differences"][0]


def test_design_without_fault_passes() -> None:
    assert not verify(SPEC, seed=1).differences
