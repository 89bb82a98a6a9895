"""Tables by centroid made from samples, and models of them, on an engine and on a core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evolute.hw.spec import SpecError
from evolute.hw.spec.formats import Activations, Kind, WeightCodes
from evolute.hw.spec.lut_dla import METRICS
from evolute.hw.spec.presets import CORES
from evolute.sim.weights import Centroids, Table, nearest, subspaces
from evolute.sw.checkpoints import quantized_file
from evolute.sw.checkpoints.zoo import load
from evolute.sw.deploy.assignment import assign
from evolute.sw.deploy.on_core import core_linears, core_model, golden_stage, integer_stage
from evolute.sw.deploy.on_engine import engine_linears
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.linear import Linears, host_linears, linear_names
from evolute.sw.language_model.model import CheckpointError, LanguageModel
from evolute.sw.quantizers.lut_dla import (
    Tables,
    fitted_tables,
    learn_centroids,
    parse_tables,
    seen_inputs,
    tables_of,
    tabulated,
)
from evolute.sw.quantizers.whole_tables import write_tables
from evolute.sw.tensors.tensor import QuantError, QuantTensor
from evolute.sw.tensors.weights import parse_weights

TINY = load("evolute-tiny")
NATIVE = parse_weights("native")
IDS = TINY.tokenizer.encode("Once upon a time there was a little girl who had a red ball.")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """The shipped model in tables for core-dla; of few samples, which is a rough one."""
    choice = Tables(v=2, centroids=16)
    return tabulated(TINY, choice, seen_inputs(TINY, [IDS, IDS[::-1]]))[0]


def logits(model: LanguageModel, linear: Linears, ids: list[int]) -> np.ndarray:
    return head(model, linear, forward(model, linear, ids, Cache(model.config, len(ids))))


def test_tables_give_identical_logits_however_computed(model: LanguageModel) -> None:
    core = CORES["core-dla"]
    held = core_model(assign(model, NATIVE, core))
    assert list(map(str, held.host)) == ["head"]
    on_core = [
        logits(model, core_linears(held, run(held)), IDS[:4])
        for run in (integer_stage, golden_stage)
    ]
    assert np.array_equal(on_core[0], on_core[1])
    engine = core.engine
    on_engine = [
        logits(model, engine_linears(assign(model, NATIVE, engine), backend), IDS[:4])
        for backend in ("integer", "golden")
    ]
    assert np.array_equal(on_engine[0], on_engine[1])
    wanted = logits(TINY, host_linears(TINY), IDS[:4])
    for found in (on_core[0], on_engine[0]):
        assert np.corrcoef(found.reshape(-1), wanted.reshape(-1))[0, 1] > 0.9


def test_the_host_computes_tables_as_shipped(model: LanguageModel) -> None:
    """In float32, of sums that an engine has exactly."""
    engine, tensor = CORES["core-dla"].engine, model.tensors["0.down"]
    assert isinstance(tensor, QuantTensor) and isinstance(tensor.form, Table)
    x = np.random.default_rng(1).normal(size=(3, TINY.config.ffn)).astype(np.float32)
    (found,) = host_linears(model)(["0.down"], x)
    (exact,) = engine_linears(assign(model, NATIVE, engine))(["0.down"], x)
    # One rounding of each entry, one for every sum of two, and one of the whole.
    terms = len(tensor.form.centroids.points)
    largest = np.abs(tensor.rows(slice(None), np.float64)).max() * np.abs(x).max() / 127
    assert np.abs(found - exact).max() <= terms * largest * (terms + 2) * 2.0**-24


def test_sums_that_wrap_are_golden_only(model: LanguageModel) -> None:
    """Where the width is enough they are those of the exact engine."""
    engine = CORES["core-dla"].engine
    wide = engine.evolve(overflow="saturate", accumulator_bits=engine.acc_bits)
    with pytest.raises(QuantError, match="must be golden for inexact sums"):
        engine_linears(assign(model, NATIVE, wide), "integer")
    found = [
        logits(model, engine_linears(assign(model, NATIVE, each), "golden"), IDS[:2])
        for each in (engine, wide, wide.evolve(accumulator_bits=9))
    ]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_an_engine_for_other_centroids_is_refused(model: LanguageModel) -> None:
    engine = CORES["core-dla"].engine
    with pytest.raises(SpecError, match="metric: must be l1 for these tables, got 'l2'"):
        engine_linears(assign(model, NATIVE, engine.evolve(metric="l2")))
    with pytest.raises(QuantError, match="tables by centroid stand for no weights"):
        engine_linears(assign(model, parse_weights("w4g32"), CORES["core-decode"].engine))


def test_what_tables_store_is_counted(model: LanguageModel) -> None:
    (layer,) = (
        each
        for each in assign(model, NATIVE, CORES["core-dla"]).workload.kinds
        if each.name.role == "down"
    )
    hidden, ffn = TINY.config.hidden, TINY.config.ffn
    entries, centroids = hidden * ffn // 2 * 16 * 8, ffn // 2 * 16 * 2 * 8
    assert layer.index_bits == layer.count * (entries + centroids)


def test_a_folder_of_tables_opens_as_it_was_written(model: LanguageModel, tmp_path: Path) -> None:
    quantized_file.write_quantized(tmp_path, model, {})
    opened = quantized_file.read_quantized(tmp_path)
    for name in linear_names(model)[:-1]:
        ours, theirs = model.tensors[name], opened.tensors[name]
        assert isinstance(ours, QuantTensor) and isinstance(theirs, QuantTensor)
        assert isinstance(ours.form, Table) and isinstance(theirs.form, Table)
        first, second = ours.form.centroids, theirs.form.centroids
        assert np.array_equal(first.points, second.points)
        for each in ("k", "metric", "activations"):
            assert getattr(first, each) == getattr(second, each)
        assert np.array_equal(ours.codes, theirs.codes) and ours.shape == theirs.shape
        assert np.array_equal(ours.scale, theirs.scale)
        assert np.array_equal(ours.minimum, theirs.minimum)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"metric": "l1"', '"metric": "cosine"'),
        ('"activation_bits": 8', '"activation_bits": 4'),
        ('"activation_format": "int"', '"activation_format": "fp3"'),
        ('"group": 128', '"group": 127'),
    ],
)
def test_a_broken_folder_of_tables_is_refused(
    model: LanguageModel, tmp_path: Path, old: str, new: str
) -> None:
    quantized_file.write_quantized(tmp_path, model, {})
    document = tmp_path / quantized_file.DOCUMENT
    text = document.read_text()
    assert old in text
    document.write_text(text.replace(old, new))
    with pytest.raises(CheckpointError):
        quantized_file.read_quantized(tmp_path)


def test_a_model_is_written_with_what_it_costs(tmp_path: Path) -> None:
    choice = Tables(v=4, centroids=2, bits=4, group=64)
    document = write_tables(TINY, "dla-v4c2b4g64", choice, [IDS], tmp_path)
    assert [each["name"] for each in document["layers"]] == linear_names(TINY)[:-1]
    assert 2 * 4 / 4 < document["bits_index"] + 0.1 < document["bits_total"] + 0.1
    assert all(0 < each["proxy_error"] < 1 for each in document["layers"])
    opened = quantized_file.read_quantized(tmp_path)
    tensor = opened.tensors["0.q"]
    assert isinstance(tensor, QuantTensor) and tensor.format == WeightCodes(4, Kind.TABLE)


@pytest.mark.parametrize("metric", METRICS)
def test_clusters_far_apart_are_found(metric: str) -> None:
    rng = np.random.default_rng(1)
    middles = np.array([[-90, -90], [-90, 90], [90, -90], [90, 90]])
    which = rng.integers(0, 4, (300, 3))
    x = (middles[which] + rng.integers(-5, 6, (300, 3, 2))).reshape(300, 6)
    choice = Tables(v=2, centroids=4, metric=metric, group=6)
    centroids, means = learn_centroids(x, choice, rng)
    for s in range(3):
        distance = np.abs(centroids.points[s] - middles[:, None]).max(axis=2)
        assert (distance.min(axis=1) <= 6).all() and (distance <= 6).sum() == 4
        assert np.abs(means[s] - centroids.points[s]).max() <= 6
    again, _ = learn_centroids(x, choice, np.random.default_rng(1))
    same, _ = learn_centroids(x, choice, np.random.default_rng(1))
    assert np.array_equal(again.points, same.points)


def test_what_a_centroid_takes_none_of_has_a_mean_of_zero() -> None:
    x = np.full((10, 2), 5)
    centroids, means = learn_centroids(x, Tables(v=2, centroids=4), np.random.default_rng(0))
    assert (nearest("l1", subspaces(x, 2, 2), centroids.points) == 0).all()
    assert means.tolist() == [[[5, 5], [0, 0], [0, 0], [0, 0]]]


def test_fitted_tables_are_ridge_regression() -> None:
    """Against the stacked least squares that a ridge is, solved by another routine."""
    rng = np.random.default_rng(2)
    x, w = rng.integers(-127, 128, (40, 7)), rng.normal(size=(3, 7))
    choice = Tables(v=2, centroids=4, group=5)
    centroids, means = learn_centroids(x, choice, rng)
    found = fitted_tables(w, x, centroids, means, 5)
    meets = centroids.one_hot(x, 5).astype(float)
    assert meets.shape == (40, 4 * 4) and (meets.sum(axis=1) == 4).all()
    pieces = subspaces(w, 5, 2)
    prior = np.einsum("nsv,scv->nsc", pieces, means).reshape(3, -1)
    weight = np.sqrt(0.1 * 40 / 4)
    rows = np.concatenate([meets, weight * np.eye(16)])
    wanted = np.concatenate([x @ w.T, weight * prior.T])
    assert np.allclose(found, np.linalg.lstsq(rows, wanted, rcond=None)[0].T, rtol=1e-6)


def test_entries_are_within_half_a_step_of_what_was_fitted() -> None:
    rng = np.random.default_rng(3)
    x, w = rng.integers(-127, 128, (60, 12)), rng.normal(size=(5, 12)).astype(np.float32)
    choice = Tables(v=3, centroids=8, bits=6, group=6)
    centroids, means = learn_centroids(x, choice, rng)
    tensor = tables_of(w, x, centroids, means, choice)
    wanted = fitted_tables(w, x, centroids, means, 6)
    steps = np.repeat(tensor.scale, 2 * 8, axis=1)
    # The largest entry decides the scale, which is rounded to half precision.
    slack = 31 * 2.0**-11
    assert (np.abs(tensor.rows(slice(None), np.float64) - wanted) <= (0.5 + slack) * steps).all()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("dla-v2c16", Tables(v=2, centroids=16)),
        (
            "dla-v4c64l2b4g32",
            Tables(v=4, centroids=64, metric="l2", bits=4, group=32),
        ),
        ("dla-v8c8chebyshev", Tables(v=8, centroids=8, metric="chebyshev")),
        ("gptq-w2g64", None),
    ],
)
def test_a_name_says_how_tables_are_made(text: str, wanted: Tables | None) -> None:
    assert parse_tables(text) == wanted


@pytest.mark.parametrize("text", ["dla-", "dla-v2", "dla-v2c16l3", "dla-v2c16b9"])
def test_strange_names_are_refused(text: str) -> None:
    with pytest.raises(QuantError, match=r"method: must be dla-v<inputs>c<centroids>"):
        parse_tables(text)


@pytest.mark.parametrize("text", ["dla-v17c16", "dla-v2c1", "dla-v2c65"])
def test_impossible_tables_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_tables(text)


def test_subspaces_begin_with_scale_groups() -> None:
    x = np.arange(1, 8)[None]
    assert subspaces(x, 3, 2).tolist() == [[[1, 2], [3, 0], [4, 5], [6, 0], [7, 0]]]
    points = np.zeros((5, 2, 2), int)
    centroids = Centroids(7, Activations(8), "l1", points)
    assert (centroids.subspaces(3), centroids.group_codes(3)) == (2, 4)
    assert centroids.stored_bits == 5 * 2 * 2 * 8
