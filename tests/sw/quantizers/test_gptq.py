"""GPTQ against a second implementation that inverts what is left of H at every step."""

from __future__ import annotations

import numpy as np
import pytest

from evolute.sw.quantizers import gptq as columns
from evolute.sw.quantizers.gptq import act_order, inverse_factor
from evolute.sw.quantizers.hessian import (
    DAMPING,
    Moments,
    damped,
    proxy_error,
    shrinkage,
    squared_error,
)
from evolute.sw.quantizers.rounding import Rounding, quantize
from evolute.sw.tensors.tensor import QuantTensor
from evolute.sw.tensors.weights import parse_weights


def rounding(text: str) -> Rounding:
    found = parse_weights(text).rounding
    assert found is not None
    return found


def gptq(w: np.ndarray, choice: Rounding, moments: Moments) -> QuantTensor:
    h = damped(moments.second, moments.tokens)
    (found,) = columns.gptq(w, (quantize(w, choice, np.diag(h)),), h)
    return found


def layer(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, Moments]:
    """Weights and the moments of correlated inputs of unequal strength."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(64 * k, k)) @ rng.normal(size=(k, k)) * rng.lognormal(size=k)
    w = rng.normal(size=(n, k)).astype(np.float32)
    peak = np.abs(x).max(axis=0).astype(np.float32)
    return w, Moments((x.T @ x / len(x)).astype(np.float32), peak, len(x))


def test_the_factor_is_the_upper_one_of_the_inverse() -> None:
    moments = layer(1, 90)[1]
    h = damped(moments.second, moments.tokens)
    factor = inverse_factor(h)
    assert not np.tril(factor, -1).any()
    np.testing.assert_allclose(factor.T @ factor @ h, np.eye(90), atol=1e-9)


def surgeon(w: np.ndarray, choice: Rounding, moments: Moments) -> np.ndarray:
    """Optimal brain quantization with a given order: after each column the others move by
    -e / (H^-1)_jj * (H^-1)_j, with the inverse of the rows and columns of H that are left."""
    h = damped(moments.second, moments.tokens)
    laid = quantize(w, choice, np.diag(h))
    w, left = w.astype(np.float64), list(np.argsort(-np.diag(h), kind="stable"))
    codes = np.zeros(w.shape, np.uint8)
    while left:
        j, g = left[0], left[0] // laid.group
        inverse = np.linalg.inv(h[np.ix_(left, left)])
        values = laid.format.values()
        grid = laid.scale[:, g, None].astype(float) * np.array(values) + laid.minimum[:, g, None]
        codes[:, j] = np.abs(grid - w[:, j, None]).argmin(axis=1)
        error = w[:, j] - grid[np.arange(len(w)), codes[:, j]]
        w[:, left] -= error[:, None] / inverse[0, 0] * inverse[0]
        left = left[1:]
    return codes


@pytest.mark.parametrize("text", ["w2g16", "w3s", "w4g16f", "tg16"])
def test_equals_the_surgeon_step_by_step(text: str) -> None:
    w, moments = layer(6, 40)
    found = gptq(w, rounding(text), moments)
    assert np.array_equal(found.codes, surgeon(w, rounding(text), moments))


@pytest.mark.parametrize("text", ["w2g32", "w3g32", "b3g32", "tg32"])
def test_outputs_come_nearer_than_by_rounding(text: str) -> None:
    w, moments = layer(64, 160)
    errors = [
        proxy_error(w, each.dequantize(), moments.second)
        for each in (quantize(w, rounding(text)), gptq(w, rounding(text), moments))
    ]
    assert errors[1] < 0.75 * errors[0]


def test_uncorrelated_inputs_leave_nothing_to_make_up() -> None:
    w, _ = layer(8, 48)
    identity = Moments(np.eye(48, dtype=np.float32), np.ones(48, np.float32), 200)
    found, rounded = gptq(w, rounding("w3g16"), identity), quantize(w, rounding("w3g16"))
    assert np.array_equal(found.codes, rounded.codes)


def test_inputs_that_never_occur_are_rounded_and_move_nothing() -> None:
    w, moments = layer(8, 48)
    dead = moments.second.copy()
    dead[5], dead[:, 5] = 0, 0
    found = gptq(w, rounding("w4g16"), Moments(dead, moments.peak, moments.tokens))
    assert np.array_equal(found.codes[:, 5], quantize(w, rounding("w4g16")).codes[:, 5])
    assert act_order(dead)[-1] == 5
    none = Moments(np.zeros_like(dead), np.zeros_like(moments.peak), 1)
    assert np.array_equal(
        gptq(w, rounding("w4g16"), none).codes, quantize(w, rounding("w4g16")).codes
    )


def test_few_tokens_are_believed_less() -> None:
    """With fewer tokens than inputs an H that is only damped makes outputs worse than rounding, on
    others of their kind; drawn to its diagonal, it does not. With many tokens the two agree."""
    rng, k = np.random.default_rng(5), 128
    w, mix = rng.normal(size=(32, k)).astype(np.float32), rng.normal(size=(k, 8))
    errors: dict[int, tuple[float, ...]] = {}
    many = rng.normal(size=(20_000, 8)) @ mix.T + 4 * rng.normal(size=(20_000, k))
    others = (many.T @ many / len(many)).astype(np.float32)
    for tokens in (40, 20_000):
        x = rng.normal(size=(tokens, 8)) @ mix.T + 4 * rng.normal(size=(tokens, k))
        second = (x.T @ x / tokens).astype(np.float32)
        assert (np.linalg.matrix_rank(second) < k) == (tokens < k)
        diagonal = np.diag(second) / np.diag(second).mean()
        plain = second.astype(np.float64) / np.diag(second).mean() + DAMPING * np.eye(k)
        drawn = damped(second, tokens)
        np.testing.assert_allclose(np.diag(drawn), diagonal + DAMPING, rtol=1e-6)
        laid = quantize(w, rounding("w3g32"), np.diag(drawn))
        made = [laid, *(columns.gptq(w, (laid,), h)[0] for h in (plain, drawn))]
        errors[tokens] = tuple(proxy_error(w, each.dequantize(), others) for each in made)
    rounded, fitted, less_fitted = errors[40]
    assert less_fitted < rounded < 0.7 * fitted
    rounded, fitted, less_fitted = errors[20_000]
    assert less_fitted == pytest.approx(fitted, rel=0.03) and less_fitted < 0.8 * rounded


def test_what_is_believed_depends_on_tokens_and_inputs_alone() -> None:
    assert shrinkage(64, 4 * 64) == 0.5
    parts = [shrinkage(64, tokens) for tokens in (1, 100, 10_000, 10**9)]
    assert parts == sorted(parts, reverse=True) and 0 < parts[-1] < 1e-6 and parts[0] > 0.99


def test_the_proxy_is_the_outputs_error() -> None:
    rng = np.random.default_rng(3)
    x, w, found = rng.normal(size=(50, 12)), rng.normal(size=(7, 12)), rng.normal(size=(7, 12))
    second = x.T @ x / 50
    expected = ((x @ (w - found).T) ** 2).sum() / 50
    assert squared_error(w - found, second) == pytest.approx(expected, rel=1e-5)
    assert proxy_error(w, found, second) == pytest.approx(
        expected / ((x @ w.T) ** 2).sum() * 50, rel=1e-5
    )
