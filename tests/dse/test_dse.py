"""Searches: choosing, judging, resuming, and the record that comes out."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import BaseTrial, FixedTrial, TrialState

import evolute.dse.objectives
import evolute.sw.language_model.perplexity
from evolute.dse import study_record as record
from evolute.dse.objectives import (
    Benchmark,
    measure,
    perplexity,
    require_scope,
    scope_in_words,
    text,
)
from evolute.dse.pareto import hypervolume, knee, losses
from evolute.dse.space import SPACE, Candidate, Codes, choose, codes_to_try
from evolute.dse.study import (
    Constraint,
    Strategy,
    StudyError,
    explore,
    feasible,
    front,
    open_storage,
    open_study,
)
from evolute.hw.spec import ENGINES, LutDla, LutTensorCore, Mac, VqCodebook
from evolute.hw.spec.base import SpecError
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.evaluate import evaluate
from evolute.support.errors import RefusedError
from evolute.support.files import FileError
from evolute.support.processes import DeadWorkerError
from evolute.sw.checkpoints.zoo import load
from evolute.sw.deploy.assignment import assign
from evolute.sw.deploy.on_engine import engine_linears
from evolute.sw.language_model.linear import host_linears
from evolute.sw.quantizers.rounding import Rounding, Scheme, quantize
from evolute.sw.tensors.tensor import QuantError
from evolute.sw.tensors.weights import parse_weights

SPACE_OF_LUT = SPACE[LutTensorCore]
CODES = {
    name: Codes(parse_weights(name), bits, group)
    for name, bits, group in (("w2g32", 2, 32), ("w4g128", 4, 128))
}
OBJECTIVES = ("area_ge", "tokens_per_s", "perplexity")
SETUP = {
    "engine": "lut_tensor_core",
    "model": "none",
    "objectives": list(OBJECTIVES),
    "constraints": [],
    "text": "none",
    "tokens": 1,
    "context": 1,
    "seed": 5,
    "code": "none",
}


def choose_lut(trial: BaseTrial) -> Candidate:
    return choose(SPACE_OF_LUT, CODES, (2e8,), (6.4e9, 12.8e9), trial)


def toy_metrics(candidate: Candidate) -> dict[str, float]:
    """Smooth stand-ins with a real trade-off: bigger engines are faster, fewer bits are worse."""
    spec = candidate.spec
    lanes = spec.m * spec.n * spec.kg
    return {
        "area_ge": 100.0 * lanes * 2**spec.k / spec.k * spec.weight_bits,
        "tokens_per_s": lanes * spec.k * candidate.platform.bandwidth_bytes_per_s**0.5,
        "perplexity": 10 + 40 / spec.weight_bits**2,
        "clock_mhz": candidate.platform.frequency_hz / 1e6,
    }


def search(**changes) -> Strategy:
    plan = Strategy(choose_lut, toy_metrics, OBJECTIVES, (), seed=5)
    return replace(plan, **changes)


def new_study(
    storage: optuna.storages.BaseStorage | None = None,
    resume: bool = False,
    setup: dict | None = None,
) -> optuna.Study:
    """A study in memory unless told otherwise; SQLite waits for the disk at every step."""
    directions = ["minimize", "maximize", "minimize"]
    storage = storage or optuna.storages.InMemoryStorage()
    return open_study(storage, "toy", directions, setup or SETUP, resume)


def test_every_engine_has_a_space() -> None:
    # No quantizer makes codebooks, so that there are no weights to search over.
    assert set(SPACE) == set(ENGINES.values()) - {VqCodebook, LutDla}


def test_a_fixed_trial_becomes_its_candidate() -> None:
    params = {"m": 2, "n": 16, "k": 4, "kg": 2, "table_bits": 8, "weights": "w2g32"}
    params |= {"mirrored": True, "planes_per_step": 1}
    platform = {"frequency_hz": 2e8, "bandwidth_bytes_per_s": 6.4e9}
    candidate = choose_lut(FixedTrial({**params, **platform}))
    assert candidate.spec == LutTensorCore(
        m=2, n=16, k=4, kg=2, weight_bits=2, group_size=32, table_bits=8
    )
    assert candidate.weights.name == "w2g32"
    assert candidate.platform.bandwidth_bytes_per_s == 6.4e9


def test_a_fixed_trial_is_measured_for_real() -> None:
    """The smallest engine: synthesis, cycles and perplexity, at a clock that it cannot reach."""
    model = load("evolute-tiny")
    codes = codes_to_try(SPACE_OF_LUT, model)
    choices = {"m": 1, "n": 8, "k": 2, "kg": 1, "table_bits": None, "weights": "w4g32"}
    choices |= {"mirrored": True, "planes_per_step": 1}
    platform = {"frequency_hz": 1e11, "bandwidth_bytes_per_s": 1e15}
    trial = FixedTrial({**choices, **platform})
    candidate = choose(SPACE_OF_LUT, codes, (1e11,), (1e15,), trial)
    benchmark = Benchmark("evolute-tiny", None, tokens=63, context=64)
    try:
        found = measure(benchmark, ("perplexity",), candidate)
    except FileError as error:
        pytest.skip(f"no cell library: {error}")
    assert found["clock_mhz"] == pytest.approx(1e3 / found["delay_ns"])
    work = assign(model, candidate.weights, candidate.spec).workload
    run = evaluate(candidate.spec, work, Platform(1e6 * found["clock_mhz"], 1e15))
    assert found["tokens_per_s"] == pytest.approx(run.decode.tokens / run.decode.seconds)
    assert found["area_ge"] > 1000
    linears, reference = (
        engine_linears(assign(model, candidate.weights, candidate.spec)),
        host_linears(model),
    )
    direct = evolute.sw.language_model.perplexity.measure(
        model, linears, reference, text(benchmark), 63, 64
    )
    assert found["perplexity"] == direct.perplexity
    assert measure(benchmark, (), candidate).keys() == found.keys() - {"perplexity"}
    assert found["mac_share"] == work.mac_share() < 1


def test_a_kept_perplexity_is_of_one_kind_of_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evolute.dse.objectives, "cache_directory", lambda: tmp_path)
    benchmark, weights = (
        Benchmark("evolute-tiny", None, tokens=7, context=8),
        parse_weights("w4g32"),
    )
    for spec in (LutTensorCore(weight_bits=4), Mac(weight_bits=4)):
        assignment = assign(load("evolute-tiny"), weights, spec)
        first, again = (perplexity(benchmark, assignment) for _ in range(2))
        assert first == again
    assert len(list((tmp_path / "perplexity").iterdir())) == 2


def test_candidates_of_different_scopes_are_not_ranked() -> None:
    """An engine that cannot hold the head is faster by just that; it is refused, not measured."""
    tiny = load("evolute-tiny")
    head = quantize(tiny.head, Rounding(WeightCodes(8), 32, Scheme.SYMMETRIC))
    coded = replace(tiny, tensors={**tiny.tensors, "head": head})
    weights = parse_weights("w4g32")
    narrow, wide = LutTensorCore(weight_bits=4), LutTensorCore(weight_bits=8)
    assert scope_in_words(coded) == "all linear layers"
    whole = assign(coded, weights, wide)
    assert require_scope(whole) is whole
    with pytest.raises(QuantError, match="w4g32 leaves head to the host, other candidates do not"):
        require_scope(assign(coded, weights, narrow))
    # Where the checkpoint has no codes of the head, all leave it.
    assert scope_in_words(tiny) == "all linear layers but head"
    require_scope(assign(tiny, weights, narrow))


def test_an_engine_is_built_for_the_widest_codes_that_the_model_holds() -> None:
    codes = codes_to_try(SPACE_OF_LUT, load("evolute-tiny"))
    assert set(codes) == set(SPACE_OF_LUT.weights)  # no codes of its own, so nothing is native
    assert (codes["w4g128"].bits, codes["w4g128"].group) == (4, 128)
    tiny = load("evolute-tiny")
    head = quantize(tiny.head, Rounding(WeightCodes(8), 32, Scheme.SYMMETRIC))
    coded = replace(tiny, tensors={**tiny.tensors, "head": head})
    codes = codes_to_try(SPACE_OF_LUT, coded)
    assert codes["w4g128"].bits == 8 and codes["native"].group == 32


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"table_bits": 3}, "table_bits"),
        ({"m": 4, "n": 64}, "m * n * kg * planes_per_step"),
        ({"n": 64, "k": 6}, "m * n * kg * planes_per_step * entries"),
        ({"weights": "w2g32", "planes_per_step": 2, "n": 64}, "m * n * kg * planes_per_step"),
    ],
)
def test_illegal_and_oversized_candidates_are_refused(changes: dict, field: str) -> None:
    space = replace(SPACE_OF_LUT, fields={**SPACE_OF_LUT.fields, "table_bits": (3, 8)})
    params = {"m": 1, "n": 8, "k": 4, "kg": 2, "table_bits": 8, "weights": "w2g32"}
    params |= {"mirrored": True, "planes_per_step": 1} | changes
    platform = {"frequency_hz": 2e8, "bandwidth_bytes_per_s": 6.4e9}
    with pytest.raises(SpecError) as refusal:
        choose(space, CODES, (2e8,), (6.4e9,), FixedTrial({**params, **platform}))
    assert refusal.value.field == field


def test_refused_candidates_are_pruned_with_the_reason() -> None:
    def never(trial: BaseTrial) -> Candidate:
        raise SpecError("k", "legal", choose_lut(trial).spec.k)

    study = new_study()
    with pytest.raises(StudyError, match="refused, the last for: k: must be legal"):
        explore(study, search(choose=never), 3, workers=1)
    assert {trial.state for trial in study.trials} == {TrialState.PRUNED}
    assert study.trials[0].user_attrs["refused"].startswith("k: must be legal")
    assert record.of_study(study).front == []


def test_the_same_seed_finds_the_same_trials() -> None:
    found = []
    for _ in range(2):
        study = new_study()
        explore(study, search(), 15, workers=1)
        found.append([(trial.params, trial.values) for trial in study.trials])
    assert found[0] == found[1]
    other = new_study()
    explore(other, search(seed=6), 15, workers=1)
    assert [(trial.params, trial.values) for trial in other.trials] != found[0]


def test_an_interrupted_search_resumes_to_the_same_result(tmp_path: Path) -> None:
    straight = new_study()
    explore(straight, search(), 13, workers=1)
    calls = 0

    def interrupted(candidate: Candidate) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return toy_metrics(candidate)

    study = new_study(open_storage(tmp_path / "s.db"))
    with pytest.raises(KeyboardInterrupt):
        explore(study, search(measure=interrupted), 13, workers=1)
    study = new_study(open_storage(tmp_path / "s.db"), resume=True)
    explore(study, search(), 13, workers=1)
    kept = [trial for trial in study.trials if trial.state is not TrialState.FAIL]
    assert len(kept) == len(study.trials) - 1  # the one that was interrupted
    assert [(each.params, each.values) for each in kept] == [
        (each.params, each.values) for each in straight.trials
    ]
    volumes = [record.of_study(each).hypervolume for each in (study, straight)]
    assert volumes[0] == volumes[1] > 0


def test_a_study_is_continued_only_if_asked_and_only_with_its_setup() -> None:
    storage = optuna.storages.InMemoryStorage()
    new_study(storage)
    with pytest.raises(StudyError, match="--resume"):
        new_study(storage)
    with pytest.raises(StudyError, match="seed=5, not 6"):
        new_study(storage, resume=True, setup=SETUP | {"seed": 6})


def die(candidate: Candidate) -> dict[str, float]:
    os._exit(3)


def test_a_worker_that_dies_ends_a_search_and_is_no_refused_candidate() -> None:
    study = new_study()
    with pytest.raises(DeadWorkerError, match="a worker process died: too little memory for"):
        explore(study, search(measure=die), 3, workers=2)
    states = {trial.state for trial in study.trials if "candidate" in trial.user_attrs}
    assert states == {TrialState.FAIL}  # the spec refuses others before they are measured


def test_a_candidate_that_no_tool_can_measure_is_pruned() -> None:
    def picky(candidate: Candidate) -> dict[str, float]:
        if candidate.spec.k > 3:
            raise RefusedError("synthesis took too long")
        return toy_metrics(candidate)

    study = new_study()
    explore(study, search(measure=picky), 12, workers=1)
    refused = [trial for trial in study.trials if "refused" in trial.user_attrs]
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 12
    assert any("took too long" in trial.user_attrs["refused"] for trial in refused)
    assert all(trial.state is TrialState.PRUNED for trial in refused)


def test_a_broken_machine_stops_the_search_and_keeps_its_results() -> None:
    calls = 0

    def failing(candidate: Candidate) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise FileError("no space left")
        return toy_metrics(candidate)

    study = new_study()
    with pytest.raises(FileError, match="no space left"):
        explore(study, search(measure=failing), 12, workers=1)
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 3
    assert TrialState.RUNNING not in states


def test_no_candidate_on_the_front_is_beaten_and_constraints_hold() -> None:
    limit = Constraint("area_ge", True, 40000.0)
    study = new_study()
    explore(study, search(constraints=(limit,)), 25, workers=1)
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    allowed = [trial for trial in complete if trial.values[0] <= limit.bound]
    assert {trial.number for trial in complete if feasible(trial)} == {t.number for t in allowed}
    assert 0 < len(allowed) < len(complete)
    signs = np.array([1, -1, 1])
    costs = np.array([trial.values for trial in allowed]) * signs
    for trial in front(study):
        mine = np.array(trial.values) * signs
        assert not ((costs <= mine).all(axis=1) & (costs < mine).any(axis=1)).any()


@pytest.mark.parametrize(
    ("constraint", "value", "excess"),
    [
        (Constraint("area_ge", True, 200.0), 300.0, 0.5),
        (Constraint("area_ge", True, 200.0), 100.0, -0.5),
        (Constraint("tokens_per_s", False, 200.0), 100.0, 0.5),
    ],
)
def test_a_constraint_tells_by_how_much_it_is_broken(
    constraint: Constraint, value: float, excess: float
) -> None:
    assert constraint.excess(value) == pytest.approx(excess)


def test_hypervolume_of_two_points_by_hand() -> None:
    points = losses([[1, 2], [2, 4]], ["minimize", "maximize"])
    worst = losses([[4, 1]], ["minimize", "maximize"])[0]
    # In units of ln 2: rectangles 2 x 1 and 1 x 2 that share 1 x 1.
    assert hypervolume(points, worst) == pytest.approx(3 * np.log(2) ** 2)


def test_knee_follows_the_weights() -> None:
    points = losses([[1, 100], [3, 3], [100, 1]], ["minimize", "minimize"])
    assert knee(points, [1, 1]) == 1
    assert knee(points, [10, 1]) == 0
    assert knee(points, [1, 10]) == 2


def test_the_record_and_the_table_hold_the_front() -> None:
    study = new_study()
    explore(study, search(), 12, workers=1)
    found = record.of_study(study)
    by_number = {trial.number: trial for trial in found.trials}
    for trial in front(study):
        assert by_number[trial.number].metrics["area_ge"] == trial.values[0]
    rows = list(csv.DictReader(io.StringIO(record.front_csv(found))))
    assert [int(row["trial"]) for row in rows] == [t.number for t in record.front_trials(found)]
    assert float(rows[0]["area_ge"]) == min(by_number[n].metrics["area_ge"] for n in found.front)
    for objective in found.objectives:
        values = [trial.metrics[objective.name] for trial in found.trials if trial.feasible]
        worst = max(values) if objective.direction == "minimize" else min(values)
        assert found.reference[objective.name] == worst


def test_a_storage_that_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_text("not a database, but long enough to look at" * 50)
    with pytest.raises(FileError) as refusal:
        open_storage(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
