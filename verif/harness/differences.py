"""Compares recorded numbers and cycles with those of the models, and describes differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SUMS = ("row", "column")
"""Axes of a layer's sums."""

VALUES = (" must be ", " results, golden has ")
CYCLES = ("cycle of ", " model says ", "closed form gives ")
"""Words by which the text of a difference tells whether numbers or cycles differ."""


def about(kind: Sequence[str], differences: Sequence[str]) -> list[str]:
    """Those of `differences` that contain one of the words of `kind`: `VALUES` or `CYCLES`."""
    return [line for line in differences if any(words in line for words in kind)]


def wrong_values(
    what: str, measured: np.ndarray, wanted: np.ndarray, axes: Sequence[str]
) -> list[str]:
    """A text on the first wrong one of the numbers `measured`, whose shape is that of `wanted`, or
    an empty list if all are right. `what` and the names of the `axes` tell its place."""
    wrong = np.argwhere(measured != wanted)
    if not len(wrong):
        return []
    at = tuple(wrong[0])
    place = ", ".join(f"{axis} {i}" for axis, i in zip(axes, at, strict=True))
    return [
        f"{what} {place} is {measured[at]}, must be {wanted[at]} "
        f"({len(wrong)} of {wanted.size} differ)"
    ]


def wrong_cycles(rtl: Any, model: Any, streams: Sequence[str]) -> list[str]:
    """A text per stream on its first transfer that is not in the cycle of the model, or on another
    number of transfers. `rtl` and `model` have an array of cycles for each stream."""
    differences = []
    for stream in streams:
        theirs, ours = getattr(rtl, stream), np.array(getattr(model, stream), int)
        shared = min(len(ours), len(theirs))
        wrong = np.flatnonzero(ours[:shared] != theirs[:shared])
        if len(wrong):
            i = wrong[0]
            differences.append(f"cycle of {stream} {i} is {theirs[i]}, model says {ours[i]}")
        elif len(ours) != len(theirs):
            differences.append(f"{stream} moves {len(theirs)} times, model says {len(ours)}")
    return differences
