"""The choices of weights and their names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from evolute.hw.spec.formats import TERNARY, Kind, WeightCodes
from evolute.sw.quantizers.rounding import Rounding, Scheme
from evolute.sw.tensors.tensor import QuantError


@dataclass(frozen=True)
class Weights:
    """A choice of weights by name. `rounding` is None for `native` and `float`."""

    name: str
    rounding: Rounding | None = None

    @property
    def method(self) -> str:
        """A description of how the weights are made."""
        if self.rounding:
            return f"round to nearest, {self.rounding.scheme.name.lower().replace('_', ' ')}"
        return "codes as shipped" if self == NATIVE else "float32 as shipped"


NATIVE = Weights("native")
"""The checkpoint's own codes, where it has codes; nothing is quantized twice."""
FLOAT = Weights("float")
"""The checkpoint as shipped, in float32 on the host."""

GRAMMAR = (
    "native, float, w<1-8>[g<group>][s|a|f], b<3|4>[g<group>] or t[g<group>], "
    "such as w4g32, w2g128s, b4g128, tg128"
)


def parse_weights(text: str) -> Weights:
    """The choice that `text` names. Raises `QuantError`.

    `native`; `float`; `w4g32` = 4 bits in groups of 32 along K, followed by `s` for symmetric, `a`
    for asymmetric with an integer zero point (the default) or `f` for a float minimum; `b4g128` =
    BitMoD's 4-bit floating point with a special value per group; `tg128` = ternary. Without a
    group, or with `g0`, each output channel is one group.
    """
    for choice in (NATIVE, FLOAT):
        if text == choice.name:
            return choice
    match = re.fullmatch(r"(?:(w[1-8])|(b[34]|t))(?:g(\d{1,6}))?((?(1)[saf]?))", text)
    if not match:
        raise QuantError(f"weights: must be {GRAMMAR}; got {text!r}")
    group, scheme = int(match[3] or 0) or None, match[4]
    if text[0] == "t":
        return Weights(text, Rounding(TERNARY, group, Scheme.ABSMEAN))
    bits = int(text[1])
    if text[0] == "b":
        codes = WeightCodes(bits, Kind.BITMOD)
        return Weights(text, Rounding(codes, group, Scheme.SPECIAL_VALUE))
    return Weights(text, Rounding(WeightCodes(bits), group, Scheme(scheme or "a")))
