"""Ways to quantize a model, by name, and what one does to one layer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hw.spec.formats import WeightCodes
from sw.quantizers.gptq import gptq
from sw.quantizers.hessian import Moments, damped, proxy_error
from sw.quantizers.rounding import Rounding, Scheme, quantize
from sw.tensor import Coded, PartedTensor, QuantError
from sw.weights import parse_weights

OUTLIER_BITS = 8
"""Width of codes in outlier columns."""


@dataclass(frozen=True)
class Grid:
    """Rounding to grids, group by group."""

    rounding: Rounding
    feedback: bool = False
    """Whether later columns make up for the error of earlier ones (GPTQ)."""
    outliers: float = 0.0
    """Percent of columns that are kept in 8 bits."""


Quantizer: TypeAlias = Grid


@dataclass(frozen=True)
class Method:
    """A way to quantize a model."""

    name: str
    quantizer: Quantizer


GRAMMAR = (
    "rtn-FORMAT or gptq-FORMAT, where FORMAT is w<1-8>[g<group>][s|a|f], b<3|4>[g<group>] or "
    "t[g<group>], and may end in c (grids clipped to the least error) and o<percent> (outlier "
    "columns in 8 bits)"
)

EXAMPLES = "rtn-w3g64, rtn-b3g128, gptq-w2g64c, gptq-w3g64o1"

_FORMAT = re.compile(
    r"(?P<weights>[wbt][0-9]*(?:g[0-9]+)?[saf]?)(?P<clip>c?)(?:o(?P<out>[0-9.]+))?"
)


def parse_method(text: str) -> Method:
    """The method that `text` names, as `GRAMMAR` says. Raises `QuantError`."""
    how, _, rest = text.partition("-")
    if how in ("rtn", "gptq"):
        return Method(text, _grid(text, rest, how == "gptq"))
    raise _strange(text)


def _strange(text: str) -> QuantError:
    return QuantError(f"method: must be {GRAMMAR}, such as {EXAMPLES}; got {text!r}")


def _percent(text: str, number: str | None) -> float:
    try:
        found = float(number or 0)
    except ValueError:
        raise _strange(text) from None
    if not 0 <= found <= 50:
        raise QuantError(f"method: outliers must be 0 to 50 percent of the columns, got {text!r}")
    return found


def _grid(text: str, choice: str, feedback: bool) -> Grid:
    match = _FORMAT.fullmatch(choice)
    if not match:
        raise _strange(text)
    try:
        rounding = parse_weights(match["weights"]).rounding
    except QuantError:
        raise _strange(text) from None
    assert rounding is not None
    rounding = replace(rounding, clip=bool(match["clip"]))
    return Grid(rounding, feedback, _percent(text, match["out"]))


def quantize_layer(
    quantizer: Quantizer, w: NDArray[np.float32], moments: Moments
) -> tuple[Coded, dict[str, float]]:
    """`w` [N, K] in codes, and the proxy error after each stage on the way. Raises `QuantError`."""
    return _on_grids(quantizer, w, moments)


def salient_columns(
    w: NDArray[np.float32], second: NDArray[np.floating], percent: float
) -> NDArray[np.int64]:
    """The columns [K] that weigh most in the outputs, so many percent of them but at least one.

    What a column would take along if it were lost, its mean square times that of its input (PB-LLM,
    arXiv 2310.00034, section 3.2, by whole columns).
    """
    weight = np.square(w, dtype=np.float64).sum(axis=0) * np.diag(second)
    count = max(1, round(len(weight) * percent / 100))
    return np.sort(np.argsort(-weight, kind="stable")[:count])


def _on_grids(
    choice: Grid, w: NDArray[np.float32], moments: Moments
) -> tuple[Coded, dict[str, float]]:
    h = damped(moments.second)
    order, sizes, roundings = None, [w.shape[1]], [choice.rounding]
    if choice.outliers:
        first = salient_columns(w, moments.second, choice.outliers)
        order = np.concatenate([first, np.delete(np.arange(w.shape[1]), first)])
        sizes = [len(first), w.shape[1] - len(first)]
        roundings = [Rounding(WeightCodes(OUTLIER_BITS), None, Scheme.ASYMMETRIC), choice.rounding]
        h = h[np.ix_(order, order)]
    stored = w if order is None else w[:, order]
    ends = np.cumsum(sizes)
    parts = tuple(
        quantize(stored[:, end - size : end], rounding, np.diag(h)[end - size : end])
        for end, size, rounding in zip(ends, sizes, roundings, strict=True)
    )

    def whole() -> Coded:
        return parts[0] if order is None else PartedTensor(parts, order)

    stages = {"rounded": proxy_error(w, whole().dequantize(), moments.second)}
    if choice.feedback:
        parts = gptq(stored, parts, h)
        stages["feedback"] = proxy_error(w, whole().dequantize(), moments.second)
    return whole(), stages
