"""Statistics of the inputs of a model's layers: second moments over a calibration text, cached on
disk.

The squared error of a layer's outputs, averaged over the tokens of the text, is tr(dW H dW^T) with
H = E[x x^T] (Frantar et al., GPTQ, arXiv 2210.17323, Eq. 1). Layers that share an input also share
H.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save_file

from evolute.support.files import FileError, cache_directory, replacing
from evolute.support.identity import digest
from evolute.sw import revisions
from evolute.sw.language_model.decoder import Cache, forward
from evolute.sw.language_model.linear import host_linears, linear_names
from evolute.sw.language_model.model import LanguageModel, model_digest

TOKENS = 16_384
"""Tokens of a calibration where none are asked for, unless a layer has more inputs."""

DAMPING = 1e-2
"""What is added to the diagonal before H is inverted, as a part of its mean."""

PRIOR = 4
"""Tokens for each input that the assumption weighs that inputs have nothing in common. At 1 a
sample of the least size of full rank would count for half; but tokens of a text are much alike, and
a model is used for others. Of 0, 1, 4 and 16, smollm2-135m fares best with 4 on text of kinds that
were not calibrated with (docs/quantizers.md)."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Statistics of the inputs x [K] of a layer over `tokens` tokens.

    `second` is E[x x^T], float32 [K, K]; `peak` is max |x|, float32 [K].
    """

    second: NDArray[np.float32]
    peak: NDArray[np.float32]
    tokens: int


def widest_input(model: LanguageModel) -> int:
    """The largest number of inputs of a linear layer in a block."""
    return max(k for _, k in model.config.layer_linears().values())


def default_tokens(model: LanguageModel) -> int:
    """The number of tokens for calibrating `model`: `TOKENS`, or the number of inputs of its widest
    layer if that is larger. With fewer tokens, H cannot have full rank."""
    return max(TOKENS, widest_input(model))


def inputs_of(model: LanguageModel) -> tuple[str, ...]:
    """The names of a model's inputs: for each, the first of the layers that share it, in the order
    in which they run, without the head."""
    return tuple(
        f"{layer}.{roles[0]}"
        for layer in range(model.config.layers)
        for roles in model.config.shared_inputs
    )


@dataclass(frozen=True)
class Calibration:
    """The moments of a model's inputs, by the first layer that has each, stored as files in a
    folder."""

    folder: Path
    digest: str
    """Of the model and of the text."""
    tokens: int

    def path(self, name: str) -> Path:
        """The file with the moments of an input."""
        return self.folder / f"{name}.safetensors"

    def __getitem__(self, name: str) -> Moments:
        path = self.path(name)
        try:
            with safetensors.safe_open(path, "numpy") as file:
                packed, peak = file.get_tensor("second"), file.get_tensor("peak")
        except (OSError, safetensors.SafetensorError) as error:
            raise FileError(f"{path}: {error}; delete it to calibrate again") from None
        second = np.zeros((len(peak), len(peak)), np.float32)
        second[np.tril_indices(len(peak))] = packed
        second += np.tril(second, -1).T
        return Moments(second, peak, self.tokens)

    def _keep(self, name: str, moments: Moments) -> None:
        triangle = moments.second[np.tril_indices(len(moments.peak))]
        with replacing(self.path(name)) as temporary:
            save_file({"second": triangle, "peak": moments.peak}, temporary)


_MOST_BYTES = 1 << 32
"""Memory of the moments of one pass; a model that needs more takes several passes."""


def _passes(model: LanguageModel, names: Sequence[str]) -> Iterator[list[str]]:
    """Groups of inputs whose moments are collected in one pass over the text."""
    shapes, size, part = model.config.shapes(), 0, []
    for name in names:
        moment_bytes = 4 * shapes[name][1] ** 2
        if part and size + moment_bytes > _MOST_BYTES:
            yield part
            size, part = 0, []
        size += moment_bytes
        part.append(name)
    if part:
        yield part


def collect(
    model: LanguageModel,
    names: Sequence[str],
    parts: Sequence[Sequence[int]],
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Moments]:
    """The moments of some of the inputs that `inputs_of` names, from a float32 pass over windows of
    tokens."""
    linear = host_linears(model)
    sums: dict[str, NDArray[np.float32]] = {}
    peaks: dict[str, NDArray[np.float32]] = {}
    steps = len(parts) * (len(linear_names(model)) - 1)
    count, done = sum(map(len, parts)), 0

    def watched(together: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        nonlocal done
        name = together[0]
        if name in names:
            second, peak = x.T @ x, np.abs(x).max(axis=0)
            if name in sums:
                sums[name] += second
                np.maximum(peaks[name], peak, out=peaks[name])
            else:
                sums[name], peaks[name] = second, peak
        done += len(together)
        progress(done / steps)
        return linear(together, x)

    for part in parts:
        forward(model, watched, part, Cache(model.config, len(part)))
    for second in sums.values():
        second /= count
    return {name: Moments(sums[name], peaks[name], count) for name in sums}


def calibrate(
    model: LanguageModel,
    parts: Sequence[Sequence[int]],
    progress: Callable[[float], None] = lambda done: None,
) -> Calibration:
    """The moments of all of a model's inputs over windows of tokens.

    They are collected once for a model and its windows and kept in the cache directory. Raises
    `FileError`.
    """
    key = digest([revisions.LANGUAGE_MODEL, model_digest(model), parts])
    folder = cache_directory() / "calibration" / key[:32]
    cached = Calibration(folder, key, sum(map(len, parts)))
    missing = [name for name in inputs_of(model) if not cached.path(name).exists()]
    passes = list(_passes(model, missing))
    for number, names in enumerate(passes):

        def part_done(done: float, number: int = number) -> None:
            progress((number + done) / len(passes))

        for name, moments in collect(model, names, parts, part_done).items():
            cached._keep(name, moments)
    return cached


def shrinkage(inputs: int, tokens: int) -> float:
    """The share, 0 to 1, by which moments off the diagonal are reduced, for a layer of `inputs`
    inputs whose moments are means over `tokens` tokens.

    This is the mean under an inverse Wishart prior: as if `PRIOR` further tokens per input had been
    seen, with inputs of the same strength but without correlations. A mean over many tokens hardly
    changes. A mean over few tokens, whose rank is not full and whose correlations are mostly
    accidental, comes close to its diagonal.
    """
    return PRIOR * inputs / (PRIOR * inputs + tokens)


def damped(second: NDArray[np.floating], tokens: int) -> NDArray[np.float64]:
    """H divided by the mean of its diagonal, and damped, float64 [K, K].

    Off the diagonal, H is reduced by `shrinkage`; then `DAMPING` is added to the diagonal. The
    result is positive definite, even if some inputs were always 0, or H is a mean over too few
    `tokens` to have full rank.
    """
    h = second.astype(np.float64)
    diagonal = np.diag(h).copy()
    mean = float(diagonal.mean())
    if not mean > 0:
        return np.eye(len(h))
    h *= (1 - shrinkage(len(h), tokens)) / mean
    h[np.diag_indices(len(h))] = diagonal / mean + DAMPING
    return h


def squared_error(difference: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """tr(D H D^T) for a difference D of weights, [N, K]: the squared error of the outputs, summed
    over outputs and averaged over tokens."""
    product = difference.astype(np.float32) @ second.astype(np.float32)
    return float(np.einsum("nk,nk->", product, difference, dtype=np.float64))


def proxy_error(
    w: NDArray[np.floating], quantized: NDArray[np.floating], second: NDArray[np.floating]
) -> float:
    """Squared error of the outputs with the weights `quantized` instead of `w`, relative to the
    mean square of the outputs."""
    output_square = squared_error(w, second)
    return squared_error(quantized - w, second) / output_square if output_square else 0.0
