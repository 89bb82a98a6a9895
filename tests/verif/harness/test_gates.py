"""Netlists of standard cells against golden and cycle model: every engine, and planted faults."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evolute.hw.spec import Engine, LutTensorCore, layout
from evolute.hw.spec.presets import PRESETS
from evolute.hw.synthesis import libraries, power, synth, timing
from evolute.hw.synthesis.libraries import LIBRARIES, CellLibrary
from evolute.hw.synthesis.netlist import Netlist
from evolute.support.files import FileError
from evolute.verif import energy
from evolute.verif.engines import stream_engine
from evolute.verif.harness import driver, gates

TINY = LutTensorCore(m=1, n=2, k=2, kg=1, activation_bits=4, weight_bits=2, group_size=4)
ENGINES = {name: preset.spec for name, preset in PRESETS.items() if isinstance(preset.spec, Engine)}


def mapped(spec: Engine, library: CellLibrary = libraries.NANGATE45) -> Netlist:
    try:
        return synth.mapped(spec, library)
    except FileError as error:
        pytest.skip(f"no cell library: {error}")


def differences(spec: Engine, design: Netlist, library: CellLibrary, seed: int) -> list[str]:
    """What a netlist does otherwise than the models say, over all of the battery but what only RTL
    can be asked: an input that changes within a cycle, and counts that are set to begin late."""
    kinds = enumerate(stream_engine.KINDS.items())
    cases = [
        case
        for i, (_, make) in kinds
        for case in make(spec, np.random.default_rng((seed, i)))
        if not (case.probe or case.slices_before or case.tiles_before)
    ]
    models = [stream_engine.model_of(spec, case) for case in cases]
    rng = np.random.default_rng(seed)
    stimuli = [
        stream_engine.stimulus(spec, case, model, rng)
        for case, model in zip(cases, models, strict=True)
    ]
    played = gates.play(design, libraries.cells_of(library, design), stimuli, rng)
    wrong: list[str] = []
    for case, model, recording in zip(cases, models, played.recordings, strict=True):
        _, of_case = stream_engine.compare(spec, case, model, recording)
        wrong += [*of_case, *recording.violations]
    return wrong


def smallest(kind: type[Engine], count: int) -> Engine:
    """Of some random specs of an engine the one with the fewest bits on its streams."""
    random_spec = {**driver.DRIVERS, **driver.BASELINE_DRIVERS}[kind].random_spec
    rng = np.random.default_rng(5)
    specs = [random_spec(rng) for _ in range(count)]

    def bits(spec: Engine) -> int:
        streams = layout.streams(spec)
        return streams.activation.bits + streams.weight.bits + streams.result.bits

    return min(specs, key=bits)


@pytest.mark.parametrize("kind", [*driver.DRIVERS, *driver.BASELINE_DRIVERS])
def test_a_small_netlist_does_what_the_models_say(kind: type[Engine]) -> None:
    spec = smallest(kind, 40)
    assert not differences(spec, mapped(spec), libraries.NANGATE45, seed=1)


@pytest.mark.parametrize("key", ["sky130hd", "asap7"])
def test_other_libraries_do_the_same(key: str) -> None:
    assert not differences(TINY, mapped(TINY, LIBRARIES[key]), LIBRARIES[key], seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_a_presets_netlist_does_what_the_models_say(name: str) -> None:
    spec = ENGINES[name]
    assert isinstance(spec, Engine)
    assert not differences(spec, mapped(spec), libraries.NANGATE45, seed=3)


# What a broken netlist shows.


def stuck(design: Netlist, number: int) -> Netlist:
    """The netlist with one output of a gate left open, and what it drove at 0."""
    places = [
        (i, row)
        for i, kind in enumerate(design.instances)
        for row in range(len(kind.names))
        if not kind.cell.startswith("DFF")
    ]
    i, row = places[number % len(places)]
    kind = design.instances[i]
    nets = kind.nets.copy()
    output = next(j for j, pin in enumerate(kind.pins) if pin in ("Z", "ZN", "CO", "S"))
    nets[row, output] = design.nets
    instances = list(design.instances)
    instances[i] = dataclasses.replace(kind, nets=nets)
    return dataclasses.replace(design, nets=design.nets + 1, instances=tuple(instances))


def test_stuck_nets_are_seen() -> None:
    design = mapped(TINY)
    rng = np.random.default_rng(11)
    chosen = rng.choice(design.cells, 12, replace=False)
    seen = [bool(differences(TINY, stuck(design, int(i)), libraries.NANGATE45, 4)) for i in chosen]
    assert sum(seen) >= 9  # some values, such as those after a reset, are never looked at


def test_swapped_weights_are_seen() -> None:
    operand = energy.random_operand(TINY, np.random.default_rng(1))
    first, second, *others = operand.matmuls
    crossed = dataclasses.replace(first, weights=second.weights)
    case, other = (stream_engine.Case("one", (matmul,)) for matmul in (first, crossed))
    model, rng = stream_engine.model_of(TINY, case), np.random.default_rng(2)
    design = mapped(TINY)
    stimulus = stream_engine.stimulus(TINY, other, model, rng)
    (recording,) = gates.play(
        design, libraries.cells_of(libraries.NANGATE45, design), [stimulus], rng
    ).recordings
    assert not stream_engine.compare(TINY, other, model, recording)[1]
    assert stream_engine.compare(TINY, case, model, recording)[1]
    assert others


# Energy.


def test_energy_is_that_of_the_activity() -> None:
    mapped(TINY)
    operand = energy.random_operand(TINY, np.random.default_rng(3))
    measured = energy.measure(TINY, operand)
    assert measured.compared == energy.RUNS * 4 * (TINY.n + 1)  # 4 groups of sums and a row sum
    assert measured.macs == energy.RUNS * TINY.n * 4 * TINY.group_size
    assert measured.fj_per_mac == pytest.approx(
        measured.dynamic_fj_per_mac + measured.leakage_fj_per_mac
    )
    parts = sum(block.dynamic_fj for block in measured.blocks.values())
    assert 0.9 < parts / measured.per_cycle.dynamic_fj < 1.3
    assert set(measured.blocks) >= {"operands", "multiply", "accumulators", "sequencer"}
    # Operands that are all the same leave most nets as they are.
    quiet = dataclasses.replace(operand, matmuls=(operand.matmuls[0],) * energy.RUNS)
    zero = dataclasses.replace(quiet.matmuls[0], x=np.zeros_like(quiet.matmuls[0].x))
    idle = energy.measure(TINY, dataclasses.replace(quiet, matmuls=(zero,) * energy.RUNS))
    assert idle.dynamic_fj_per_mac < 0.9 * measured.dynamic_fj_per_mac
    assert idle.per_cycle.clock_pins_fj == measured.per_cycle.clock_pins_fj


def test_clocks_are_counted_once_whatever_the_data() -> None:
    design = mapped(TINY)
    cells = libraries.cells_of(libraries.NANGATE45, design)
    timed = timing.analyze(design, cells, libraries.NANGATE45)
    case = stream_engine.Case(
        "one", energy.random_operand(TINY, np.random.default_rng(4)).matmuls[:1]
    )
    model, rng = stream_engine.model_of(TINY, case), np.random.default_rng(5)
    played = gates.play(design, cells, [stream_engine.stimulus(TINY, case, model, rng)], rng)
    whole = power.total(power.cell_power(design, cells, timed, played.activity))
    flops = synth.synthesize(TINY, "asic").flops
    pin_ff = cells.cells["DFF_X1"].pins["CK"].rise_capacitance_ff
    assert whole.clock_pins_fj == pytest.approx(flops * pin_ff * 1.1**2)
