"""Refuses unknown settings of model files that may change what a model computes.

A reader knows the settings that it reads. Most others concern training, sampling or the file's
origin and have no effect. A setting whose name sounds like arithmetic may change every number: it
is refused unless it is listed as harmless, or has a value with which it has no effect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

ARITHMETIC = (
    "act_",
    "_act",
    "activation",
    "alibi",
    "attention",
    "attn",
    "bias",
    "cap",
    "causal",
    "clamp",
    "compress",
    "_eps",
    "epsilon",
    "expert",
    "factor",
    "freq",
    "head",
    "kv",
    "layer_types",
    "logit",
    "mask",
    "moe",
    "multiplier",
    "mup",
    "norm",
    "pattern",
    "position",
    "qk",
    "quant",
    "resid",
    "rope",
    "rotary",
    "rotat",
    "scal",
    "sliding",
    "sparse",
    "theta",
    "window",
)
"""Parts of names that speak of what a model computes."""
_TRAINING = ("dropout", "initializer", "loss", "pdrop")
"""Parts of names that speak of training only, whatever else they name."""


@dataclass(frozen=True)
class KnownSettings:
    """What a reader knows of the settings of one kind of file."""

    read: Collection[str]
    """Those that it reads, and so understands."""
    harmless: Collection[str] = ()
    """Those that change no number whatever their value, though their names sound as if they did."""
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Those that it does not implement, and the values with which they change nothing."""
    words: tuple[str, ...] = ARITHMETIC
    """Parts of the names of settings that are refused if they are none of the above."""

    def require(self, settings: Mapping[str, Any], place: str = "") -> None:
        """Raise ValueError for a setting that is not known and may change what the model computes.

        `place` is put before names in messages. A setting of null counts as missing.
        """
        for name, value in settings.items():
            if value is None or name in self.read or name in self.harmless:
                continue
            if any(word in name.lower() for word in _TRAINING):
                continue
            if name in self.neutral:
                if not any(value == allowed for allowed in self.neutral[name]):
                    allowed_values = " or ".join(repr(allowed) for allowed in self.neutral[name])
                    raise ValueError(
                        f"{place}{name:.80} must be {allowed_values}, got {value!r:.40}"
                    )
            elif any(word in name.lower() for word in self.words):
                raise ValueError(
                    f"{place}{name:.80} is not a setting that is known here, "
                    "and it may change what the model computes"
                )
