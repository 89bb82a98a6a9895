"""The machine of LUT-DLA on its RTL: every choice, real inputs, and faults that must show."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from evolute.dse.compare.layer import layer_of
from evolute.hw.emit.export import module_name, to_verilog
from evolute.hw.rtl.blocks import crossing
from evolute.hw.rtl.units import encoder, lut_stationary
from evolute.hw.spec import LutDla, LutStationary
from evolute.hw.spec.presets import PRESETS
from evolute.sim.golden import lut_dla as engine_golden
from evolute.sim.golden import lut_stationary as golden
from evolute.sim.timing.lut_stationary import Clocks
from evolute.sim.weights import Table
from evolute.sim.what_if.rows import TableBytes, table_bytes
from evolute.sim.workload.linear import Linear
from evolute.sw.checkpoints.zoo import default_text
from evolute.sw.checkpoints.zoo import load as load_model
from evolute.sw.quantizers.lut_dla import Tables, learn_centroids, tables_of
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.weights import parse_weights
from evolute.verif.harness import simulators
from evolute.verif.harness.simulators import available
from evolute.verif.harness.verify import verify
from evolute.verif.mutation import planted as mutants
from evolute.verif.units.lut_stationary import StationaryCase, model_of, play, results

SMALL = LutStationary(
    m=6, n=4, v=3, centroids=4, lanes=4, subspaces=5, activation_bits=5, weight_bits=4,
    beat_entries=2, queue=8,
)  # fmt: skip
GATHER = SMALL.evolve(tables="gather")
DEDUP = GATHER.evolve(dedup=True)
TREE = SMALL.evolve(encoder="tree")
FOLDED = TREE.evolve(lanes=2)

SPECS = {
    "chain": SMALL,
    "chain chebyshev saturates": SMALL.evolve(
        metric="chebyshev", overflow="saturate", accumulator_bits=5, n=6
    ),
    "tree l2": TREE.evolve(metric="l2", beat_entries=4, beat_centroids=4),
    "folded": FOLDED.evolve(beat_centroids=2, overflow="wrap", accumulator_bits=4, queue=2),
    "one by one": TREE.evolve(lanes=1, subspaces=1),
    "gather": GATHER,
    "gather whole rows": GATHER.evolve(beat_entries=4, queue=4, v=1),
    "kept indices": SMALL.evolve(keeps_indices=True, n=3, beat_entries=3),
    "dedup": DEDUP,
    "dedup short queue": DEDUP.evolve(keeps_indices=True, beat_entries=4, queue=2, encoder="tree"),
}
SLOW = ("one by one", "gather whole rows")


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=pytest.mark.slow) if each in SLOW else each for each in SPECS],
)
def test_rtl_equals_golden_and_cycle_model(name: str) -> None:
    spec = SPECS[name]
    report = verify(spec, seed=1)
    assert report.passed, "\n".join(report.differences)
    assert report.rtl_cycles == report.model_cycles > 0
    streams = ("command", "centroid", "activation", "table", "result")
    covered = {
        *("M = 1", "no stall", "commands back to back", "several tiles", "rows chosen alike"),
        *("reset in mid-flight", "ready probed", "memory latency"),
        *("corner extremes", "corner equal distances"),
        *("clocks 1:1", "clocks 1:2", "clocks 2:1", "clocks 1:3", "clocks 2:3", "clocks 5:3"),
        *(f"stall {stream}" for stream in (*streams, *(["request"] if spec.gathers else []))),
        *(["sums beyond their width"] if spec.overflow != "exact" else []),
    }
    assert covered <= set(report.coverage)


@pytest.mark.skipif(not available("icarus"), reason="Icarus Verilog is not installed")
def test_another_simulator_agrees() -> None:
    report = verify(SMALL, seed=2, simulator="icarus", kinds=["clocks", "corners"])
    assert report.passed, "\n".join(report.differences)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_specs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    overflow = str(rng.choice(["exact", "saturate", "wrap"]))
    gathers = bool(rng.random() < 0.5)
    chain = bool(rng.random() < 0.5)
    centroids = int(rng.choice([2, 4, 8, 16]))
    n = int(rng.integers(1, 9))
    spec = LutStationary(
        m=int(rng.integers(2, 12)),
        n=n,
        v=int(rng.integers(1, 6)),
        centroids=centroids,
        subspaces=int(rng.integers(1, 9)),
        tiles=int(rng.choice([2, 3, 6, 65536])),
        activation_bits=int(rng.integers(4, 9)),
        weight_bits=int(rng.integers(2, 9)),
        metric=str(rng.choice(["l1", "l2", "chebyshev"])),
        encoder="chain" if chain else "tree",
        lanes=centroids if chain else int(rng.choice([1, 2, centroids])),
        beat_centroids=1 if chain else int(rng.choice([1, 2, centroids])),
        queue=int(rng.choice([2, 4, 16, 32])),
        keeps_indices=bool(rng.random() < 0.5),
        tables="gather" if gathers else "stream",
        dedup=gathers and bool(rng.random() < 0.5),
        beat_entries=int(rng.choice([each for each in range(1, n + 1) if n % each == 0])),
        overflow=overflow,
        accumulator_bits=None if overflow == "exact" else int(rng.integers(8, 12)),
    )
    report = verify(spec, seed=seed)
    assert report.passed, "\n".join(report.differences)


@dataclass(frozen=True, eq=False)
class RealLayer:
    """A layer in tables, and what it is given."""

    linear: Linear
    x: np.ndarray
    form: Table
    table: np.ndarray
    """[subspaces, c, N]."""


@pytest.fixture(scope="module")
def real() -> RealLayer:
    """The gate of a small model, one scale per output, and inputs of eight tokens of text."""
    model = load_model("evolute-tiny")
    layer = layer_of(model, "0.gate", parse_weights("w8g128"), default_text("evolute-tiny"))
    choice = Tables(group=layer.linear.k)
    learned = quantize_activations(layer.more_inputs, choice.activations).x
    centroids, means = learn_centroids(learned, choice, np.random.default_rng(0))
    tensor = tables_of(layer.weights, learned, centroids, means, choice)
    linear = replace(layer.linear, format=tensor.format, group=tensor.group)
    x = quantize_activations(layer.inputs[:8], choice.activations).x
    entries = tensor.codes.astype(int) - tensor.format.levels // 2
    table = entries.reshape(linear.n, -1, choice.centroids).transpose(1, 2, 0)
    assert isinstance(tensor.form, Table)
    return RealLayer(linear, x, tensor.form, table)


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({"tables": "stream"}, "streamed"),
        ({"tables": "gather"}, "gathered"),
        ({"tables": "gather", "dedup": True}, "unique"),
    ],
    ids=["stream", "gather", "dedup"],
)
def test_traffic_of_a_real_layer_is_what_rows_counts(
    real: RealLayer, changes: dict, way: str
) -> None:
    """And the sums are those of the streaming engine's golden model."""
    spec = LutStationary(
        m=8, n=32, v=4, centroids=16, subspaces=32, encoder="tree", beat_entries=32, queue=32
    ).evolve(**changes)
    operands = golden.product(spec, real.x, real.form.centroids.points, real.table)
    case = StationaryCase(way, (operands,), Clocks(1, 1))
    model = model_of(spec, case)
    build = simulators.build(to_verilog(spec), module_name(spec))
    (rtl,) = play(spec, [case], [model], build)
    assert rtl.result.tolist() == model.result and not len(rtl.violations)

    engine = LutDla(m=8, v=4, centroids=16, group_size=128)
    weights = engine_golden.encode(engine, real.form)
    sums = engine_golden.group_sums(engine, real.x, weights).psum[:, 0]
    assert np.array_equal(results(spec, operands, rtl.result_words), sums)

    counted: TableBytes = table_bytes(engine, real.linear, golden.indices(spec, operands))
    assert len(rtl.table) * spec.beat_entries * spec.weight_bits // 8 == getattr(counted, way)
    if spec.gathers:
        assert len(rtl.request) * spec.row_beats == len(rtl.table)
        assert getattr(counted, way) < counted.streamed
    assert counted.gathered > counted.unique  # or dedup is not seen


def test_presets_are_pinned_to_what_their_words_say() -> None:
    published, gathers = PRESETS["dla-stationary"].spec, PRESETS["dla-gather"].spec
    assert isinstance(published, LutStationary) and isinstance(gathers, LutStationary)
    assert published.encoder == "chain" and published.tables == "stream"
    assert published.table_words == 2 * published.centroids
    assert gathers.encoder_period_cycles == gathers.centroid_beats == 1
    assert gathers.dedup and gathers.table_words == gathers.centroids


@dataclass(frozen=True)
class Mutant(mutants.PlantedFault):
    spec: LutStationary = SMALL


MUTANTS = (
    Mutant(
        "chain: the last of equals wins",
        encoder,
        'named(m, f"nearer{j}", d < least)',
        'named(m, f"nearer{j}", d <= least)',
        "sum",
    ),
    Mutant(
        "chain: a unit never opens again",
        encoder,
        "with m.If(is_row):",
        "with m.If(Const(0)):",
        "sum",
    ),
    Mutant(
        "chain: a centroid goes on to all units",
        encoder,
        "is_centroid & ~opened",
        "is_centroid",
        "sum",
    ),
    Mutant(
        "folded: the last of equals wins",
        encoder,
        "best.distance < least",
        "best.distance <= least",
        "sum",
        FOLDED,
    ),
    Mutant(
        "folded: the nearest of the row before is kept",
        encoder,
        "begins | (best.distance < least)",
        "best.distance < least",
        "sum",
        FOLDED,
    ),
    Mutant(
        "banks: read before they are full",
        lut_stationary,
        "may_enter & there & Mux(reads, full[1], full[0])",
        "may_enter & there",
        "cycle of",
    ),
    Mutant(
        "banks: filled while they are read",
        lut_stationary,
        "self.table.ready.eq(~Mux(writes, full[1], full[0]))",
        "self.table.ready.eq(1)",
        "cycle of table",
    ),
    Mutant(
        "banks: always the same",
        lut_stationary,
        "read.addr.eq(Cat(index, reads))",
        "read.addr.eq(index)",
        "sum",
    ),
    Mutant(
        "scratchpad: one row's sum read before it is written",
        lut_stationary,
        "active & free & ~collides",
        "active & free",
        "sum",
        GATHER.evolve(beat_entries=4),
    ),
    Mutant(
        "scratchpad: not cleared for the next tile",
        lut_stationary,
        "Mux(kept_first, 0, read.data.word_select(i, spec.acc_bits))",
        "read.data.word_select(i, spec.acc_bits)",
        "sum",
    ),
    Mutant(
        "result: replaced before it is taken",
        lut_stationary,
        "~kept_last | ~self.result.valid | self.result.ready",
        "Const(1)",
        "cycle of",
    ),
    Mutant(
        "queue: room for one too many",
        crossing,
        "~(reserved - left)[places]",
        "(reserved - left)[: places + 1] != self.depth + 1",
        "cycle of activation",
        SMALL.evolve(queue=4),
    ),
    Mutant(
        "queue: what was read is seen as it is written",
        crossing,
        "self.there.eq(seen_written != read_code)",
        "self.there.eq(seen_written != read)",
        "cycle of",
    ),
    Mutant(
        "queue: one register between the clocks",
        crossing,
        "return stages[1]",
        "return stages[0]",
        "cycle of",
    ),
    Mutant(
        "gather: rows of one subspace asked for only",
        lut_stationary,
        "Mux(place.ends, 0, step + 1)",
        "0",
        "request",
        GATHER,
    ),
    Mutant(
        "gather: a command begins where the last one ended",
        lut_stationary,
        "step.eq(Mux(place.ends, 0, step + 1))",
        "step.eq(step + 1)",
        "request",
        GATHER,
    ),
    Mutant(
        "kept indices: the queue is read again",
        lut_stationary,
        "self.read.eq(take & ~again)",
        "self.read.eq(take)",
        "cycle of",
        SMALL.evolve(keeps_indices=True),
    ),
    Mutant(
        "kept indices: no room for the last ones",
        lut_stationary,
        "depth=spec.m * spec.subspaces, init",
        "depth=spec.m * spec.subspaces - 2, init",
        "case 'all rows and subspaces'",
        SMALL.evolve(keeps_indices=True),
    ),
    Mutant(
        "kept indices: those of the command before",
        lut_stationary,
        "again.eq(0), held.eq(0)",
        "again.eq(0)",
        "sum",
        SMALL.evolve(keeps_indices=True),
    ),
    Mutant(
        "dedup: what was asked for is not forgotten with its subspace",
        lut_stationary,
        "Mux(place.ends_rows, 0, known | wanted)",
        "known | wanted",
        "request",
        DEDUP,
    ),
    Mutant(
        "dedup: a row that came is not kept",
        lut_stationary,
        "write.en.eq(comes)",
        "write.en.eq(0)",
        "sum",
        DEDUP,
    ),
)

SLOW_MUTANTS = (
    "chain: a unit never opens again",
    "gather: rows of one subspace asked for only",
    "chain: a centroid goes on to all units",
    "folded: the nearest of the row before is kept",
    "banks: always the same",
    "queue: what was read is seen as it is written",
    "gather: a command begins where the last one ended",
    "dedup: a row that came is not kept",
)
"""Others are found by the same numbers."""


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(each, marks=pytest.mark.slow) if each.name in SLOW_MUTANTS else each
        for each in MUTANTS
    ],
    ids=[each.name for each in MUTANTS],
)
def test_fault_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = to_verilog(mutant.spec)
    mutants.put_in(mutant, LutStationary, (crossing, encoder, lut_stationary), monkeypatch)
    broken = to_verilog(mutant.spec)
    assert broken != sound
    report = verify(mutant.spec, seed=1, kinds=["corners", "stalls"], verilog=broken)
    assert any(mutant.found_in in difference for difference in report.differences)


@pytest.mark.parametrize("spec", [SMALL, FOLDED, DEDUP], ids=["chain", "folded", "dedup"])
def test_a_wrong_latency_is_found(spec: LutStationary, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, built = spec.encoder_latency_cycles + 1, to_verilog(spec)
    monkeypatch.setattr(LutStationary, "encoder_latency_cycles", property(lambda _: wrong))
    report = verify(spec, seed=1, kinds=["clocks"], verilog=built)
    assert any("cycle of" in difference for difference in report.differences)
