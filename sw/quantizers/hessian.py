"""What a quantizer knows of a layer's inputs: second moments over a calibration text, kept on disk.

The squared error of a layer's outputs, averaged over the text's tokens, is tr(dW H dW^T) with
H = E[x x^T] (Frantar et al., GPTQ, arXiv 2210.17323, Eq. 1). Layers that share an input share it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hw.files import FileError, cache_directory, replacing
from sw.decoder import Cache, forward
from sw.linear import host_linears, linear_names
from sw.model import LanguageModel
from sw.perplexity import Text, windows

TOKENS = 16_384
"""Tokens of a calibration where none are asked for."""

DAMPING = 1e-2
"""What is added to the diagonal before H is inverted, as a part of its mean."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What the inputs x [K] of a layer were like.

    `second` is E[x x^T], float32 [K, K]; `peak` is max |x|, float32 [K].
    """

    second: NDArray[np.float32]
    peak: NDArray[np.float32]


def default_calibration(text: Text) -> Text:
    """The second half of a text whose beginning serves to measure accuracy."""
    middle = text.content.find("\n", len(text.content) // 2) + 1
    return Text(f"second half of {text.name}", text.content[middle:])


def model_digest(model: LanguageModel) -> str:
    """Hex digits that differ for models that differ in their config or in any weight."""
    digest = hashlib.sha256(json.dumps(asdict(model.config), sort_keys=True).encode())

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype.str}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        elif isinstance(value, tuple):
            for each in value:
                add(each)
        elif is_dataclass(value):
            for each in fields(value):
                add(getattr(value, each.name))
        else:
            digest.update(repr(value).encode())

    for name in sorted(model.tensors):
        add(name)
        add(model.tensors[name])
    return digest.hexdigest()


def inputs_of(model: LanguageModel) -> tuple[str, ...]:
    """The first layer of each input that layers share, in the order they run, without the head."""
    return tuple(
        f"{layer}.{roles[0]}"
        for layer in range(model.config.layers)
        for roles in model.config.shared_inputs
    )


class Calibration:
    """The moments of a model's inputs, by the first layer that has each, read from a file."""

    def __init__(self, path: Path, digest: str, tokens: int):
        self.path, self.digest, self.tokens = path, digest, tokens

    def __getitem__(self, name: str) -> Moments:
        try:
            with safetensors.safe_open(self.path, "numpy") as file:
                packed, peak = file.get_tensor(f"{name}.second"), file.get_tensor(f"{name}.peak")
        except (OSError, safetensors.SafetensorError) as error:
            raise FileError(f"{self.path}: {error}; delete it to calibrate again") from None
        second = np.zeros((len(peak), len(peak)), np.float32)
        second[np.tril_indices(len(peak))] = packed
        second += np.tril(second, -1).T
        return Moments(second, peak)


def collect(
    model: LanguageModel,
    parts: Sequence[Sequence[int]],
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Moments]:
    """The moments of every input of `inputs_of`, by one pass in float32 over windows of tokens."""
    linear, wanted = host_linears(model), set(inputs_of(model))
    sums: dict[str, NDArray[np.float32]] = {}
    peaks: dict[str, NDArray[np.float32]] = {}
    steps = len(parts) * (len(linear_names(model)) - 1)
    count, done = sum(map(len, parts)), 0

    def watched(names: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        nonlocal done
        name = names[0]
        if name in wanted:
            second, peak = x.T @ x, np.abs(x).max(axis=0)
            if name in sums:
                sums[name] += second
                np.maximum(peaks[name], peak, out=peaks[name])
            else:
                sums[name], peaks[name] = second, peak
        done += len(names)
        progress(done / steps)
        return linear(names, x)

    for part in parts:
        forward(model, watched, part, Cache(model.config, len(part)))
    for second in sums.values():
        second /= count
    return {name: Moments(sums[name], peaks[name]) for name in sums}


def calibrate(
    model: LanguageModel,
    text: Text,
    tokens: int,
    context: int,
    progress: Callable[[float], None] = lambda done: None,
) -> Calibration:
    """The model's moments over the first `tokens` tokens of `text`, in windows of `context`.

    They are kept in the cache directory, and collected once for a model, a text, and its length.
    Raises what `windows` raises, and `FileError`.
    """
    parts = windows(model, text, tokens, context)
    identity = [model_digest(model), parts]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    path = cache_directory() / "calibration" / f"{digest[:32]}.safetensors"
    if not path.exists():
        found = collect(model, parts, progress)
        with replacing(path) as temporary:
            save_file(_stored(found), temporary)
    return Calibration(path, digest, sum(map(len, parts)))


def _stored(moments: Mapping[str, Moments]) -> dict[str, NDArray[np.float32]]:
    arrays = {}
    for name, each in moments.items():
        arrays[f"{name}.second"] = each.second[np.tril_indices(len(each.peak))]
        arrays[f"{name}.peak"] = each.peak
    return arrays


def damped(second: NDArray[np.floating]) -> NDArray[np.float64]:
    """H over the mean of its diagonal, damped, [K, K]: positive definite also where inputs were
    never anything but 0."""
    h = second.astype(np.float64)
    mean = float(np.diag(h).mean())
    if not mean > 0:
        return np.eye(len(h))
    h /= mean
    h[np.diag_indices(len(h))] += DAMPING
    return h


def squared_error(difference: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """tr(D H D^T) for a D [N, K]: the squared error of the outputs that weights off by D cause,
    summed over outputs and averaged over tokens."""
    product = difference.astype(np.float32) @ second.astype(np.float32)
    return float(np.einsum("nk,nk->", product, difference, dtype=np.float64))


def proxy_error(
    w: NDArray[np.floating], found: NDArray[np.floating], second: NDArray[np.floating]
) -> float:
    """Squared error of the outputs with weights `found` instead of `w`, over their mean square."""
    whole = squared_error(w, second)
    return squared_error(found - w, second) / whole if whole else 0.0
