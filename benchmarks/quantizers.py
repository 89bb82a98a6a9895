"""Quantizers on one core: k-means against its matrix product, and time per weight of a layer."""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy starts its threads

import numpy as np

from benchmarks.timing import median_seconds, report
from evolute.sw.quantizers.hessian import Moments
from evolute.sw.quantizers.kmeans import nearest
from evolute.sw.quantizers.methods import parse_method, quantize_layer

POINTS, V, ENTRIES = 1 << 17, 8, 256
SIDE = 576
"""Inputs and outputs of the layer, those of SmolLM2-135M's attention."""

METHODS = {"rtn": "rtn-w3g64", "gptq": "gptq-w2g64c", "vptq": "vptq-v8k256r256"}


def main() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(POINTS, V)).astype(np.float32)
    book = rng.normal(size=(ENTRIES, V)).astype(np.float32)
    block, scores = 4096, np.empty((4096, ENTRIES), np.float32)

    def products() -> None:
        for start in range(0, POINTS, block):
            np.matmul(points[start : start + block], book.T, out=scores)

    macs = POINTS * V * ENTRIES / 1e9
    found_s, limit_s = median_seconds(lambda: nearest(points, book)), median_seconds(products)
    figures = {
        "kmeans_gmac_per_s": macs / found_s,
        "limit_gmac_per_s": macs / limit_s,
        "kmeans_ratio": found_s / limit_s,
    }
    notes = {
        "kmeans_gmac_per_s": "one assignment of 2^17 vectors of 8 to 256 codewords",
        "limit_gmac_per_s": "limit: its matrix product alone",
        "kmeans_ratio": "time / limit",
    }
    x = rng.normal(size=(4 * SIDE, SIDE)) @ rng.normal(size=(SIDE, SIDE))
    second, peak = (x.T @ x / len(x)).astype(np.float32), np.abs(x).max(axis=0)
    moments = Moments(second, peak.astype(np.float32), len(x))
    w = rng.normal(size=(SIDE, SIDE)).astype(np.float32)
    for name, method in METHODS.items():
        (choice,) = parse_method(method).candidates
        seconds = median_seconds(
            lambda choice=choice: quantize_layer(choice, w, moments, np.random.default_rng(0)), 3
        )
        figures[f"{name}_ns_per_weight"] = 1e9 * seconds / w.size
        notes[f"{name}_ns_per_weight"] = f"{method} of {SIDE} x {SIDE}, with its proxy errors"
    report(figures, notes)


if __name__ == "__main__":
    main()
