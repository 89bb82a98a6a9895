"""Alignment of floating activations in RTL: proofs over all codes and exponents, every code of 8
bits against the golden model, and all engines with all formats through the shared contract."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from _pytest.mark import ParameterSet
from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.sim import Simulator
from click.testing import CliRunner

from evolute import front
from evolute.hw.rtl.blocks import align as rtl
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.formats import FLOATS, Activations, FloatFormat
from evolute.hw.synthesis.tools import ToolError
from evolute.sim.golden import align as golden
from evolute.verif.harness import driver
from evolute.verif.harness.contract import EngineContract
from evolute.verif.harness.proof import prove

FP16, BF16, E4M3, E5M2 = FLOATS.values()


def aligner(m: Module, activations: Activations, codes: list[Signal], exponent: Signal):
    """The integers for `codes` that share `exponent`."""
    assert activations.format is not None
    shared = Signal(len(exponent))
    m.d.comb += shared.eq(rtl.shared_exponent(exponent, activations.format))
    found = []
    for i, code in enumerate(codes):
        integer = Signal(signed(activations.bits), name=f"integer{i}")
        m.d.comb += integer.eq(rtl.align(m, f"x{i}", code, shared, activations))
        found.append(integer)
    return found


def is_nearest(
    m: Module, activations: Activations, code: Signal, exponent: Signal, integer: Value
) -> Value:
    """Whether `integer` is what `hw.spec.formats.Activations` says, by twice its distance from the
    number, both in units far below either's."""
    kind = activations.format
    assert kind is not None
    fraction = activations.bits - 2 - kind.mantissa_bits
    width = kind.top_exponent + kind.mantissa_bits + activations.bits + abs(fraction) + 4

    def wire(value: Value, shape=width) -> Signal:
        signal = Signal(shape)
        m.d.comb += signal.eq(value)
        return signal

    field = code[kind.mantissa_bits : -1]
    own = wire(Mux(field == 0, 1, field), kind.exponent_bits)
    high = Mux(exponent > kind.top_exponent, kind.top_exponent, exponent)
    shared = wire(Mux(exponent == 0, 1, high), kind.exponent_bits)
    significand = code[: kind.mantissa_bits] + Mux(field == 0, 0, 1 << kind.mantissa_bits)
    number = wire(wire(significand) << own << max(0, fraction))
    unit = wire(Const(1) << shared << max(0, -fraction))
    magnitude = wire(Mux(code[-1], -integer, integer), signed(activations.bits + 1))
    distance = wire((number << 1) - (magnitude << shared << max(0, -fraction) << 1), signed(width))

    top = activations.maximum
    near = (distance < unit) & (-distance < unit)
    tie = ((distance == unit) | (-distance == unit)) & ~magnitude[0]
    beyond = (magnitude == top) & (distance >= -unit)
    finite = code[:-1] <= kind.largest_code
    return Mux(finite, (magnitude <= top) & (near | tie | beyond), magnitude == top)


def prove_nearest(kind: FloatFormat, bits: int, wrong: int = 0) -> None:
    """For every code and exponent; with `wrong` added to the integer it must fail."""
    activations, m = Activations(bits, kind), Module()
    code, exponent = Signal(kind.bits), Signal(kind.exponent_bits)
    (integer,) = aligner(m, activations, [code], exponent)
    prove(m, [code, exponent], is_nearest(m, activations, code, exponent, integer + wrong))


@pytest.mark.parametrize(
    ("kind", "bits"),
    [(FP16, bits) for bits in (4, 10, 11, 12, 13, 16)]
    + [(E4M3, bits) for bits in (4, 5, 9)]
    + [(E5M2, bits) for bits in (4, 8)]
    # BF16 with fewer exponents, of which the proof of all takes minutes.
    + [(FloatFormat("e5m7", 5, 7), bits) for bits in (7, 9, 12)],
    ids=lambda each: str(getattr(each, "name", each)),
)
def test_every_number_becomes_the_nearest_integer(kind, bits):
    prove_nearest(kind, bits)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 9, 12])
def test_every_number_of_bf16_does(bits):
    prove_nearest(BF16, bits)


def test_a_wrong_claim_is_not_proved():
    with pytest.raises(ToolError):
        prove_nearest(E4M3, 6, wrong=1)


def simulate(activations: Activations, codes: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """What the RTL makes of all `codes` with each of `exponents`, [exponents, codes]."""
    assert activations.format is not None
    m, lanes = Module(), [Signal(activations.code_bits, name=f"code{i}") for i in range(16)]
    exponent = Signal(activations.exponent_bits)
    integers = aligner(m, activations, lanes, exponent)
    found: list[int] = []

    async def drive(context):
        for each in exponents.tolist():
            context.set(exponent, each)
            for start in range(0, len(codes), len(lanes)):
                for lane, code in zip(lanes, codes[start:].tolist(), strict=False):
                    context.set(lane, code)
                found.extend(context.get(integer) for integer in integers)

    simulator = Simulator(m)
    simulator.add_testbench(drive)
    simulator.run()
    return np.array(found).reshape(len(exponents), -1)[:, : len(codes)]


@pytest.mark.parametrize(
    ("kind", "bits"), [(E4M3, 4), (E4M3, 8), (E5M2, 5), (FP16, 10), (FP16, 13), (BF16, 9)],
    ids=lambda each: str(getattr(each, "name", each)),
)  # fmt: skip
def test_the_rtl_equals_the_golden_model(kind, bits):
    """All codes of 8 bits, and of 16 bits many, with any exponent."""
    activations, rng = Activations(bits, kind), np.random.default_rng(bits)
    exponents = np.arange(1 << kind.exponent_bits)
    codes = np.arange(1 << kind.bits)
    if kind.bits > 8:
        exponents = rng.choice(exponents, 12, replace=False)
        near = exponents.mean().astype(int) + rng.integers(-bits, bits, 320)
        codes = rng.integers(0, 1 << kind.mantissa_bits, 320) | rng.integers(0, 2, 320) << 15
        codes |= np.clip(near, 0, (1 << kind.exponent_bits) - 1) << kind.mantissa_bits
    wanted = golden.align(codes, exponents[:, None], activations)
    assert np.array_equal(simulate(activations, codes, exponents), wanted)


def drawn() -> list[ParameterSet]:
    """Every engine with every format, small, of any width; every day each engine with one of them
    and each format with some engine."""
    found = []
    for i, kind in enumerate(driver.DRIVERS):
        for j, name in enumerate(FLOATS):
            spec = driver.DRIVERS[kind].random_spec(np.random.default_rng((5, i, j)))
            spec = spec.evolve(activation_format=name)
            nightly = [pytest.mark.slow] * (j != i % len(FLOATS))
            found.append(pytest.param(spec, id=f"{kind.__name__}-{name}", marks=nightly))
    return found


@pytest.mark.parametrize("spec", drawn(), indirect=True, scope="class")
class TestEveryEngineWithEveryFormat(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, request: pytest.FixtureRequest) -> Engine:
        return request.param


def generated(backend: str) -> dict[str, Any]:
    """Two tokens on a core with half-precision activations."""
    choices = ["engine.activation_format=fp16", "engine.activation_bits=13"]
    sets = [each for choice in choices for each in ("--set", choice)]
    arguments = ["run", "evolute-tiny", "--prompt", "One day", "--tokens", "2", "--json"]
    arguments += ["--accel", "core-fpga", *sets, "--backend", backend]
    result = CliRunner().invoke(front.cli, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_core_generates_what_its_model_does():
    rtl, golden = generated("rtl"), generated("golden")
    assert (rtl["text"], rtl["mismatches"]) == (golden["text"], 0) and rtl["layers"] > 0
    assert rtl["cycles"]["rtl"] == rtl["cycles"]["model"] == golden["cycles"]["model"]
