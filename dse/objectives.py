"""Measures a candidate. Nothing is estimated here: each metric has its own source."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import evolute.hw.revisions as hw_revisions
import evolute.sim.revisions as sim_revisions
import evolute.sw.revisions as sw_revisions
from evolute.dse.space import Candidate
from evolute.hw.spec import engine_of
from evolute.hw.synthesis.synth import synthesize
from evolute.sim.cost.evaluate import evaluate
from evolute.support.errors import RefusedError
from evolute.support.files import FileError, cache_directory, write_text
from evolute.support.identity import digest
from evolute.sw.checkpoints.zoo import default_text, load
from evolute.sw.deploy.assignment import Assignment, assign
from evolute.sw.deploy.on_engine import engine_linears, engine_steps, fast_backend
from evolute.sw.language_model.model import LanguageModel, model_digest
from evolute.sw.language_model.perplexity import Text, read_text
from evolute.sw.language_model.perplexity import measure as measure_text
from evolute.sw.tensors.tensor import QuantError


@dataclass(frozen=True)
class Benchmark:
    """What every candidate of a study runs: a model, and a text to predict (None for the model's
    default)."""

    model: str
    text: Path | None
    tokens: int
    context: int


REVISIONS = {
    "rtl": hw_revisions.RTL,
    "synthesis": hw_revisions.SYNTHESIS,
    "golden": sim_revisions.GOLDEN,
    "cycles": sim_revisions.CYCLES,
    "cost": sim_revisions.COST,
    "quantizers": sw_revisions.QUANTIZERS,
    "language model": sw_revisions.LANGUAGE_MODEL,
    "search": 1,
}
"""By model, the revision that a study's results come from. The search's own, of how candidates are
drawn and what their metrics are, grows when it takes other steps than before."""

TOOLS = ("amaranth", "optuna", "pyosys")
"""Packages whose version decides the results or the steps of a study."""


def measure(benchmark: Benchmark, names: Collection[str], candidate: Candidate) -> dict[str, float]:
    """The metrics of a candidate, with `clock_mhz`, the clock for its tokens per second, and
    `mac_share`, the share of the linear layers' multiply-accumulates that they cover.

    The clock is that of the platform, or the fastest one of the synthesized netlist if that is
    slower. Perplexity is only measured if it is in `names`. Raises `FileError` for a problem of the
    machine, else `RefusedError`; both can cross processes.
    """
    try:
        return _measure(benchmark, names, candidate)
    except FileError as error:
        raise FileError(str(error)) from None
    except RefusedError as error:
        raise RefusedError(str(error)) from None


def _measure(
    benchmark: Benchmark, names: Collection[str], candidate: Candidate
) -> dict[str, float]:
    spec, weights = candidate.spec, candidate.weights
    assignment = require_scope(assign(model(benchmark.model), weights, spec))
    work = assignment.workload
    netlist = synthesize(spec, "asic")
    frequency_hz = min(candidate.platform.frequency_hz, 1e9 / netlist.delay_ns)
    metrics = evaluate(
        spec,
        work,
        replace(candidate.platform, frequency_hz=frequency_hz),
        layer_steps=engine_steps(assignment),
    )
    measured = {"perplexity": perplexity(benchmark, assignment)} if "perplexity" in names else {}
    return {
        "area_ge": netlist.area_ge,
        "delay_ns": netlist.delay_ns,
        "clock_mhz": frequency_hz / 1e6,
        "mac_share": work.mac_share(),
        "tokens_per_s": metrics.decode.tokens / metrics.decode.seconds,
        "prefill_tokens_per_s": metrics.prefill.tokens / metrics.prefill.seconds,
        **measured,
    }


def scope(subject: LanguageModel) -> tuple[str, ...]:
    """The linear layers that every candidate of a study leaves to the host: the output head if the
    checkpoint has no codes for it, else none."""
    return () if subject.codes("head") is not None else ("head",)


def scope_in_words(subject: LanguageModel) -> str:
    """A description of which layers the speeds of a study cover."""
    left = scope(subject)
    return f"all linear layers but {', '.join(left)}" if left else "all linear layers"


def require_scope(assignment: Assignment) -> Assignment:
    """Returns `assignment` if it leaves exactly the layers of `scope` to the host and codes no
    layer again.

    Raises `QuantError` otherwise. Speeds with and without a layer cannot be compared, nor can, for
    `native`, speeds with codes that the checkpoint does not have.
    """
    work, subject = assignment.workload, assignment.model
    if assignment.recoding is not None:
        names = assignment.recoded_names
        raise QuantError(
            f"weights: {work.weights} has no codes that the engine runs for {len(names)} of "
            f"{len(assignment.layers)} linear layers ({names[0]} is the first)"
        )
    if work.host != scope(subject):
        left = ", ".join(work.host) or "no layer"
        raise QuantError(
            f"weights: {work.weights} leaves {left} to the host, other candidates do not; all of a "
            f"study must run {scope_in_words(subject)}"
        )
    return assignment


def perplexity(benchmark: Benchmark, assignment: Assignment) -> float:
    """Perplexity with the engine's arithmetic, cached on disk under everything that it depends
    on."""
    content, weights, spec = text(benchmark), assignment.weights, assignment.engine
    rounded = None if spec.exact else spec.to_dict()
    facts = (
        *(REVISIONS[name] for name in ("golden", "quantizers", "language model")),
        digest_of_model(benchmark.model),
        weights.name,
        engine_of(spec),
        spec.weight_bits,
        spec.activation_bits,
        spec.activation_format,
        rounded,
        hashlib.sha256(content.content.encode()).hexdigest(),
        benchmark.tokens,
        benchmark.context,
    )
    path = cache_directory() / "perplexity" / f"{digest(facts)[:24]}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["perplexity"]
    linears = engine_linears(assignment, fast_backend(spec))
    # The model itself as reference costs nothing and is not looked at.
    accuracy = measure_text(
        model(benchmark.model), linears, linears, content, benchmark.tokens, benchmark.context
    )
    write_text(path, json.dumps(asdict(accuracy)) + "\n")
    return accuracy.perplexity


@functools.cache
def digest_of_model(name: str) -> str:
    """The `model_digest` of the model called `name`, computed once per process."""
    return model_digest(model(name))


@functools.cache
def model(name: str) -> LanguageModel:
    """The model called `name`, loaded once per process."""
    return load(name)


@functools.cache
def text(benchmark: Benchmark) -> Text:
    """The benchmark's text, or the default one for its model."""
    return read_text(benchmark.text) if benchmark.text else default_text(benchmark.model)
