"""Checks a quantized model on text of a kind that it was not calibrated with, compared with the
model as shipped and with plain rounding on the same grids.

A method that looks at inputs can fit the model to the text that it sees. This shows only on other
text, and only in comparison with rounding to nearest on the same grids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolute.sw.language_model.linear import Linears, host_linear, streamed_linears
from evolute.sw.language_model.model import LanguageModel, dequantized
from evolute.sw.language_model.perplexity import Text, default_context, measure
from evolute.sw.language_model.products import matrix_product
from evolute.sw.quantizers.hessian import Calibration
from evolute.sw.quantizers.methods import GridChoice, rounded


@dataclass(frozen=True)
class Check:
    """Perplexities of one window of a text, over `tokens` predicted tokens."""

    text: str
    text_sha256: str
    tokens: int
    as_shipped: float
    quantized: float
    kl: float
    """Of the quantized model from the one as shipped, in nats per token."""
    rounded: float | None
    """With the weights as shipped rounded to nearest on the same grids; None where there are no
    grids, or nothing else was done with them."""

    @property
    def is_worse(self) -> bool | None:
        """Whether the quantized model predicts worse than plain rounding; None if there is no such
        comparison."""
        return None if self.rounded is None else self.quantized > self.rounded


def text_sha256(text: Text) -> str:
    """The SHA-256 of a text's content, by which texts are told apart."""
    return hashlib.sha256(text.content.encode()).hexdigest()


def rounding_linears(
    model: LanguageModel, grids: Mapping[str, GridChoice], calibration: Calibration
) -> Linears:
    """The model's layers rounded to nearest on `grids`, each expanded only while it runs; the other
    layers as shipped."""

    def apply(names: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        if names[0] not in grids:
            return [host_linear(model, name)(x) for name in names]
        moments = calibration[names[0]]
        weights = [rounded(grids[name], dequantized(model.matrix(name)), moments) for name in names]
        return [matrix_product(x, weight.dequantize()) for weight in weights]

    return apply


def check(
    model: LanguageModel,
    made: LanguageModel,
    text: Text,
    grids: Mapping[str, GridChoice],
    calibration: Calibration | None,
    progress: Callable[[float], None] = lambda done: None,
) -> Check:
    """Predict one window of `text` with `model`, with the quantized model `made`, and, if `grids`
    is not empty, with layers rounded to nearest on these grids.

    The grids are laid with `calibration`. Only one layer at a time is in float32, so that it takes
    little memory. `progress` is called with the share that is done, 0 to 1. Raises the errors of
    `windows`.
    """
    context = default_context(model)
    tokens, part = context - 1, 2 / 3 if grids else 1.0
    accuracy = measure(
        made,
        streamed_linears(made),
        streamed_linears(model),
        text,
        tokens,
        context,
        lambda done: progress(part * done),
        original=model,
    )
    plain = None
    if grids:
        assert calibration is not None
        plain = measure(
            model,
            rounding_linears(model, grids, calibration),
            None,
            text,
            tokens,
            context,
            lambda done: progress(part + (1 - part) * done),
        ).perplexity
    assert accuracy.reference_perplexity is not None and accuracy.kl is not None
    return Check(
        text=text.name,
        text_sha256=text_sha256(text),
        tokens=accuracy.tokens,
        as_shipped=accuracy.reference_perplexity,
        quantized=accuracy.perplexity,
        kl=accuracy.kl,
        rounded=plain,
    )
