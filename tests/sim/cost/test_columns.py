"""Many designs at once cost what each costs alone, and are legal where a spec can be made."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.spec import BASELINES, ENGINES, LutTensorCore, Mac, SpecError
from evolute.hw.spec.bit_serial import TERMS
from evolute.hw.spec.engine import largest_divisor
from evolute.hw.spec.formats import FLOATS, FORMATS, WeightCodes
from evolute.hw.spec.lut_dla import METRICS, OVERFLOWS
from evolute.hw.spec.mac import ARRANGEMENTS, MULTIPLIERS
from evolute.hw.spec.platform import Platform
from evolute.sim.cost import batch
from evolute.sim.cost.batch import evaluate_columns
from evolute.sim.cost.columns import Column, Designs, DividedError
from evolute.sim.cost.engine import evaluate_layer, phase_of
from evolute.sim.cost.evaluate import linear_phase
from evolute.sim.workload.linear import HEAD, LayerName, Linear, Workload
from evolute.sim.workload.operations import Pass

KINDS = ENGINES | BASELINES

NUMBERS = {
    "m": range(1, 9),
    "n": (1, 2, 4, 6, 8, 16, 64, 512),
    "k": (1, 2, 2, 3, 4, 4, 5, 6, 8, 16, 128),
    "kg": (1, 2, 3, 4, 8, 64),
    "base": (2, 2, 2, 3),
    "planes_per_step": (1, 2, 4),
    "activation_bits": (4, 8, 8, 11, 16, 16),
    "weight_bits": range(1, 9),
    "group_size": (1, 2, 32, 64, 100, 128, 16384),
    "v": (1, 2, 4, 5, 8, 16),
    "entries": (2, 16, 256, 1 << 15),
    "residual_entries": (0, 0, 2, 256),
    "short_v": (0, 0, 0, 1, 2, 4),
    "centroids": (2, 8, 16, 64),
    "lanes": (1, 2, 8, 16, 64),
}
"""Values of fields, most of which are legal together with some values of the others."""

ODD = (-1, 0, 1, 3, 7, 9, 17, 65, 513, 1 << 40)
"""Values of any field, legal or not."""

OTHERS = {
    "mirrored": (True, True, False),
    "table_bits": (None, None, 4, 8, 9, 12),
    "accumulator_bits": (None, None, None, 8, 24, 32, 64),
    "activation_format": ("int", "int", "fp16", *FLOATS, "fp99"),
    "arrangement": (*ARRANGEMENTS, "heap"),
    "multiplier": (*MULTIPLIERS, "guess"),
    "terms": (*TERMS, "lazy"),
    "skips": (True, False),
    "along": ("outputs", "inputs", "both"),
    "form": ("gather", "table", "other"),
    "metric": (*METRICS, "l3"),
    "overflow": (*OVERFLOWS, "burst"),
    "sums": ("fp16", "fp32", "fp64"),
    "weights": ("int", "fp16", "dequantized", "half"),
}


def _column(name, count, rng):
    if name in NUMBERS:
        numbers = rng.choice(np.array(NUMBERS[name]), count)
        return np.where(rng.random(count) < 0.01, rng.choice(np.array(ODD), count), numbers)
    values = OTHERS[name]
    dtype = object if None in values else None
    return np.array(values, dtype)[rng.integers(len(values), size=count)]


def _designs(kind, count, rng):
    """Random engines of a kind; some fields are the same for all, or the default."""
    fields = {}
    for name in {**kind.__dataclass_fields__}:
        column, fate = _column(name, count, rng), rng.random()
        if fate < 0.8:
            fields[name] = column
        elif fate < 0.9:
            fields[name] = column[0]
    return Designs(kind, fields)


def _made(designs):
    """The spec of every design, None where it is refused."""
    specs = []
    for index in range(len(designs)):
        try:
            specs.append(designs[index])
        except SpecError:
            specs.append(None)
    return specs


def _workload(specs, rng):
    """Layers in one or two formats that some of the specs run."""
    known = sorted({FORMATS.index(each) for spec in specs if spec for each in spec.formats})
    formats = [FORMATS[each] for each in rng.choice(known, rng.integers(1, 3))]
    linears = []
    for place, codes in enumerate(rng.choice(len(formats), rng.integers(1, 6))):
        n, k = (int(each) for each in rng.integers(1, 3000, 2))
        group = int(rng.choice([1, 7, 32, 64, 128, 1000, k]))
        bits, count = (int(each) for each in rng.integers(1, 40, 2))
        name = LayerName(None, f"layer{place}")
        last = bool(rng.random() < 0.3)
        linears.append(Linear(name, n, k, formats[codes], group, bits, count, last))
    return Workload("random", "any", tuple(linears))


def _platform(rng):
    return Platform(
        frequency_hz=float(rng.choice([1e6, 2e8, 333e6])),
        bandwidth_bytes_per_s=float(rng.choice([1e8, 6.4e9, 1e12])),
        weight_buffer_bytes=int(rng.choice([0, 1000, 1 << 16, 1 << 30])),
    )


FIGURES = (
    "cycles",
    "dram_bytes",
    "seconds",
    "compute_seconds",
    "memory_seconds",
    "tokens_per_s",
    "utilization",
)


def _assert_equal(metrics, designs, workload, platform, asked):
    """Every figure of every priced design is that of the design alone."""
    for place, index in enumerate(metrics.priced):
        spec = designs[index]
        assert metrics.steps_are_bounds[place] == (not spec.steps_are_fixed)
        for (work, passes), columns in zip(asked, metrics.phases, strict=True):
            phase = linear_phase(spec, workload, platform, work, passes)
            figures = {name: getattr(columns, name)[place].item() for name in FIGURES}
            assert figures == {name: getattr(phase, name) for name in figures}
            for layer, of_layer in zip(phase.layers, columns.layers, strict=True):
                assert of_layer.cycles[place] == layer.cycles
                assert of_layer.dram_bytes[place] == layer.dram_bytes
                seconds = max(layer.compute_seconds, layer.memory_seconds)
                assert of_layer.seconds[place] == seconds


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", KINDS)
def test_designs_cost_together_what_each_costs_alone(name, seed, monkeypatch):
    rng = np.random.default_rng([seed, *name.encode()])
    monkeypatch.setattr(batch, "BLOCK", int(rng.choice([7, 1 << 13])))
    while True:  # until some are legal
        designs = _designs(KINDS[name], 1000, rng)
        specs = _made(designs)
        if any(specs):
            break
    assert designs.is_legal.tolist() == [spec is not None for spec in specs]
    workload, platform = _workload(specs, rng), _platform(rng)
    prompt, tokens, users = (int(each) for each in rng.integers(1, 600, 3))
    asked = [(Pass(prompt), 1), (Pass(1), tokens), (Pass(5, prompt, users, head_rows=3), 2)]
    phases = [phase_of(workload.kinds, work, passes) for work, passes in asked]
    metrics = evaluate_columns(designs, phases, platform)
    runs = [
        index
        for index, spec in enumerate(specs)
        if spec and all(spec.accepts(each.format) for each in workload.linears)
    ]
    assert metrics.priced.tolist() == runs
    _assert_equal(metrics, designs, workload, platform, asked)


def _steps(spec, codes):
    """Weight beats per slice and steps of each; 0 where the codes do not run."""
    coding = spec.coding(codes)
    return (coding.planes, spec.beat_steps(coding.mode)) if coding else (0, 0)


@pytest.mark.parametrize("name", KINDS)
def test_all_formats_are_coded_as_on_each_design_alone(name):
    designs = _designs(KINDS[name], 200, np.random.default_rng(list(name.encode())))
    alone = _made(designs)
    for codes in FORMATS:
        together = np.zeros((200, 2), int)
        for part, steps in designs.parts(lambda spec, codes=codes: _steps(spec, codes)):
            together[part] = np.stack(np.broadcast_arrays(*steps, part), axis=1)[:, :2]
        assert together.tolist() == [
            list(_steps(each, codes)) if each else [0, 0] for each in alone
        ]


LAYER = Linear(LayerName(None, "up"), 1536, 576, WeightCodes(4), 32, 32)


def test_contexts_are_phases_that_share_layers():
    designs = Designs(Mac, {"n": np.array([8, 16, 48]), "weight_bits": 4})
    scores = [Linear(LayerName(None, "keys"), n, 64, WeightCodes(4), 64, 16) for n in (128, 4096)]
    contexts = [phase_of([LAYER, each], Pass(1)) for each in scores]
    short, long = evaluate_columns(designs, contexts, Platform()).phases
    assert short.layers[0] is long.layers[0]
    for place in range(3):
        alone = [evaluate_layer(designs[place], each, 1, Platform()) for each in (LAYER, *scores)]
        assert short.cycles[place] == alone[0].cycles + alone[1].cycles
        assert long.cycles[place] == alone[0].cycles + alone[2].cycles


def test_layers_that_no_row_needs_are_left_out():
    head = replace(LAYER, name=HEAD, last_token_only=True)
    chunk = phase_of([LAYER, head], Pass(64, head_rows=0))
    assert chunk.layers == ((LAYER, 64),)
    workload = Workload("model", "w4g32", (LAYER, head))
    alone = linear_phase(Mac(), workload, Platform(), Pass(64, head_rows=0), 1)
    assert alone.cycles == evaluate_layer(Mac(), LAYER, 64, Platform()).cycles


@pytest.mark.parametrize("sizes", [[0, 513], []])
def test_no_design_may_be_legal(sizes):
    trees = np.array(["tree"] * len(sizes), object)
    designs = Designs(Mac, {"n": np.array(sizes, int), "arrangement": trees})
    metrics = evaluate_columns(designs, [phase_of([LAYER], Pass(8))], Platform())
    assert metrics.priced.size == 0 and metrics.phases[0].cycles.shape == (0,)


def test_designs_without_a_column_are_one_engine():
    metrics = evaluate_columns(Designs(Mac, {"k": 8}), [phase_of([LAYER], Pass(8))], Platform())
    assert metrics.phases[0].cycles == evaluate_layer(Mac(k=8), LAYER, 8, Platform()).cycles


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"m": [1, 2], "n": [8, 8, 8]}, r"m: must be a column of 3 designs, got 'shape \(2,\)'"),
        ({"m": [[1, 2]]}, r"m: must be a column of 1 designs, got 'shape \(1, 2\)'"),
        ({"m": [1.0, 2.0]}, "m: must be a column of integers, texts, .* got 'float64'"),
        ({"rows": [1, 2]}, "rows: must be one of m, n, "),
    ],
)
def test_columns_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(SpecError, match=message):
        Designs(Mac, fields)


def test_totals_that_64_bits_cannot_hold_are_refused():
    designs = Designs(Mac, {"n": np.array([1, 2]), "k": 1})
    rule = "rows: must be few enough for totals in 64 bits, got 10000000"
    with pytest.raises(SpecError, match=rule):
        evaluate_columns(designs, [phase_of([LAYER], Pass(10**12))], Platform())


def test_a_column_decides_only_what_all_its_designs_agree_on():
    column = np.array([1, 2, 3]).view(Column)
    assert column > 0 and not column > 3
    with pytest.raises(DividedError) as divided:
        bool(column > 1)
    assert divided.value.holds.tolist() == [False, True, True]
    for whole in (range, int, hash):
        with pytest.raises(DividedError):
            whole(column)
    assert int(column > 0) == 1
    assert {4: "four"}[(column * 0 + 4)] == "four"


@given(st.lists(st.integers(0, 2**62) | st.integers(0, 62).map(lambda e: 2**e), min_size=1))
def test_lengths_of_a_column_are_those_of_its_integers(numbers):
    lengths = np.array(numbers).view(Column).bit_length()
    assert lengths.tolist() == [each.bit_length() for each in numbers]


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_largest_divisor(number, most):
    divisors = [each for each in range(1, min(number, most) + 1) if number % each == 0]
    assert largest_divisor(number, most) == max(divisors)


def test_engines_of_one_shape_read_out_alike():
    """Long groups are cut into as many equal parts as on each engine alone."""
    sizes = np.arange(1, 600)
    designs = Designs(LutTensorCore, {"group_size": sizes, "k": 3, "kg": 2})
    parts = designs.parts(lambda spec: spec.read_out_slices(700))
    found = {int(i): int(size) for part, of in parts for i, size in zip(part, of, strict=True)}
    assert found == {i: designs[i].read_out_slices(700) for i in range(len(sizes))}
