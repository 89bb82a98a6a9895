"""Whole-model evaluations: Phi-3-mini's linear layers, prefill and decode.

On very many engines at once: the time includes finding out which of them are legal and all that
follows from their choices; only choosing them at random is left out. A point is a layer of a phase
on one design. And on one engine after another, as one command prices it, and on a core.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.program import POINTS, point_ms
from benchmarks.timing import median_seconds, report
from evolute.hw.spec import BitSerial, LutTensorCore, Mac
from evolute.hw.spec.bit_serial import TERMS
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.batch import evaluate_columns
from evolute.sim.cost.columns import Designs
from evolute.sim.cost.engine import phase_of
from evolute.sim.cost.evaluate import evaluate
from evolute.sim.workload.linear import LayerName, Linear, Workload
from evolute.sim.workload.operations import Pass

# Published shapes (N, K, count): 32 blocks of hidden 3072 and FFN 8192, vocabulary 32064.
PHI3 = [(9216, 3072, 32), (3072, 3072, 32), (16384, 3072, 32), (3072, 8192, 32), (32064, 3072, 1)]
PREFILL_TOKENS, DECODE_TOKENS = 512, 1

LIMIT_POINTS_PER_S = 2_000_000
DESIGNS = 50_000
"""Of each kind."""


def drawn(rng: np.random.Generator, count: int) -> list[Designs]:
    """Random engines of three kinds, some of them illegal."""

    def common() -> dict[str, Any]:
        return {
            "m": rng.integers(1, 17, count),
            "n": rng.integers(1, 129, count),
            "weight_bits": rng.choice([4, 8], count),
            "group_size": rng.choice([64, 128, 256], count),
        }

    lookup = {
        "k": rng.integers(2, 7, count),
        "kg": rng.integers(1, 17, count),
        "mirrored": rng.random(count) < 0.5,
        "planes_per_step": rng.choice([1, 2, 4], count),
        "table_bits": rng.choice(np.array([None, 8], object), count),
    }
    multiply = {
        "k": rng.integers(1, 65, count),
        "arrangement": rng.choice(["tree", "tree", "systolic"], count),
    }
    serial = {"k": rng.integers(1, 65, count), "terms": rng.choice(list(TERMS), count)}
    fields = {LutTensorCore: lookup, Mac: multiply, BitSerial: serial}
    return [Designs(kind, common() | of_kind) for kind, of_kind in fields.items()]


def main() -> None:
    spec, platform = LutTensorCore(), Platform()
    linears = [
        Linear(LayerName(None, f"{n}x{k}"), n, k, WeightCodes(4), 128, 32, count)
        for n, k, count in PHI3
    ]
    workload = Workload("phi-3-mini", "w4g128", tuple(linears), ())
    phases = [
        phase_of(workload.kinds, Pass(PREFILL_TOKENS)),
        phase_of(workload.kinds, Pass(1), DECODE_TOKENS),
    ]
    columns = drawn(np.random.default_rng(1), DESIGNS)
    points = sum(len(phase.layers) for phase in phases)
    priced = sum(len(evaluate_columns(designs, phases, platform).priced) for designs in columns)

    def together() -> None:
        for designs in columns:
            # A copy, since what is known about designs is kept with them.
            evaluate_columns(Designs(designs.kind, designs.fields), phases, platform)

    def alone() -> None:
        evaluate(spec, workload, platform, PREFILL_TOKENS, DECODE_TOKENS)

    columns_cpu_s = median_seconds(together, clock=time.process_time)
    columns_s = median_seconds(together)
    alone_cpu_s = median_seconds(alone, 101, clock=time.process_time)
    record_s = median_seconds(
        lambda: evaluate(spec, workload, platform, PREFILL_TOKENS, DECODE_TOKENS).to_dict(), 101
    )
    core_ms = point_ms("phi3")
    report(
        {
            "points_per_s": priced * points / columns_cpu_s,
            "points_of_limit": priced * points / columns_cpu_s / LIMIT_POINTS_PER_S,
            "points_per_wall_s": priced * points / columns_s,
            "one_by_one_points_per_s": points / alone_cpu_s,
            "designs": priced,
            "phi3_ms": 1e3 * record_s,
            "core_phi3_ms": core_ms,
            "core_phi3_of_limit": core_ms / POINTS["phi3"].limit_ms,
        },
        {
            "points_per_s": "layers of designs, many at once, per second of CPU time",
            "points_of_limit": f"the same as a ratio to {LIMIT_POINTS_PER_S:,}",
            "points_per_wall_s": "the same by the clock on the wall",
            "one_by_one_points_per_s": "the same for one design after another, CPU time",
            "designs": "of which all are legal",
            "phi3_ms": "one spec, prefill and decode, with its record",
            "core_phi3_ms": "the same on a core: its programs compiled and walked, CPU time",
            "core_phi3_of_limit": f"the same as a ratio to {POINTS['phi3'].limit_ms} ms",
        },
    )


if __name__ == "__main__":
    main()
