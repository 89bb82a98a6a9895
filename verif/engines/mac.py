"""How weights fill the beats of a MAC array, by `hw.spec.layout` alone; random specs."""

from __future__ import annotations

import numpy as np

from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.mac import MULTIPLIERS, Mac


def weight_fields(
    spec: Mac, codes: np.ndarray, special: np.ndarray, weight_format: WeightCodes
) -> dict[str, np.ndarray]:
    """Fields [tiles, slices, planes, *shape] of codes [tiles, n, slices, slice_k]."""
    code = codes - weight_format.levels // 2
    return {"code": code.transpose(0, 2, 1, 3)[:, :, None]}


def random_spec(rng: np.random.Generator) -> Mac:
    """A legal spec, small enough to build in seconds, with every choice drawn freely."""
    while True:
        systolic = rng.random() < 0.4
        spec = Mac(
            m=int(rng.integers(1, 5)),
            n=int(rng.integers(1, 13)),
            k=1 if systolic else int(rng.integers(1, 25)),
            arrangement="systolic" if systolic else "tree",
            multiplier=str(rng.choice(MULTIPLIERS)),
            activation_bits=int(rng.integers(4, 17)),
            weight_bits=int(rng.integers(1, 9)),
            group_size=int(rng.integers(1, 97)),
        )
        if spec.macs_per_step * spec.weight_bits <= 2000:
            return spec
