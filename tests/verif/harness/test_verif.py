"""The bench's own parts, without a simulator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import evolute.verif.commands.verify
from evolute import front
from evolute.hw.spec import ENGINES, CoreSpec, Engine, layout
from evolute.hw.spec.bit_serial import BitSerial
from evolute.hw.spec.formats import FLOATS, TERNARY, Activations
from evolute.hw.spec.layout import Beat, Field
from evolute.hw.spec.lut_tensor_core import LutTensorCore
from evolute.sim.golden import integer
from evolute.sim.golden.lut_tensor_core import plane_weights
from evolute.sim.numbers import decode
from evolute.sim.weights import Grid
from evolute.support.errors import RefusedError
from evolute.support.files import provenance, read_records
from evolute.verif.commands.verify import random_jobs
from evolute.verif.core import session as core_session
from evolute.verif.engines import lut_tensor_core
from evolute.verif.engines.stream_engine import KINDS, STREAMS
from evolute.verif.harness import bench, driver, simulators, words
from evolute.verif.harness.bench import Recording, Stimulus
from evolute.verif.harness.streams import Monitor, Sink, Source
from evolute.verif.harness.vectors import CORNERS, PAUSES, Matmul, near_halves
from evolute.verif.harness.verify import Report

SPEC = LutTensorCore(m=2, n=3, k=3, kg=2, weight_bits=3, group_size=13)
MADE_BEAT = Beat((Field("a", 3), Field("b", 5, (2, 3), signed=True), Field("c", 64, signed=True)))


# Words.


def test_words_follow_the_layout() -> None:
    b = np.array([[[1, -1, 0], [15, -16, 2]]])
    word = words.pack(MADE_BEAT, a=np.array([5]), b=b, c=np.array([-2]))
    expected = 5 | sum((int(v) & 31) << (3 + 5 * i) for i, v in enumerate(b.ravel()))
    assert int.from_bytes(word[0].tobytes(), "little") == expected | (2**64 - 2) << 33


@given(st.data())
def test_unpack_inverts_pack(data: st.DataObject) -> None:
    def values(low: int, high: int, count: int) -> np.ndarray:
        return np.array(data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    a, b = values(0, 7, 2), values(-16, 15, 12).reshape(2, 2, 3)
    c = values(-(2**63), 2**63 - 1, 2)
    fields = words.unpack(MADE_BEAT, words.pack(MADE_BEAT, a=a, b=b, c=c))
    np.testing.assert_array_equal(fields["a"], a)
    np.testing.assert_array_equal(fields["b"], b)
    np.testing.assert_array_equal(fields["c"], c)


def test_pack_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"b: must be in -16\.\.15"):
        words.pack(
            MADE_BEAT, a=np.array([0]), b=np.full((1, 2, 3), 16), c=np.zeros(1, dtype=np.int64)
        )


# Packing of operands.


def digits(spec: LutTensorCore, code: np.ndarray) -> np.ndarray:
    """What codes stand for in their plane, [..., k]: 1 or -1, 1 or 0, or a ternary digit."""
    if spec.base == 3:
        sign = 1 << spec.code_bits - 1
        number = np.where(code >= sign, sign - code, code)
        return (number[..., None] + 3**spec.k // 2) // 3 ** np.arange(spec.k) % 3 - 1
    bits = code[..., None] >> np.arange(spec.k) & 1
    if not spec.mirrored:
        return bits
    bits[..., :-1] ^= bits[..., -1:]
    return 2 * bits - 1


def multiply_words(spec: LutTensorCore, matmul: Matmul, weights: np.ndarray) -> np.ndarray:
    """Result words made from stream words the plain way: no tables, no tiles, just digits."""
    streams = layout.streams(spec)
    run = driver.run_of(spec, matmul)
    x = words.unpack(streams.activation, driver.activation_words(spec, matmul))["x"]
    code = words.unpack(streams.weight, weights)["code"]
    counts = plane_weights(spec, matmul.weight_format)
    planes = digits(spec, code).swapaxes(1, 2)  # [beats, planes of a beat, n, kg, k]
    planes = planes.reshape(-1, len(counts), spec.n, spec.slice_k)
    values = (planes * counts[:, None, None]).sum(axis=1)
    x = np.maximum(x, -spec.activations.maximum).reshape(-1, spec.m, spec.slice_k)
    psum = np.einsum("smk,snk->smn", x, values).reshape(run.tiles, run.slices, spec.m, spec.n)
    row_sum = x.sum(axis=2).reshape(run.tiles, run.slices, spec.m)
    starts = range(0, run.slices, run.group_slices)
    psum = np.add.reduceat(psum, starts, axis=1).reshape(-1, spec.m, spec.n)
    row_sum = np.add.reduceat(row_sum, starts, axis=1).reshape(-1, spec.m)
    return words.pack(streams.result, psum=psum, row_sum=row_sum)


@pytest.mark.parametrize("seed", range(30))
def test_packed_operands_multiply_to_the_integer_product(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = lut_tensor_core.random_spec(rng).evolve(table_bits=None, accumulator_bits=None)
    weight_format = spec.formats[rng.integers(len(spec.formats))]
    shape = driver.random_shape(spec, rng, weight_format)
    size, limit = (shape.m, shape.k), spec.activations.maximum
    x = rng.integers(-limit, limit + 1, size)
    codes = rng.integers(0, weight_format.levels, (shape.n, shape.k), dtype=np.uint8)
    matmul = Matmul(x, Grid.plain(codes, weight_format, shape.group))
    weights = driver.weight_words(spec, matmul, rng)
    run = driver.run_of(spec, matmul)
    assert len(weights) == run.beats == run.steps
    sums = driver.sums(spec, matmul, multiply_words(spec, matmul, weights))
    plain = integer.group_sums(
        x, integer.weights(spec, Grid.plain(codes, weight_format, shape.group)), shape.group
    )
    np.testing.assert_array_equal(sums.psum, plain.psum)
    for column_tile in range(sums.row_sum.shape[2]):
        np.testing.assert_array_equal(sums.row_sum[:, :, column_tile], plain.row_sum)


def test_command_names_the_loop_counts() -> None:
    matmul = Matmul(np.zeros((3, 40), int), Grid.plain(np.zeros((7, 40), np.uint8), TERNARY, 13))
    beat = layout.streams(SPEC).command
    fields = words.unpack(beat, driver.command_words(SPEC, matmul))
    # Groups of 13, 13, 13 and 1 weights take 3, 3, 3 and 1 slices of 6; 2 x 3 tiles of 2 x 3.
    assert {name: value.tolist() for name, value in fields.items()} == {
        "planes_minus_1": [1],
        "mode": [1],
        "group_slices_minus_1": [2],
        "slices_minus_1": [9],
        "tiles_minus_1": [5],
    }


# Vectors.


def test_corners_reach_the_ends_of_the_range() -> None:
    rng, kind = np.random.default_rng(0), Activations(5)
    corners = {name: make(rng, kind, (4, 50)) for name, make in CORNERS.items()}
    assert set(corners["maximum"].ravel()) == {15}
    assert set(corners["minimum"].ravel()) == {-15}
    assert set(corners["leftover"].ravel()) == {-16}
    assert set(corners["extremes"].ravel()) == {-15, 15}
    assert 0 < np.count_nonzero(corners["sparse"]) < 100


@pytest.mark.parametrize("name", PAUSES)
def test_pauses_stop_and_flow(name: str) -> None:
    pattern = PAUSES[name](np.random.default_rng(1), 500)
    assert pattern.dtype == bool and len(pattern) == 500 and 0 < pattern.sum() < 500


def test_cases_depend_on_nothing_but_the_seed() -> None:
    for make in KINDS.values():
        first, second = (make(SPEC, np.random.default_rng(5)) for _ in range(2))
        assert [case.name for case in first] == [case.name for case in second]
        for one, other in zip(first, second, strict=True):
            for a, b in zip(one.matmuls, other.matmuls, strict=True):
                np.testing.assert_array_equal(a.x, b.x)
                np.testing.assert_array_equal(a.codes, b.codes)


def test_a_simulation_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_session, "QUIT_SECONDS", 0.2)
    session = core_session.Session.__new__(core_session.Session)
    endless = [sys.executable, "-c", "while True: pass"]
    session._process = subprocess.Popen(
        endless, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    session._stop()
    assert session._process.poll() is not None


def test_many_weights_bring_every_code_with_every_special_value_to_every_place() -> None:
    spec = BitSerial(
        m=1, n=2, k=3, terms="bitmod", activation_bits=5, weight_bits=5, group_size=9
    )  # fmt: skip
    (case,) = KINDS["many"](spec, np.random.default_rng(3))
    found = {each.weight_format.name: each for each in case.matmuls}
    matmul = found["bitmod4"]
    assert isinstance(matmul.weights, Grid)
    places = matmul.codes.reshape(2, -1, 3)
    for column, place in np.ndindex(2, 3):
        seen = zip(matmul.weights.special[column], places[column, :, place], strict=True)
        assert len(set(seen)) > 55  # of 16 * 4


@pytest.mark.parametrize("bits", [5, 9, 14])
def test_near_halves_align_to_a_half_or_a_little_more(bits: int) -> None:
    kind = Activations(bits, FLOATS["fp16"])
    exponent = np.broadcast_to(np.arange(5, 25)[:, None], (20, 500))
    codes = near_halves(np.random.default_rng(2), kind, exponent)
    last = np.ldexp(1.0, exponent - 15 - kind.bits + 2)  # what the integer's last bit counts as
    rest = np.abs(decode(codes, FLOATS["fp16"])) / last % 1
    assert (rest == 0.5).mean() > 0.2
    little_more = (rest > 0.5) & (np.frexp(rest - 0.5)[0] == 0.5)
    assert little_more.mean() > 0.1 or bits > 13


def test_random_specs_are_varied_and_repeatable() -> None:
    kinds = set(ENGINES.values())
    specs = [job.spec for job in random_jobs(80 * len(kinds), seed=4)]
    assert [job.spec for job in random_jobs(5, seed=4)] == specs[:5]
    engines = [spec for spec in specs if isinstance(spec, LutTensorCore)]
    assert len(engines) == 60
    assert {spec.k for spec in engines} == {2, 3, 4, 5, 6}
    assert {spec.weight_bits for spec in engines} == set(range(1, 9))
    assert {spec.table_bits is None for spec in engines} == {True, False}
    cores = [spec for spec in specs if isinstance(spec, CoreSpec)]
    assert len(cores) == 20 * len(kinds)
    assert {spec.bus_bits for spec in cores} == {64, 128, 256, 512}
    for kind in kinds:
        assert sum(type(spec) is kind for spec in specs) == 60
        assert sum(type(core.engine) is kind for core in cores) == 20
    assert len({spec.digest for spec in specs}) == len(specs)


def test_icarus_draws_no_cores() -> None:
    assert all(isinstance(job.spec, Engine) for job in random_jobs(8, 1, "icarus"))


# Streams.


class Port:
    """A signal of the pretended device."""

    def __init__(self, value: int = 0):
        self.value = value


def test_source_keeps_its_beat_until_it_is_taken() -> None:
    payload, valid, ready = Port(), Port(), Port()
    source = Source(payload, valid, ready, width=4)
    source.load([1, 2, 3], [True, False, True, False, True, False])
    seen = []
    for cycle, taken in enumerate((1, 0, 0, 1, 1, 1, 1, 1)):
        source.drive(cycle)
        seen.append((valid.value, payload.value if valid.value else None))
        ready.value = taken
        source.observe(cycle)
    # Paused in 0; offers 1 in 1 through the pause in 2; paused again in 4.
    assert seen == [(0, None), (1, 1), (1, 1), (1, 1), (0, None), (1, 2), (1, 3), (0, None)]
    assert source.transfers == [3, 5, 6]


def test_idle_source_shows_no_beat_of_its_own() -> None:
    payload, valid = Port(), Port()
    source = Source(payload, valid, Port(1), width=4)
    source.load([5, 6], [False, True])
    source.drive(0)
    source.observe(0)
    source.drive(1)
    assert valid.value == 0 and payload.value not in (5, 6)


class Word:
    """A read value, as cocotb's."""

    def __init__(self, number: int):
        self.number = number

    def to_unsigned(self) -> int:
        return self.number


def test_sink_is_ready_when_it_does_not_pause() -> None:
    payload, valid, ready = Port(), Port(1), Port()
    sink = Sink(payload, valid, ready)
    sink.load([True, False, True])
    payload.value = Word(9)  # type: ignore[assignment]
    readiness = []
    for cycle in range(4):
        sink.drive(cycle)
        readiness.append(ready.value)
        sink.observe(cycle)
    assert readiness == [0, 1, 0, 1]
    assert sink.transfers == [1, 3] and sink.beats == [9, 9]


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ((True, 7), []),
        ((True, 8), ["cycle 1: the payload changed before it was taken"]),
        ((False, 7), ["cycle 1: valid fell before the beat was taken"]),
    ],
)
def test_monitor_holds_an_offer_to_its_word(second: tuple, complaint: list[str]) -> None:
    monitor = Monitor()
    monitor.observe(0, True, False, 7)
    monitor.observe(1, second[0], True, second[1])
    monitor.observe(2, True, True, 1)
    assert monitor.violations == complaint


# Files between bench and simulator.


def test_records_survive_their_file(tmp_path: Path) -> None:
    beats = np.arange(6, dtype=np.uint8).reshape(2, 3)
    pause = np.array([True, False])
    stimulus = Stimulus(beats, beats, beats, pause, pause, pause, pause, 4, 99, 7, True)
    bench.save(tmp_path / "s.npz", [stimulus] * 12)
    loaded = bench.load(tmp_path / "s.npz", Stimulus)
    assert len(loaded) == 12
    np.testing.assert_array_equal(loaded[11].weight, beats)
    assert (loaded[3].results, loaded[3].reset_after_cycles, loaded[3].probe) == (4, 7, True)


def test_recording_counts_cycles_to_its_last_result() -> None:
    none = np.zeros(0, int)
    recording = Recording(none, none, none, np.array([4, 9]), none, none)
    assert recording.cycles == 10
    assert Recording(none, none, none, none, none, none).cycles == 0


# Refusals and records.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--waves", "a.vcd"], "need a PRESET"),
        (["--set", "m=2"], "need a PRESET"),
        (["lut-fpga", "--waves", "a.fst"], "must end in .vcd"),
        (["lut-fpga", "--random", "3"], "give no PRESET"),
        (["--random", "0"], "must be a whole number in 1.."),
    ],
)
def test_command_line_is_checked(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(front.cli, ["verify", *arguments])
    assert result.exit_code == 2
    assert complaint in result.output


def test_an_interrupted_verification_leaves_its_reports_in_the_records(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = Report("x", SPEC, "verilator", 3, 1, 10, 5, 7, 8, (), {"M = 1": 1}, 0.1, 0.2)

    def interrupted(jobs: Sequence[evolute.verif.commands.verify.VerifyJob]) -> Iterator[Report]:
        yield done
        raise KeyboardInterrupt

    monkeypatch.setattr(evolute.verif.commands.verify, "run_jobs", interrupted)
    result = CliRunner().invoke(front.cli, ["verify", "--out", str(tmp_path)])
    assert result.exit_code != 0
    (record,) = read_records(tmp_path / "records.jsonl")
    assert record["preset"] == "x" and record["mismatches"] == 0
    assert record["provenance"]["tools"]["cocotb"]


@pytest.mark.parametrize("simulator", simulators.SIMULATORS)
def test_absent_simulator_is_refused(simulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert not simulators.available(simulator)
    with pytest.raises(RefusedError, match=f"{simulator}: needs .* on the path"):
        simulators.build("module top; endmodule", "top", simulator)


def test_report_counts_its_differences() -> None:
    report = Report("x", SPEC, "verilator", 3, 1, 10, 5, 7, 8, ("a", "b"), {"M = 1": 1}, 0.1, 0.2)
    record = report.to_record(provenance("simulated"))
    assert not report.passed
    assert record["mismatches"] == 2
    assert record["cycles"] == {"rtl": 7, "model": 8}
    assert record["digest"] == SPEC.digest
    json.dumps(record, allow_nan=False)


def test_every_stream_can_pause() -> None:
    stalled = {
        stream for case in KINDS["stalls"](SPEC, np.random.default_rng(0)) for stream in case.pauses
    }
    assert stalled == set(STREAMS)
