"""Tables by centroid that are trained; most of it needs PyTorch, which is an extra."""

# PyTorch is no dependency of this package, so it may be absent where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from evolute.sim.weights import Table
from evolute.sw.checkpoints.zoo import load
from evolute.sw.language_model.decoder import Cache, head
from evolute.sw.language_model.decoder import forward as run
from evolute.sw.language_model.linear import host_linears
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.quantizers import whole_tables as module
from evolute.sw.quantizers.finished import UNFINISHED
from evolute.sw.quantizers.lut_dla import Tables, coded_tables, parse_tables, seen_inputs, tabulated
from evolute.sw.quantizers.whole_tables import require_training, write_tables
from evolute.sw.tensors.tensor import QuantError, QuantTensor

TINY = load("evolute-tiny")
IDS = TINY.tokenizer.encode("Once upon a time there was a little girl who had a red ball.")
PARTS = [IDS, IDS[::-1]]
CHOICE = Tables(v=3, centroids=4, group=32, steps=6)
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="no PyTorch")


@pytest.fixture(scope="module")
def made() -> LanguageModel:
    return tabulated(TINY, CHOICE, seen_inputs(TINY, PARTS))[0]


def test_tables_are_made_on_from_where_they_were_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, choice = "dla-v4c2", Tables(v=4, centroids=2)
    real, calls = module.tables_of_input, []

    def counted(*arguments):
        calls.append(arguments[2])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "tables_of_input", counted)
    with pytest.raises(KeyboardInterrupt):
        write_tables(TINY, name, choice, PARTS, tmp_path / "a")
    document = write_tables(TINY, name, choice, PARTS, tmp_path / "a")
    assert len(calls) == 4 + 13 and not (tmp_path / "a" / UNFINISHED).exists()
    assert write_tables(TINY, name, choice, PARTS, tmp_path / "a") == document
    assert len(calls) == 17  # a finished model is taken as it is
    assert write_tables(TINY, name, choice, PARTS, tmp_path / "b") == document
    files = [(tmp_path / each / "weights.safetensors").read_bytes() for each in "ab"]
    assert files[0] == files[1]


def test_a_name_says_for_how_long_tables_are_trained() -> None:
    assert parse_tables("dla-v2c16l2t200") == Tables(v=2, centroids=16, metric="l2", steps=200)


def test_without_pytorch_training_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QuantError, match=r"needs PyTorch; pip install evolute\[train\]"):
        require_training()


@needs_torch
@pytest.mark.parametrize("pairs", ["halves", "interleaved"])
def test_training_computes_what_the_host_does(pairs: Literal["halves", "interleaved"]) -> None:
    """Every layer, for the inputs that it has in training; table entries to the last bit."""
    import torch

    from evolute.sw.quantizers import lut_boost
    from evolute.sw.training.torch_llama import forward, torch_weights

    model = replace(TINY, config=replace(TINY.config, rope_pairs=pairs))
    made = tabulated(model, CHOICE, seen_inputs(model, PARTS))[0]
    trained = lut_boost.begin(model, made, CHOICE)
    generator = torch.Generator().manual_seed(1)
    for each in (*trained.points.values(), *trained.weights.values()):
        each += 0.05 * each.abs().mean() * torch.randn(each.shape, generator=generator)
    moved = lut_boost.tables_in(trained, made)
    host, inner = host_linears(moved), lut_boost.linears(trained, [])
    seen = []

    def watched(names, x):
        found = inner(names, x)
        for name, y, wanted in zip(names, found, host(names, x[0].numpy()), strict=True):
            tensor = moved.tensors[name]
            assert isinstance(tensor, QuantTensor) and isinstance(tensor.form, Table)
            tables = trained.rounded(trained.tables(name, names[0]), names[0]).T.numpy()
            order = lut_boost.half_split(model.config, name, len(tables))
            assert np.array_equal(tensor.rows(order, np.float32), tables)
            terms = len(tensor.form.centroids.points)
            largest = np.abs(tables).max() * float(x.abs().max()) / 127
            # One rounding for every sum of two in either order, and one of the whole.
            bound = terms * largest * (terms + 2) * 2.0**-23
            assert np.abs(y[0].numpy() - wanted[:, order]).max() <= bound
            seen.append(name)
        return found

    with torch.no_grad():
        logits = forward(model.config, torch_weights(model), torch.tensor([IDS]), linear=watched)
    assert len(seen) == 28
    whole = head(moved, host, run(moved, host, IDS, Cache(moved.config, len(IDS))))
    assert np.abs(logits[0].numpy() - whole).max() < 0.05 < whole.std()


@needs_torch
def test_training_begins_with_what_was_fitted(made: LanguageModel) -> None:
    """All but what rounding to float32 moves by a code."""
    from evolute.sw.quantizers import lut_boost

    again = lut_boost.tables_in(lut_boost.begin(TINY, made, CHOICE), made)
    for name, tensor in made.tensors.items():
        found = again.tensors[name]
        if isinstance(tensor, QuantTensor):
            assert isinstance(found, QuantTensor)
            assert (found.codes == tensor.codes).mean() > 0.99
            assert np.abs(found.codes.astype(int) - tensor.codes).max() <= 1


@needs_torch
def test_gradients_are_those_of_the_formulas() -> None:
    """Of one layer: q reaches centroids and weights through the table, x gets the gradient of s."""
    import torch

    from evolute.sw.quantizers import lut_boost

    rng = np.random.default_rng(1)
    w = torch.tensor(rng.normal(size=(3, 4)), dtype=torch.float32).requires_grad_()
    points = torch.tensor(rng.integers(-99, 99, (2, 4, 2)), dtype=torch.float32).requires_grad_()
    choice = Tables(v=2, centroids=4)
    rest = torch.zeros(8, 3)
    trained = lut_boost.Trained(
        choice, TINY.config, {"0.o": ("0.o",)}, {"0.o": points}, {"0.o": w}, {"0.o": rest}
    )
    x = torch.tensor(rng.normal(size=(1, 5, 4)), dtype=torch.float32).requires_grad_()
    losses: list[torch.Tensor] = []
    (y,) = lut_boost.linears(trained, losses)(["0.o"], x)
    y.sum().backward()
    assert x.grad is not None and w.grad is not None and points.grad is not None
    torch.testing.assert_close(x.grad, w.detach().sum(0).expand(1, 5, 4))
    from evolute.sim.weights import nearest
    from evolute.sw.tensors.activations import quantize_activations

    a = quantize_activations(x.detach()[0].numpy(), choice.activations)
    centers = points.detach().numpy().astype(np.int64)
    index = nearest("l1", a.x.reshape(5, 2, 2), centers)
    expected = np.zeros((2, 4, 2), np.float32)
    moved = np.zeros((3, 4), np.float32)
    for row in range(5):
        for s in range(2):
            pieces = w.detach().numpy()[:, 2 * s : 2 * s + 2]
            expected[s, index[row, s]] += a.scale[row] * pieces.sum(0)
            moved[:, 2 * s : 2 * s + 2] += a.scale[row] * centers[s, index[row, s]]
    np.testing.assert_allclose(points.grad.numpy(), expected, rtol=1e-4, atol=1e-6)
    through_s = x.detach()[0].sum(0).expand(3, 4).numpy()
    np.testing.assert_allclose(w.grad.numpy(), moved + through_s, rtol=1e-4, atol=1e-4)


@needs_torch
def test_training_learns_and_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evolute.sw.quantizers import lut_boost

    monkeypatch.setattr(lut_boost, "KEEP_EVERY", 2)
    name = "dla-v3c4g32t6"

    def stop(done: float) -> None:
        if done > 0.2 + 0.8 * 4.5 / 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tables(TINY, name, CHOICE, PARTS, tmp_path / "a", 3, stop)
    drawn, real = [], lut_boost.window

    def watched(*arguments):
        drawn.append(arguments[3])
        return real(*arguments)

    monkeypatch.setattr(lut_boost, "window", watched)
    document = write_tables(TINY, name, CHOICE, PARTS, tmp_path / "a", 3)
    assert drawn == [4, 5]
    assert write_tables(TINY, name, CHOICE, PARTS, tmp_path / "b", 3) == document
    write_tables(TINY, name, CHOICE, PARTS, tmp_path / "c", 4)
    files = [(tmp_path / each / "weights.safetensors").read_bytes() for each in "abc"]
    assert files[0] == files[1] != files[2]
    assert all(set(each["stages"]) == {"fitted", "trained"} for each in document["layers"])


@needs_torch
def test_only_a_llama_is_trained() -> None:
    from evolute.sw.quantizers.lut_boost import require_trainable

    require_trainable(TINY)
    other = replace(TINY, config=replace(TINY.config, logit_cap=30.0))
    with pytest.raises(QuantError, match="only a Llama with a tied head"):
        require_trainable(other)


def test_table_codes_are_of_float32(made: LanguageModel) -> None:
    """What is rounded already stays as it is, but for scales that half precision moves."""
    tensor = made.tensors["0.down"]
    assert isinstance(tensor, QuantTensor) and isinstance(tensor.form, Table)
    again = coded_tables(tensor.rows(slice(None), np.float32), tensor.form.centroids, CHOICE)
    assert np.array_equal(again.rows(slice(None), np.float32), tensor.rows(slice(None), np.float32))
