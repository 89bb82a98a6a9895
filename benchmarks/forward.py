"""A language model's forward pass through an accelerator's integers, one core."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy starts its threads

from benchmarks.timing import median_seconds, report
from evolute.sw.checkpoints import zoo
from evolute.sw.commands.eval import accelerator_from
from evolute.sw.deploy.assignment import assign, default_weights
from evolute.sw.deploy.on_core import on_accelerator
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.linear import Linears, host_linears

TOKENS = 768


def main() -> None:
    model = zoo.load(zoo.DEFAULT)
    ids = list(range(100, 100 + TOKENS))

    def tokens_per_s(linear: Linears) -> float:
        def run() -> None:
            head(model, linear, forward(model, linear, ids, Cache(model.config, TOKENS)))

        return TOKENS / median_seconds(run, repeats=3)

    limit = tokens_per_s(host_linears(model))
    figures = {"float_tokens_per_s": limit}
    notes = {"float_tokens_per_s": f"limit: {model.name} in float32, {TOKENS} tokens at once"}
    for name in ("lut-decode", "core-decode"):
        assignment = assign(model, default_weights(model), accelerator_from(name, ()))
        linear = on_accelerator(assignment)("integer")
        stem = name.replace("-", "_")
        figures[f"{stem}_tokens_per_s"] = tokens_per_s(linear)
        figures[f"{stem}_ratio"] = figures[f"{stem}_tokens_per_s"] / limit
        notes[f"{stem}_tokens_per_s"] = f"the integers of {name}"
        notes[f"{stem}_ratio"] = f"{name} / limit"
    report(figures, notes)


if __name__ == "__main__":
    main()
