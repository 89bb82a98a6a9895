"""A language model on an accelerator: how fast, and how true to the model as shipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hw.spec import LutTensorCore
from sim.evaluate import Metrics, evaluate
from sim.memory import Platform
from sim.workload import Workload
from sw.linear import (
    Backend,
    Linears,
    engine_linears,
    fast_backend,
    host_linears,
    workload,
)
from sw.llama import Cache, forward
from sw.model import LanguageModel
from sw.perplexity import Accuracy, Text, measure, windows
from sw.quant import QuantError, Weights

CHECK_TOKENS = 4
"""Tokens whose logits are computed through the lookup tables and as plain integer products."""


@dataclass(frozen=True)
class Simulation:
    """The main job's result.

    `tables_equal` says whether the lookup tables gave the same logits, bit for bit, as the plain
    integer products that measured the accuracy; None where the tables measured it themselves.
    """

    workload: Workload
    metrics: Metrics
    accuracy: Accuracy
    backend: Backend
    tables_equal: bool | None

    def to_dict(self) -> dict[str, Any]:
        phases = zip(self.metrics.prefill.layers, self.metrics.decode.layers, strict=True)
        return {
            "model": self.workload.model,
            "weights": self.workload.weights,
            **self.metrics.to_dict(),
            "layers": [
                {
                    "name": prefill.linear.name,
                    "count": prefill.linear.count,
                    "n": prefill.linear.n,
                    "k": prefill.linear.k,
                    "weights": prefill.linear.format.name,
                    "prefill_cycles": prefill.cycles,
                    "decode_cycles": decode.cycles,
                }
                for prefill, decode in phases
            ],
            "host_layers": list(self.workload.host),
            "bits_index": self.workload.bits_index,
            "bits_total": self.workload.bits_total,
            "perplexity": {
                "float": self.accuracy.reference_perplexity,
                "quantized": self.accuracy.perplexity,
                "text": self.accuracy.text,
                "tokens": self.accuracy.tokens,
                "context": self.accuracy.context,
                "kl": self.accuracy.kl,
                "top1": self.accuracy.top1,
                "backend": self.backend,
                "tables_equal": self.tables_equal,
            },
        }


def simulate(
    model: LanguageModel,
    weights: Weights,
    spec: LutTensorCore,
    platform: Platform,
    prefill_tokens: int,
    decode_tokens: int,
    text: Text,
    tokens: int,
    context: int,
    progress: Callable[[float], None] = lambda done: None,
) -> Simulation:
    """Price the model's linear layers on `spec`, and measure what its arithmetic does to the text.

    Perplexity runs through plain integer products, which exact tables equal; rounded tables are
    run themselves. `progress` is called with the part of the measurement done, 0..1. Raises
    `RefusedError` for what the model, the weights and the engine do not allow together.
    """
    work = workload(model, weights, spec)
    if not work.linears:
        raise QuantError(f"weights: {weights.name} leaves no layer on the engine to simulate")
    metrics = evaluate(spec, work, platform, prefill_tokens, decode_tokens)
    backend = fast_backend(spec)
    engine = engine_linears(model, weights, spec, backend)
    accuracy = measure(model, engine, host_linears(model), text, tokens, context, progress)
    tables_equal = None
    if backend == "integer":
        start = windows(model, text, CHECK_TOKENS, context)[0]
        tables = engine_linears(model, weights, spec, "golden")
        tables_equal = np.array_equal(_logits(model, engine, start), _logits(model, tables, start))
    return Simulation(work, metrics, accuracy, backend, tables_equal)


def _logits(model: LanguageModel, linear: Linears, tokens: list[int]) -> np.ndarray:
    return linear("head", forward(model, linear, tokens, Cache(model.config, len(tokens))))
