"""What a codebook in banks would cost: conflicts among the lookups of a weight beat.

The engine holds a copy of its codebooks for every lane, so that none of its lookups wait. The
alternative is one copy cut into banks, of which each answers one lookup a cycle; then a beat takes
as many cycles as its busiest bank has lookups. That depends on the indices, so it is counted.
"""

from __future__ import annotations

import numpy as np

from evolute.hw.spec.base import require
from evolute.hw.spec.vq_codebook import VqCodebook


def beat_indices(spec: VqCodebook, index: np.ndarray) -> np.ndarray:
    """Indices of whole tiles in the order of weight beats, [beats, lanes].

    `index` is [codewords across, codewords along K], as `sim.weights.Codebook` has them for
    an N and a K that fill their tiles and slices.
    """
    columns, depth = spec.index_shape
    fills = index.shape[0] % columns == 0 and index.shape[1] % depth == 0
    require(fills, "index", f"in whole tiles of {columns} x {depth}", index.shape)
    tiles = index.reshape(-1, columns, index.shape[1] // depth, depth)
    return tiles.transpose(0, 2, 1, 3).reshape(-1, spec.lanes)


def bank_cycles(index: np.ndarray, banks: int, *, broadcast: bool = False) -> np.ndarray:
    """Cycles that each weight beat's lookups take in one codebook cut into `banks` banks, int
    [beats].

    `index` is [beats, lanes]; entry e is in bank e % banks. With `broadcast` lookups of the same
    entry are one.
    """
    counts = np.zeros((len(index), banks), np.int64)
    entries = np.sort(index, axis=1)
    counted = np.ones(entries.shape, bool)
    if broadcast:
        counted[:, 1:] = entries[:, 1:] != entries[:, :-1]
    beat = np.broadcast_to(np.arange(len(index))[:, None], entries.shape)
    np.add.at(counts, (beat[counted], entries[counted] % banks), 1)
    return counts.max(axis=1)
