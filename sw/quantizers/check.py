"""What a quantized model is worth on a kind of text that it was not calibrated with, next to the
model as shipped and to plain rounding on the same grids.

A method that looks at inputs can fit a model to the text that it sees. Whether it did shows on
other text, and only next to what rounding to nearest makes of the same grids.
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
    """Perplexities over `tokens` predicted tokens, one window, of a text."""

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
        """Whether rounding does better; None where there is nothing to compare with."""
        return None if self.rounded is None else self.quantized > self.rounded


def text_sha256(text: Text) -> str:
    """What tells texts apart."""
    return hashlib.sha256(text.content.encode()).hexdigest()


def rounding_linears(
    model: LanguageModel, grids: Mapping[str, GridChoice], calibration: Calibration
) -> Linears:
    """The model's layers rounded to nearest on `grids`, each only while it runs; the others as
    shipped."""

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
    """Predict one window of `text` with `model`, with `made` of it and, if there are `grids`, with
    layers rounded on them, as they were laid by a calibration. Layers are in float32 one by one, so
    that it takes little memory.

    Raises what `windows` raises.
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
