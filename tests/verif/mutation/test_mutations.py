"""A check of the checks: faults put into the RTL or the model must be found."""

from __future__ import annotations

import functools
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from _pytest.mark import ParameterSet
from click.testing import CliRunner

from evolute import front
from evolute.hw.emit.export import to_verilog
from evolute.hw.rtl.blocks import arith, floating
from evolute.hw.rtl.core import sequencer
from evolute.hw.rtl.engines import (
    bit_serial,
    engine,
    lut_dla,
    lut_tensor_core,
    mac,
    vq_codebook,
)
from evolute.hw.rtl.engines import (
    floating as float_engines,
)
from evolute.hw.spec import (
    BASELINES,
    BitSerial,
    Engine,
    FloatLut,
    FloatMac,
    LutDla,
    LutTensorCore,
    Mac,
    VqCodebook,
    engine_of,
)
from evolute.verif.engines.floating import SMALL
from evolute.verif.harness.verify import verify
from evolute.verif.mutation import planted as mutants

SPEC = LutTensorCore(m=2, n=3, k=3, kg=2, activation_bits=5, weight_bits=3, group_size=13)
SUBSETS = SPEC.evolve(mirrored=False, planes_per_step=2, weight_bits=4)
DIGITS = SPEC.evolve(base=3, weight_bits=2)
MULTIPLIERS = Mac(m=2, n=3, k=5, activation_bits=5, weight_bits=5, group_size=13)
SYSTOLIC = MULTIPLIERS.evolve(k=1, arrangement="systolic")
CODEWORDS = VqCodebook(n=4, k=2, v=2, entries=4, activation_bits=5, weight_bits=5, group_size=13)
PLANES = BitSerial(m=2, n=3, k=5, terms="planes", activation_bits=5, weight_bits=4, group_size=13)
CENTROIDS = LutDla(
    m=2, n=3, v=3, centroids=8, lanes=4, activation_bits=4, weight_bits=4, group_size=13
)
FLOATS = PLANES.evolve(terms="bitmod", weight_bits=5)
PAIRS = PLANES.evolve(terms="and")
SKIPS = PLANES.evolve(terms="booth", skips=True, weight_bits=6)
FLOAT_MAC = FloatMac(m=1, n=1, k=2, weights="fp16", weight_bits=3, group_size=13)
FLOAT_LUT = FloatLut(m=1, n=2, k=3, weight_bits=3, group_size=13)


@dataclass(frozen=True)
class Mutant(mutants.PlantedFault):
    spec: Engine = SPEC


MUTANTS = (
    Mutant(
        "sign: negation without its carry",
        lut_tensor_core,
        "carry = negative & ~shared if spec.shared_bits else negative",
        "carry = Const(0)",
        "psum",
    ),
    Mutant(
        "tree: drops its first table",
        lut_tensor_core,
        "enumerate(of_row)",
        "enumerate(of_row[1:], 1)",
        "psum",
    ),
    Mutant(
        "shift: ternary planes weighed as binary ones",
        lut_tensor_core,
        "Mux(sequencer.mode == 1, 0, sequencer.plane)",
        "sequencer.plane",
        "psum",
    ),
    Mutant(
        "planes: of one step weighed alike",
        lut_tensor_core,
        "Cat(Const(0, plane), value[:-1], ~value[-1])",
        "Cat(value[:-1], ~value[-1])",
        "psum",
        SUBSETS,
    ),
    Mutant(
        "shift: a step of two planes counted as one",
        lut_tensor_core,
        "Cat(Const(0, log2(self.spec.planes_per_step)), sequencer.plane)",
        "sequencer.plane",
        "psum",
        SUBSETS,
    ),
    Mutant(
        "digits: the last entry never selected",
        lut_tensor_core,
        "places[1 : spec.entries + 1]",
        "[*places[1 : spec.entries], Const(0, 1)]",
        "psum",
        DIGITS,
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
        '"add_sums": sequencer.first_of_slice',
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
        '(in_group == fields["group_slices_minus_1"]) | last_slice',
        'in_group == fields["group_slices_minus_1"]',
        "golden",
    ),
    Mutant(
        "slices: counted modulo 4,096",
        sequencer,
        "count.eq(Mux(full, 0, count + 1))\n            return",
        "count.eq(Mux(full, 0, (count + 1)[:12]))\n            return",
        "case 'slices from 8192'",
    ),
    Mutant(
        "weights: a bubble after every beat",
        engine,
        "self.weight.ready.eq(~code_valid | used)",
        "self.weight.ready.eq(~code_valid)",
        "cycle of",
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
    Mutant(
        "operands: kept for a slice too long",
        engine,
        'moves = Signal(name="moves") if prepares else release',
        'moves = Signal(name="moves") if prepares else release & ~self.activation.valid',
        "cycle of",
        MULTIPLIERS,
    ),
    Mutant(
        "products: negation without its carry",
        arith,
        "Cat(Const(0, place), negative)",
        "Cat(Const(0, place), Const(0, 1))",
        "psum",
        CODEWORDS,
    ),
    Mutant(
        "products: the digit 2 only where it is negative",
        arith,
        "(high & ~middle & ~below) | (~high & middle & below)",
        "high & ~middle & ~below",
        "psum",
        CODEWORDS,
    ),
    Mutant(
        "short codewords: in their first part at every turn",
        vq_codebook,
        "whole | (sequencer.plane == part)",
        "whole | (sequencer.plane == 0 * part)",
        "psum",
        CODEWORDS.evolve(short_v=1),
    ),
    Mutant(
        "multipliers: every row takes the first row's activations",
        mac,
        "range(row * spec.k, (row + 1) * spec.k)",
        "range(spec.k)",
        "psum of row 1",
        MULTIPLIERS,
    ),
    Mutant(
        "multipliers: the tree drops a product",
        mac,
        "zip(x, codes, strict=True)",
        "zip(x[1:], codes[1:], strict=True)",
        "psum",
        MULTIPLIERS,
    ),
    Mutant(
        "multipliers: the sign bit counts as positive",
        mac,
        "other = x.negative if place == len(code) - 2 else x.triple",
        "other = x.triple",
        "psum",
        MULTIPLIERS,
    ),
    Mutant(
        "systolic: sums start in all columns at once",
        mac,
        'first = later(f"first{column}", first)',
        "pass",
        "psum",
        SYSTOLIC,
    ),
    Mutant(
        "systolic: a group ends while results wait",
        engine,
        "return ~(sequencer.last & held & ~leaves)",
        "return Const(1)",
        "before",
        SYSTOLIC,
    ),
    Mutant(
        "systolic: nothing to multiply is multiplied",
        mac,
        "operands & step.replicate(len(operands))",
        "operands",
        "psum",
        SYSTOLIC,
    ),
    Mutant(
        "systolic: reset leaves the end of a group on its way",
        mac,
        'later(f"last{column}", last, reset_less=False)',
        'later(f"last{column}", last)',
        "reset during",
        SYSTOLIC.evolve(n=9, group_size=1),
    ),
    Mutant(
        "systolic: a result waits for the first column only",
        mac,
        "self.ended.eq(last)  # the last of these assignments holds",
        "self.ended.eq(columns[0][2])",
        "psum",
        SYSTOLIC,
    ),
    Mutant(
        "shift and add: the sign bit counts as positive",
        mac,
        "masked(x.negative, code[top]) << top",
        "masked(x.x, code[top]) << top",
        "psum",
        MULTIPLIERS.evolve(multiplier="shift_add"),
    ),
    Mutant(
        "planes: the top one is added",
        bit_serial,
        "top, bits = sequencer.last_of_slice",
        "top, bits = Const(0)",
        "psum",
        PLANES,
    ),
    Mutant(
        "signed sums: the constant is of one value too few",
        arith,
        "Const(-(len(values) <<",
        "Const(-(len(values) - 1 <<",
        "psum",
        PLANES,
    ),
    Mutant(
        "digits: as many steps for every integer",
        bit_serial,
        "mode[: self.spec.digit_bits]",
        "Const(self.spec.digits - 1)",
        "cycle of",
        FLOATS,
    ),
    Mutant(
        "special value: 16 also has a lower term",
        bit_serial,
        "~far | upper",
        "Const(1)",
        "psum",
        FLOATS,
    ),
    Mutant(
        "special value: of the first column in all of them",
        bit_serial,
        "specials[i // spec.k]",
        "specials[0]",
        "psum",
        FLOATS,
    ),
    Mutant(
        "floats: integers have the special value, too",
        bit_serial,
        "is_float & c0 & (c3 ^ c2)",
        "c0 & (c3 ^ c2)",
        "psum",
        FLOATS,
    ),
    Mutant(
        "floats: 8 has the lower term of 5",
        bit_serial,
        "~(of_five & upper)",
        "~of_five",
        "psum",
        FLOATS,
    ),
    Mutant(
        "centroids: of two at equal distances in a beat the later is taken",
        lut_dla,
        "high.distance < low.distance",
        "high.distance <= low.distance",
        "psum",
        CENTROIDS,
    ),
    Mutant(
        "centroids: of two at equal distances the one of the later beat is taken",
        lut_dla,
        "distance < kept_distance",
        "distance <= kept_distance",
        "psum",
        CENTROIDS,
    ),
    Mutant(
        "centroids: a slice's first beat competes with the slice before",
        lut_dla,
        "sequencer.first_of_slice | (",
        "Const(0) | (",
        "psum",
        CENTROIDS,
    ),
    Mutant(
        "centroids: every beat adds",
        lut_dla,
        "best & sequencer.last_of_slice.replicate(len(best))",
        "best",
        "psum",
        CENTROIDS,
    ),
    Mutant(
        "centroids: kept while the engine waits",
        lut_dla,
        "with m.If(self.step):",
        "with m.If(sequencer.valid):",
        "psum",
        CENTROIDS,
    ),
    Mutant(
        "distance: a magnitude without the carry of its negation",
        lut_dla,
        "(flipped + negative)",
        "flipped",
        "psum",
        CENTROIDS,
    ),
    Mutant(
        "distance: the last activation decides alone",
        lut_dla,
        "Mux(part > greatest, part, greatest)",
        "part",
        "psum",
        CENTROIDS.evolve(metric="chebyshev"),
    ),
    Mutant(
        "distance: its top bit is lost",
        lut_dla,
        "[: spec.distance_bits]",
        "[: spec.distance_bits - 1]",
        "psum",
        CENTROIDS.evolve(metric="l2"),
    ),
    Mutant(
        "saturation: at the other end",
        arith,
        "Cat((~value[-1]).replicate(bits - 1), value[-1])",
        "Cat(value[-1].replicate(bits - 1), ~value[-1])",
        "psum",
        CENTROIDS.evolve(overflow="saturate", accumulator_bits=5),
    ),
    Mutant(
        "saturation: sums wrap",
        engine,
        "spec.acc_bits, addend, spec.saturates)",
        "spec.acc_bits, addend)",
        "psum",
        CENTROIDS.evolve(overflow="saturate", accumulator_bits=5),
    ),
    Mutant(
        "skipped steps: digits keep the places of those skipped",
        bit_serial,
        "any_of(taken for i, taken in enumerate(self._taken) if i >> bit & 1)",
        "sequencer.beat_step[bit]",
        "psum",
        SKIPS,
    ),
    Mutant(
        "skipped steps: none is",
        bit_serial,
        "self._last = Mux(before == 0, 0, before - 1)",
        "self._last = Const(self.spec.digits - 1)",
        "cycle of",
        SKIPS,
    ),
    Mutant(
        "skipped planes: the one that is subtracted is the widest code's",
        bit_serial,
        "taken & (sequencer.mode == i)",
        "taken & (i == self.spec.digits - 1)",
        "psum",
        PLANES.evolve(skips=True),
    ),
    Mutant(
        "skipped steps of floats: terms of the other step",
        bit_serial,
        "zip(steps, float_terms(value), strict=False)",
        "zip(steps[1::-1], float_terms(value), strict=False)",
        "psum",
        FLOATS.evolve(skips=True),
    ),
    Mutant(
        "pairs: the sign plane of the activations is added",
        bit_serial,
        "(negate_if(ones, negative) + negative)",
        "ones",
        "psum",
        PAIRS,
    ),
    Mutant(
        "pairs: the planes of the activations weigh the same",
        bit_serial,
        "sequencer.plane + step - below",
        "sequencer.plane",
        "psum",
        PAIRS,
    ),
    Mutant(
        "pairs of signs: zero counts as one",
        bit_serial,
        "[Const(0, 1), *value[:-1], ~value[-1]]",
        "[Const(1, 1), *value[:-1], ~value[-1]]",
        "psum",
        PAIRS.evolve(terms="xnor"),
    ),
    Mutant(
        "floating sums: halves away from zero",
        floating,
        "half & (high[0] | below | bits[: -precision - 1].any())",
        "half",
        "psum",
        FLOAT_MAC,
    ),
    Mutant(
        "floating sums: rounding up does not carry into the exponent",
        floating,
        "(large[widest:] + 1 + up - zeros)",
        "(large[widest:] + 1 - zeros)",
        "case 'binades'",
        SMALL["float-mac"],
    ),
    Mutant(
        "floating sums: what is shifted out is forgotten",
        floating,
        "lost = lost | (taken & shifted[:shift].any())",
        "pass",
        "psum",
        FLOAT_MAC,
    ),
    Mutant(
        "floating sums: of numbers that differ in low bits alone, the smaller is the larger",
        floating,
        'named(m, f"{name}_swap", keys[1] > keys[0])',
        'named(m, f"{name}_swap", (keys[1] | 16) > keys[0])',
        "case 'pairs'",
        SMALL["float-mac"],
    ),
    Mutant(
        "floating sums: what is not shifted out counts as lost, too",
        floating,
        "lost = lost | (taken & shifted[:shift].any())",
        "lost = lost | ((taken | (place == 0)) & shifted[:shift].any())",
        "case 'pairs'",
        SMALL["float-mac"],
    ),
    Mutant(
        "floating products: a zero has an exponent",
        floating,
        "top)[: range_.exponent_bits]\n    exponent = exponent & nonzero.replicate(",
        "top)[: range_.exponent_bits]\n    exponent = exponent | Const(0, ",
        "case 'tiny'",
        SMALL["float-mac"],
    ),
    Mutant(
        "floating numbers: infinity stays one",
        floating,
        "Mux(magnitude <= kind.largest_code, magnitude, kind.largest_code)",
        "magnitude",
        "corner not finite",
        FLOAT_LUT,
    ),
    Mutant(
        "floating pipeline: steps that there are not",
        float_engines,
        "operands & step.replicate(len(operands))",
        "operands",
        "psum",
        FLOAT_MAC,
    ),
)


def modules_of(spec: Engine) -> list[ModuleType]:
    """What an engine is made of, each after those that it imports from."""
    if type(spec) in BASELINES.values():
        own = [floating, float_engines]
    else:
        own = [importlib.import_module(f"evolute.hw.rtl.engines.{engine_of(spec)}")]
    return [arith, sequencer, engine, *own]


@functools.cache
def sound_verilog(spec: Engine) -> str:
    return to_verilog(spec)


def parameters() -> list[ParameterSet]:
    """Each fault by its name; of those that show in one design in one way, the first is enough for
    every day."""
    found, known = [], set()
    for mutant in MUTANTS:
        way = (mutant.spec, mutant.found_in)
        marks = [pytest.mark.slow] * (way in known)
        known.add(way)
        found.append(pytest.param(mutant, id=mutant.name, marks=marks))
    return found


@pytest.mark.parametrize("mutant", parameters())
def test_fault_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = sound_verilog(mutant.spec)
    mutants.put_in(mutant, type(mutant.spec), modules_of(mutant.spec), monkeypatch)
    broken = to_verilog(mutant.spec)
    assert broken != sound
    report = verify(mutant.spec, seed=1, verilog=broken)
    assert any(mutant.found_in in difference for difference in report.differences)


@pytest.mark.parametrize("latency", ["operand_latency_cycles", "step_latency_cycles"])
@pytest.mark.parametrize("error", [-1, 1])
def test_wrong_latency_is_found(latency: str, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = getattr(SPEC, latency) + error
    built = sound_verilog(SPEC)  # the RTL reads the operands' latency, too
    monkeypatch.setattr(LutTensorCore, latency, property(lambda _: wrong))
    report = verify(SPEC, seed=1, kinds=["corners"], verilog=built)
    assert report.rtl_cycles != report.model_cycles
    assert any("cycle of" in difference for difference in report.differences)


def test_command_exits_with_1_and_names_what_differs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(LutTensorCore, "step_latency_cycles", property(lambda _: 3))
    arguments = ["verify", "lut-fpga", "--set", "n=2", "--json", "--out", str(tmp_path)]
    result = CliRunner().invoke(front.cli, arguments)
    assert result.exit_code == 1
    record = json.loads(result.stdout)
    assert record["mismatches"] == len(record["differences"]) > 0
    assert record["cycles"]["rtl"] < record["cycles"]["model"]
    assert f"spec {record['digest']} seed 1 case 'formats'" in record["differences"][0]


@pytest.mark.slow  # the contract says the same of every preset and of random specs
@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        SUBSETS,
        DIGITS,
        MULTIPLIERS,
        SYSTOLIC,
        PLANES,
        FLOATS,
        CODEWORDS,
        CENTROIDS,
        PAIRS,
        SKIPS,
        FLOAT_MAC,
        FLOAT_LUT,
    ],
)
def test_design_without_fault_passes(spec: Engine) -> None:
    assert not verify(spec, seed=1).differences
