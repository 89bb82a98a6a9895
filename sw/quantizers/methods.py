"""The methods of quantization by name, and the quantization of one layer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sw.quantizers.gptq import gptq
from evolute.sw.quantizers.hessian import Moments, damped, proxy_error
from evolute.sw.quantizers.rounding import Rounding, Scheme, quantize
from evolute.sw.quantizers.scaling import Scaling
from evolute.sw.quantizers.vptq.choice import Norm, Vptq, require_useful
from evolute.sw.quantizers.vptq.forms import to_tensor
from evolute.sw.quantizers.vptq.quantize import vptq
from evolute.sw.tensors.tensor import Coded, PartedTensor, QuantError
from evolute.sw.tensors.weights import parse_weights

OUTLIER_BITS = 8
"""Width of codes in outlier columns."""


@dataclass(frozen=True)
class GridChoice:
    """Rounding to grids, group by group, with its variants."""

    rounding: Rounding
    feedback: bool = False
    """Whether later columns compensate for the errors of earlier ones (GPTQ)."""
    outliers: float = 0.0
    """Percent of columns that are kept in 8 bits."""
    weighs: bool = False
    """Whether errors of columns count by the strength of their inputs in clipping and in the choice
    of special values and outlier columns. Without these, rounding to nearest only looks at the
    weights."""


Quantizer: TypeAlias = GridChoice | Vptq


@dataclass(frozen=True)
class Method:
    """A way to quantize a model."""

    name: str
    candidates: tuple[Quantizer, ...]
    """The forms that a layer may get; if there are several, each layer gets the one that is best
    for the model."""
    bits: float | None = None
    """Bits per weight, everything included, that layers with several candidates may have on
    average."""
    scaling: Scaling | None = None
    """How inputs are scaled before quantization, if they are."""

    @property
    def calibrates(self) -> bool:
        """Whether the method needs moments of the layers' inputs. Choosing among candidates needs
        them for their errors."""
        kinds = (isinstance(candidate, Vptq) or candidate.weighs for candidate in self.candidates)
        return len(self.candidates) > 1 or any(kinds)

    @property
    def words(self) -> str:
        """A description of the method, without widths, sizes and clipping."""
        if self.bits is not None:
            return "mixed"
        (choice,) = self.candidates
        if isinstance(choice, Vptq):
            along = " along inputs" if choice.along == "inputs" else ""
            return f"VPTQ{along}{_NORM_WORDS[choice.norm]}"
        words = {None: "", "awq": "AWQ", "smooth": "SmoothQuant+"}[self.scaling]
        if choice.feedback:
            words += " and GPTQ" if words else "GPTQ"
        kind = choice.rounding.format.kind
        numbers = {Kind.TERNARY: ", ternary", Kind.BITMOD: ", BitMoD"}.get(kind, "")
        return (words or "round to nearest") + numbers


_NORM_WORDS: dict[Norm, str] = {
    "none": "",
    "consistent": ", columns normalized",
    "released": ", columns normalized as released",
}


GRAMMAR = """\
rtn-FORMAT     rounds to nearest
gptq-FORMAT    rounds column by column; later columns make up for errors
awq-FORMAT     rtn with strong inputs scaled down; awq+gptq-FORMAT
smooth-FORMAT  rtn with inputs' range shared with weights; smooth+gptq-FORMAT
               FORMAT is w<1-8>[g<group>][s|a|f], b<3|4>[g<group>] (BitMoD) or
               t[g<group>] (ternary), then c for grids clipped to the least
               error by the inputs' strength, then o<percent> for outlier
               columns in 8 bits; without c and o, rtn does not calibrate
vptq-v<weights>k<entries>[r<residual entries>][i][g<groups>]
               [o<percent>[v<weights>k<entries>]][n|nr]
               vectors of outputs, i for vectors of inputs, outlier columns,
               n for columns normalized, nr for that as released
mixed-<bits>[:METHOD,METHOD...]
               the best of these for each layer within so many bits a weight
"""

EXAMPLES = "rtn-w3g64, gptq-w2g64c, awq-w4g128, vptq-v8k256r256, mixed-2.5"

MIXED = "gptq-w2g64c,gptq-w3g64c,gptq-w4g64c"
"""What `mixed` chooses from by itself."""

_FORMAT = re.compile(
    r"(?P<weights>[wbt][0-9]*(?:g[0-9]+)?[saf]?)(?P<clip>c?)(?:o(?P<out>[0-9.]+))?"
)

_VPTQ = re.compile(
    r"v(\d{1,2})k(\d{1,5})(?:r(\d{1,5}))?(i?)(?:g(\d{1,3}))?"
    r"(?:o([0-9.]+)(?:v(\d{1,2})k(\d{1,5}))?)?(nr?)?"
)
_NORMS: dict[str | None, Norm] = {None: "none", "n": "consistent", "nr": "released"}


def parse_method(text: str) -> Method:
    """The method that `text` names, as `GRAMMAR` says. Raises `QuantError`."""
    how, _, rest = text.partition("-")
    if how == "mixed":
        number, _, names = rest.partition(":")
        if not re.fullmatch(r"\d{1,2}(\.\d+)?", number):
            raise _strange(text)
        methods = [parse_method(part) for part in (names or MIXED).split(",")]
        if any(method.bits or method.scaling for method in methods):
            raise QuantError(f"method: mixed chooses among rtn, gptq and vptq, got {text!r}")
        candidates = tuple(method.candidates[0] for method in methods)
        return Method(text, candidates, float(number))
    scaling, plus, plain = how.partition("+")
    if scaling in ("awq", "smooth"):
        if plain not in (("rtn", "gptq") if plus else ("",)):
            raise _strange(text)
        grid = _grid(text, rest, plain == "gptq", weighs=True)
        return Method(text, (grid,), scaling=_SCALINGS[scaling])
    if how in ("rtn", "gptq"):
        return Method(text, (_grid(text, rest, how == "gptq", weighs=how == "gptq"),))
    if how == "vptq":
        return Method(text, (_vptq(text, rest),))
    raise _strange(text)


_SCALINGS: dict[str, Scaling] = {"awq": "awq", "smooth": "smooth"}


def _strange(text: str) -> QuantError:
    return QuantError(
        f"method: must be such as {EXAMPLES} (see evolute quantize --help); got {text!r}"
    )


def _percent(text: str, number: str | None) -> float:
    try:
        percent = float(number or 0)
    except ValueError:
        raise _strange(text) from None
    if not 0 <= percent <= 50:
        raise QuantError(f"method: outliers must be 0 to 50 percent of the columns, got {text!r}")
    return percent


def _grid(text: str, choice: str, feedback: bool, weighs: bool) -> GridChoice:
    match = _FORMAT.fullmatch(choice)
    if not match:
        raise _strange(text)
    try:
        rounding = parse_weights(match["weights"]).rounding
    except QuantError:
        raise _strange(text) from None
    assert rounding is not None
    rounding = replace(rounding, clip=bool(match["clip"]))
    outliers = _percent(text, match["out"])
    return GridChoice(rounding, feedback, outliers, weighs or rounding.clip or outliers > 0)


def _vptq(text: str, choices: str) -> Vptq:
    match = _VPTQ.fullmatch(choices)
    if not match:
        raise _strange(text)
    v, entries, residual, inputs, groups, percent, outlier_v, outlier_entries, norm = match.groups()
    plain = Vptq()
    choice = Vptq(
        v=int(v),
        along="inputs" if inputs else "outputs",
        entries=int(entries),
        residual_entries=int(residual or 0),
        groups=int(groups or 1),
        outliers=_percent(text, percent),
        outlier_v=int(outlier_v or plain.outlier_v),
        outlier_entries=int(outlier_entries or plain.outlier_entries),
        norm=_NORMS[norm],
    )
    for name, size in (("k", choice.entries), ("r", choice.residual_entries or 2)):
        if size & (size - 1) or not 2 <= size <= 1 << 15:
            raise QuantError(f"method: {name} must be a power of two in 2..32768, got {text!r}")
    if not (1 <= choice.v <= 16 and 1 <= choice.outlier_v <= 16 and choice.groups):
        raise QuantError(f"method: v must be in 1..16 and groups at least 1, got {text!r}")
    return choice


def quantize_layer(
    quantizer: Quantizer,
    w: NDArray[np.float32],
    moments: Moments | None,
    rng: np.random.Generator,
    force: bool = False,
) -> tuple[Coded, dict[str, float]]:
    """Returns `w` [N, K] in codes, and the proxy error after each stage of the quantization.

    Without moments, which only rounding can do without, all inputs have the same weight and errors
    are not known. Raises `QuantError`; also for codebooks that are larger than what they encode,
    unless `force` is set.
    """
    if isinstance(quantizer, GridChoice):
        return _on_grids(quantizer, w, moments)
    assert moments is not None
    if not force:
        require_useful(quantizer, *w.shape)
    layer, stages = vptq(w, moments, quantizer, rng)
    return to_tensor(layer), stages


def has_rounding(method: Method) -> bool:
    """Whether a comparison with plain rounding makes sense: the method uses grids, and does more
    than rounding to nearest."""
    grids = [candidate for candidate in method.candidates if isinstance(candidate, GridChoice)]
    does_more = method.scaling is not None or any(grid.feedback for grid in grids)
    return does_more and len(grids) == len(method.candidates)


def rounded(grid: GridChoice, w: NDArray[np.float32], moments: Moments) -> Coded:
    """`w` [N, K] rounded to nearest on the grids that are laid for it, without anything else."""
    return _on_grids(replace(grid, feedback=False), w, moments)[0]


def salient_columns(
    w: NDArray[np.float32], strength: NDArray[np.floating], percent: float
) -> NDArray[np.int64]:
    """The columns of `w` [N, K] with the largest effect on the outputs: `percent` of them, but at
    least one.

    The effect of a column is its mean square times that of its input, the `strength` [K] (PB-LLM,
    arXiv 2310.00034, section 3.2, by whole columns).
    """
    weight = np.square(w, dtype=np.float64).sum(axis=0) * strength
    count = max(1, round(len(weight) * percent / 100))
    return np.sort(np.argsort(-weight, kind="stable")[:count])


def _on_grids(
    choice: GridChoice, w: NDArray[np.float32], moments: Moments | None
) -> tuple[Coded, dict[str, float]]:
    k = w.shape[1]
    strength, h = np.ones(k), None
    if choice.weighs or choice.feedback:
        assert moments is not None
        h = damped(moments.second, moments.tokens)
    if h is not None and choice.weighs:
        strength = np.diag(h)
    order, sizes, roundings = None, [k], [choice.rounding]
    if choice.outliers:
        outliers = salient_columns(w, strength, choice.outliers)
        order = np.concatenate([outliers, np.delete(np.arange(k), outliers)])
        sizes = [len(outliers), k - len(outliers)]
        roundings = [Rounding(WeightCodes(OUTLIER_BITS), None, Scheme.ASYMMETRIC), choice.rounding]
        strength = strength[order]
    stored = w if order is None else w[:, order]
    ends = np.cumsum(sizes)
    parts = tuple(
        quantize(stored[:, end - size : end], rounding, strength[end - size : end])
        for end, size, rounding in zip(ends, sizes, roundings, strict=True)
    )
    stages: dict[str, float] = {}

    def whole() -> Coded:
        return parts[0] if order is None else PartedTensor(parts, order)

    def note(stage: str) -> None:
        if moments is not None:
            stages[stage] = proxy_error(w, whole().dequantize(), moments.second)

    note("rounded")
    if h is not None and choice.feedback:
        parts = gptq(stored, parts, h if order is None else h[np.ix_(order, order)])
        note("feedback")
    return whole(), stages
