"""What came back against what should have, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SUMS = ("row", "column")
"""Axes of a layer's sums."""

VALUES = (" must be ", " results, golden has ")
CYCLES = ("cycle of ", " model says ", "closed form gives ")
"""Words of which differences of numbers, and of transfers in time, have some."""


def about(kind: Sequence[str], differences: Sequence[str]) -> list[str]:
    """Those of `differences` that are `VALUES` or `CYCLES`."""
    return [line for line in differences if any(words in line for words in kind)]


def wrong_values(
    what: str, found: np.ndarray, wanted: np.ndarray, axes: Sequence[str]
) -> list[str]:
    """The first wrong one of numbers of equal shapes, its place in words, by names of axes."""
    wrong = np.argwhere(found != wanted)
    if not len(wrong):
        return []
    at = tuple(wrong[0])
    place = ", ".join(f"{axis} {i}" for axis, i in zip(axes, at, strict=True))
    return [
        f"{what} {place} is {found[at]}, must be {wanted[at]} "
        f"({len(wrong)} of {wanted.size} differ)"
    ]


def wrong_cycles(rtl: Any, model: Any, streams: Sequence[str]) -> list[str]:
    """The first transfer of each stream that is not in the cycle the model says."""
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
