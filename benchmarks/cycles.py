"""The cycle model: layers per second in closed form, and steps per second in the fold."""

from __future__ import annotations

from benchmarks.timing import median_seconds, report
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.lut_tensor_core import LutTensorCore
from evolute.sim.timing.engine import fold, run_cycles
from evolute.sim.timing.schedule import Run, plan
from evolute.sim.workload.linear import LayerName, Linear


def main() -> None:
    spec = LutTensorCore()
    layers = [
        Linear(LayerName(None, "layer"), 576 + n, 1536, WeightCodes(4), 32, 32) for n in range(1000)
    ]
    run = Run(tiles=2, slices=1000, group_slices=2, planes=4)
    closed_s = median_seconds(
        lambda: [run_cycles(spec, [plan(spec, layer, 1)]) for layer in layers]
    )
    fold_s = median_seconds(lambda: fold(spec, [run]))
    report(
        {"layers_per_s": len(layers) / closed_s, "fold_steps_per_s": run.steps / fold_s},
        {
            "layers_per_s": "closed form, layer of any size",
            "fold_steps_per_s": "event fold, for stalled runs",
        },
    )


if __name__ == "__main__":
    main()
