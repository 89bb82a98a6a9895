"""Which of several candidates each layer gets, to lose the least within a budget of bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evolute.sw.tensors.tensor import QuantError


class LayerOption(NamedTuple):
    """What a layer stores in one form, and what is lost by it."""

    bits: int
    loss: float


def cheapest(layers: Sequence[Sequence[LayerOption]], budget: float) -> list[int]:
    """For every layer the candidate that it gets: the least sum of losses of all choices whose bits
    sum up to `budget` at most, and of those the fewest bits.

    Dynamic programming over all sums of bits that can occur; of those that lose no less with more
    bits none is kept. Raises `QuantError` where even the fewest bits exceed the budget.
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
        before = np.minimum.accumulate(np.concatenate([[np.inf], losses[order][:-1]]))
        kept = order[losses[order] < before]
        steps.append((kept // len(bits), kept % len(bits)))
        bits, loss = sums[kept], losses[kept]
    place = len(bits) - 1
    chosen = []
    for candidate, origin in reversed(steps):
        chosen.append(int(candidate[place]))
        place = int(origin[place])
    return chosen[::-1]
