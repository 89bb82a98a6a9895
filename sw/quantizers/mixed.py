"""Chooses one of several candidates for each layer, to lose as little as possible within a budget
of bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evolute.sw.tensors.tensor import QuantError


class LayerOption(NamedTuple):
    """The bits that a layer takes in one form, and the loss that it causes."""

    bits: int
    loss: float


def cheapest(layers: Sequence[Sequence[LayerOption]], budget: float) -> list[int]:
    """The index of the chosen candidate for every layer. Among all choices with at most `budget`
    bits, the sum of losses is the least, and among those the number of bits.

    It is dynamic programming over all possible sums of bits; a sum is dropped if fewer bits lose no
    more. Raises `QuantError` if even the smallest choice exceeds the budget.
    """
    bits, loss = np.zeros(1, np.int64), np.zeros(1)
    least = [min(candidate.bits for candidate in layer) for layer in layers]
    if sum(least) > budget:
        raise QuantError(f"method: needs {sum(least):,} bits at least, {int(budget):,} are allowed")
    remaining = sum(least)
    steps = []
    for layer, fewest in zip(layers, least, strict=True):
        remaining -= fewest
        sums = np.concatenate([bits + candidate.bits for candidate in layer])
        losses = np.concatenate([loss + candidate.loss for candidate in layer])
        order = np.lexsort((losses, sums))
        order = order[sums[order] <= budget - remaining]
        least_loss = np.minimum.accumulate(np.concatenate([[np.inf], losses[order][:-1]]))
        undominated = order[losses[order] < least_loss]
        steps.append((undominated // len(bits), undominated % len(bits)))
        bits, loss = sums[undominated], losses[undominated]
    place = len(bits) - 1
    chosen = []
    for candidate, origin in reversed(steps):
        chosen.append(int(candidate[place]))
        place = int(origin[place])
    return chosen[::-1]
