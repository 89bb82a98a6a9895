"""The native product of 8-bit integers, with all of its instructions, against plain integers."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.spec.formats import FORMATS, Kind, WeightCodes
from evolute.sim.weights import Grid
from evolute.support import native
from evolute.sw.language_model import products
from evolute.sw.language_model.products import best_instructions, product_of
from evolute.sw.tensors.tensor import QuantTensor

KINDS = range(1, 1 + best_instructions())
PLAIN = [each for each in FORMATS if each.kind in (Kind.INTEGER, Kind.TERNARY, Kind.BITMOD)]


def tensor_of(
    format: WeightCodes, n: int, k: int, group: int, seed: int, most: int = 4
) -> QuantTensor:
    rng = np.random.default_rng(seed)
    groups = -(-k // group)
    scale = rng.uniform(-most, most, (n, groups)).astype(np.float16).astype(np.float32)
    minimum = rng.uniform(-most, most, (n, groups)).astype(np.float16).astype(np.float32)
    special = np.zeros((n, groups), np.uint8)
    if format.specials:
        special = rng.integers(0, len(format.specials), (n, groups)).astype(np.uint8)
        minimum[:] = 0
    codes = rng.integers(0, format.levels, (n, k)).astype(np.uint8)
    return QuantTensor(Grid(codes, format, group, special), scale, minimum, 32)


def by_fractions(tensor: QuantTensor, x: np.ndarray) -> np.ndarray:
    """The product in rational numbers, rounded once."""
    w = [[Fraction(float(each)) for each in row] for row in tensor.rows(slice(None), np.float64)]
    rows = [[Fraction(int(each)) for each in row] for row in x]
    return np.array(
        [[float(sum(a * b for a, b in zip(r, c, strict=True))) for c in w] for r in rows]
    )


@pytest.mark.parametrize("instructions", KINDS)
@given(
    format=st.sampled_from(PLAIN),
    m=st.integers(1, 11),
    n=st.integers(1, 35),
    quads=st.integers(1, 9),
    tail=st.integers(0, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_are_exact(instructions: int, format: WeightCodes, m, n, quads, tail, seed) -> None:
    """Of whole and short last groups, with a last block of fewer outputs; at most one rounding."""
    group = 4 * quads
    tensor = tensor_of(format, n, group + tail, group, seed)
    packed = products._pack(tensor, instructions)
    if packed is None:  # AVX2 takes no code above 128
        assert (instructions, format.bits) == (1, 8)
        return
    x = np.random.default_rng(seed).integers(-128, 128, (m, group + tail))
    x.flat[0], x.flat[-1] = -128, 127
    assert np.array_equal(packed.product(x), by_fractions(tensor, x))


@pytest.mark.parametrize("instructions", KINDS)
@pytest.mark.parametrize(("code", "value"), [(0, -128), (0, 127), (-1, -128), (-1, 127)])
def test_no_sum_of_extremes_wraps(instructions: int, code: int, value: int) -> None:
    format = WeightCodes(8 if instructions == 2 else 7)
    tensor = tensor_of(format, 16, 4096, 4096, seed=0)
    tensor.codes[:] = code % format.levels
    packed = products._pack(tensor, instructions)
    assert packed is not None
    x = np.full((9, 4096), value)
    assert np.array_equal(packed.product(x), products._plain(tensor, x))


@pytest.mark.skipif(not KINDS, reason="no compiler, or none of the instructions")
def test_what_would_not_be_exact_is_not_packed() -> None:
    """Scales far apart, sums beyond 32 bits, groups that begin within a word."""
    format, best = WeightCodes(4), best_instructions()
    good = tensor_of(format, 4, 64, 32, seed=1)
    assert products._pack(good, best) is not None
    good.scale[0] = 2.0**-40, 2.0**12
    assert products._pack(good, best) is None
    assert products._pack(tensor_of(WeightCodes(8), 1, 66_000, 66_000, seed=1), best) is None
    assert products._pack(tensor_of(format, 4, 64, 18, seed=1), best) is None


def test_wide_activations_take_the_plain_product() -> None:
    tensor = tensor_of(WeightCodes(4), 5, 64, 32, seed=2)
    product = product_of(tensor)
    for edge in (-129, -128, 127, 128, 32767):
        x = np.random.default_rng(0).integers(-100, 100, (3, 64))
        x[1, 7] = edge
        assert np.array_equal(product(x), by_fractions(tensor, x))


FAILURES = {
    "a compiler that refuses": "evolute: products take longer, as they cannot be compiled: g++: ",
    "no compiler": "none of g++, clang++, c++ is on the path",
    "no folder to write to": "evolute: products take longer, as they cannot be compiled: ",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_products_that_cannot_be_compiled_are_said_once(
    failure: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """In one line; and products are as exact without."""
    programs, cache = tmp_path / "bin", tmp_path / "cache"
    programs.mkdir()
    if failure != "no compiler":
        compiler = programs / "g++"
        compiler.write_text("#!/bin/sh\necho 'a.cpp:1:\terror: no such' >&2\nexit 1\n")
        compiler.chmod(0o755)
    if failure == "no folder to write to":
        cache.write_text("a file")
    monkeypatch.setenv("PATH", f"{programs}")
    monkeypatch.setattr(native, "cache_directory", lambda: cache)
    native.library.cache_clear()
    try:
        tensor = tensor_of(WeightCodes(4), 5, 64, 32, seed=2)
        x = np.random.default_rng(0).integers(-100, 100, (3, 64))
        for _ in range(2):
            assert np.array_equal(product_of(tensor)(x), by_fractions(tensor, x))
    finally:
        native.library.cache_clear()
    out, err = capsys.readouterr()
    assert not out
    (line,) = err.splitlines()
    assert FAILURES[failure] in line
    assert ("no such" in line) == (failure == "a compiler that refuses")
