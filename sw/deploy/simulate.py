"""A language model on an accelerator: how fast, and how true to the model as shipped."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evolute.hw.spec import CoreSpec
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.evaluate import evaluate
from evolute.sim.cost.metrics import Metrics
from evolute.support.errors import RefusedError
from evolute.sw.deploy.assignment import Assignment
from evolute.sw.deploy.on_core import core_backends, core_model
from evolute.sw.deploy.on_engine import Backend, engine_linears, engine_steps, fast_backend
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.linear import Linears, host_linears
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.language_model.perplexity import Accuracy, Text, measure, windows
from evolute.sw.tensors.bits import BitsPerWeight, model_bits
from evolute.sw.tensors.tensor import QuantError

CHECK_TOKENS = 4
"""Tokens whose logits are computed by the golden model and as plain integer products."""


@dataclass(frozen=True)
class Simulation:
    """The main job's result.

    `tables_equal` says whether the golden model gave the same logits, bit for bit, as the plain
    integer products that measured the accuracy; None where the tables measured it themselves.
    """

    assignment: Assignment
    bits: BitsPerWeight
    metrics: Metrics
    accuracy: Accuracy
    backend: Backend
    tables_equal: bool | None

    def to_dict(self) -> dict[str, Any]:
        metrics, work = self.metrics.to_dict(), self.assignment.workload
        phases = zip(metrics["prefill"]["layers"], metrics["decode"]["layers"], strict=True)
        return {
            "model": work.model,
            "weights": work.weights,
            **metrics,
            "layers": [
                {
                    **{name: prefill[name] for name in ("name", "count", "n", "k", "weights")},
                    "prefill_cycles": prefill["cycles"],
                    "decode_cycles": decode["cycles"],
                }
                for prefill, decode in phases
            ],
            "labels": self.metrics.labels | {"perplexity": "measured"},
            "host_layers": list(work.host),
            "host_macs_per_token": work.host_macs(),
            "host_bytes_per_token": work.host_bytes,
            "recoded": self.assignment.recoding_record(),
            **asdict(self.bits),
            "bits_held": work.bits_held,
            "perplexity": {
                "float": self.accuracy.reference_perplexity,
                "quantized": self.accuracy.perplexity,
                "text": self.accuracy.text,
                "tokens": self.accuracy.tokens,
                "context": self.accuracy.context,
                "stride": self.accuracy.stride,
                "kv": self.accuracy.kv,
                "kl": self.accuracy.kl,
                "top1": self.accuracy.top1,
                "backend": self.backend,
                "tables_equal": self.tables_equal,
            },
        }


def simulate(
    assignment: Assignment,
    platform: Platform,
    prefill_tokens: int,
    decode_tokens: int,
    text: Text,
    tokens: int,
    context: int,
    progress: Callable[[float], None] = lambda done: None,
    original: LanguageModel | None = None,
) -> Simulation:
    """Price the model's linear layers as assigned, and measure what the accelerator's arithmetic
    does to the text.

    Perplexity runs through plain integer products, which exact tables equal; rounded tables are run
    themselves. `progress` is called with the part of the measurement done, 0..1. Accuracy is
    compared with that of `original`, the model as shipped, if there is one to compare with. Raises
    `RefusedError` for what the model, the weights and the accelerator do not allow together, and
    for more tokens than the model's context has room for.
    """
    model, spec = assignment.model, assignment.spec
    require_room(model, prefill_tokens, decode_tokens)
    work, weights = assignment.workload, assignment.weights
    if not work.linears:
        raise QuantError(f"weights: {weights.name} leaves no layer on the engine to simulate")
    if isinstance(spec, CoreSpec):
        held = core_model(assignment)
        backends, steps = core_backends(held), held.beat_steps
    else:
        backends = functools.partial(engine_linears, assignment)
        steps = engine_steps(assignment)
    metrics = evaluate(spec, work, platform, prefill_tokens, decode_tokens, steps)
    backend = fast_backend(spec)
    linear = backends(backend)
    shipped = None if original is None else host_linears(original)
    accuracy = measure(model, linear, shipped, text, tokens, context, progress, original)
    tables_equal = None
    if backend == "integer":
        start = windows(model, text, CHECK_TOKENS, context)[0]
        tables = backends("golden")
        tables_equal = np.array_equal(_logits(model, linear, start), _logits(model, tables, start))
    bits = model_bits(model, weights)
    return Simulation(assignment, bits, metrics, accuracy, backend, tables_equal)


def require_room(model: LanguageModel, prefill_tokens: int, decode_tokens: int) -> None:
    """Raise `RefusedError` unless the model's context has room for a prompt and what follows it."""
    limit, asked, what = model.config.context, prefill_tokens, "--prefill"
    if prefill_tokens <= limit:
        asked, what = prefill_tokens + decode_tokens, "--prefill and --decode together"
    if asked > limit:
        rule = f"must be at most {limit:,} tokens, the context of {model.name}"
        raise RefusedError(f"{what}: {rule}, got {asked:,}")


def _logits(model: LanguageModel, linear: Linears, tokens: list[int]) -> np.ndarray:
    return head(model, linear, forward(model, linear, tokens, Cache(model.config, len(tokens))))
