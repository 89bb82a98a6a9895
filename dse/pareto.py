"""Trade-offs between objectives on ratio scales: all comparisons are between logarithms.

So half the area counts as much as twice the speed, whatever the units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Optuna's exact algorithm (While et al., "A Fast Way of Calculating Exact Hypervolumes", 2012); the
# module is private, so its version range in pyproject.toml is part of this import.
from optuna._hypervolume import compute_hypervolume


def losses(values: Sequence[Sequence[float]], directions: Sequence[str]) -> np.ndarray:
    """Logarithms of positive `values` [points, objectives], with signs such that smaller is always
    better."""
    signs = [1.0 if direction == "minimize" else -1.0 for direction in directions]
    return np.log(np.asarray(values, float)) * signs


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The volume that `points` [points, objectives] of losses dominate, up to `reference`."""
    return float(compute_hypervolume(points, reference))


def knee(points: np.ndarray, weights: Sequence[float]) -> int:
    """The index of the point that is nearest to the best value of every objective.

    The losses of each objective are scaled to 0 .. 1 over all points and multiplied by its weight.
    """
    best, worst = points.min(axis=0), points.max(axis=0)
    scaled = (points - best) / np.where(worst > best, worst - best, 1)
    return int(np.argmin(np.linalg.norm(scaled * np.asarray(weights), axis=1)))
