"""Whole-model evaluations: Phi-3-mini's linear layers, prefill and decode."""

from __future__ import annotations

from benchmarks.timing import median_seconds, report
from evolute.hw.spec import LutTensorCore
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.evaluate import evaluate
from evolute.sim.workload.linear import LayerName, Linear, Workload

# Published shapes (N, K, count): 32 blocks of hidden 3072 and FFN 8192, vocabulary 32064.
PHI3 = [(9216, 3072, 32), (3072, 3072, 32), (16384, 3072, 32), (3072, 8192, 32), (32064, 3072, 1)]


def main() -> None:
    spec, platform = LutTensorCore(), Platform()
    linears = [
        Linear(LayerName(None, f"{n}x{k}"), n, k, WeightCodes(4), 128, 32, count)
        for n, k, count in PHI3
    ]
    workload = Workload("phi-3-mini", "w4g128", tuple(linears), ())
    seconds = median_seconds(lambda: evaluate(spec, workload, platform, 512, 1).to_dict(), 101)
    report(
        {"points_per_s": 1 / seconds, "phi3_ms": 1e3 * seconds},
        {"points_per_s": "specs priced per second", "phi3_ms": "one spec, prefill and decode"},
    )


if __name__ == "__main__":
    main()
