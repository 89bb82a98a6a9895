"""The golden model on a 2-bit 4096 x 4096 matrix-vector product, one core."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy starts its threads

import numpy as np

from benchmarks.timing import median_seconds, report
from evolute.hw.spec import LutTensorCore
from evolute.hw.spec.formats import WeightCodes
from evolute.sim.golden import lut_tensor_core as golden
from evolute.sim.weights import Grid


def main() -> None:
    rng = np.random.default_rng(0)
    spec, weight_format = LutTensorCore(), WeightCodes(2)
    codes = rng.integers(0, 4, (4096, 4096)).astype(np.uint8)
    x = rng.integers(-127, 128, (1, 4096))
    encoded = golden.encode(spec, Grid.plain(codes, weight_format, 128))
    dense, vector = codes.astype(np.float32), x[0].astype(np.float32)
    golden_s = median_seconds(lambda: golden.group_sums(spec, x, encoded))
    float_s = median_seconds(lambda: dense @ vector)
    report(
        {"golden_ms": 1e3 * golden_s, "float_ms": 1e3 * float_s, "ratio": golden_s / float_s},
        {
            "golden_ms": "lookup tables, group 128",
            "float_ms": "limit: dense float32 product of the same shape",
            "ratio": "golden / limit",
        },
    )


if __name__ == "__main__":
    main()
