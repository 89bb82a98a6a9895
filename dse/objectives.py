"""What a candidate is measured by. Nothing is estimated here: each metric has its own source."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.dse.space import Candidate
from evolute.hw.spec import Engine
from evolute.hw.synthesis.synth import synthesize
from evolute.sim.cost.engine import evaluate
from evolute.sim.weights import Grid, Table
from evolute.sim.workload.linear import Workload
from evolute.support.errors import RefusedError
from evolute.support.files import FileError, cache_directory, write_text
from evolute.sw.checkpoints.zoo import default_text, load
from evolute.sw.language_model.linear import engine_linears, fast_backend, require_whole, workload
from evolute.sw.language_model.model import LanguageModel, Tensor
from evolute.sw.language_model.perplexity import Text, read_text
from evolute.sw.language_model.perplexity import measure as measure_text
from evolute.sw.tensors.tensor import Coded, QuantError, parted
from evolute.sw.tensors.weights import Weights


@dataclass(frozen=True)
class Bench:
    """What every candidate of a study runs: a model, and a text to predict (None: its default)."""

    model: str
    text: Path | None
    tokens: int
    context: int


@functools.cache
def code_digest(*folders: str) -> str:
    """Changes whenever a Python file in these folders of the project does, commands excepted."""
    root, found = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        if path.parent.name != "commands":
            found.update(path.read_bytes())
    return found.hexdigest()[:12]


def measure(bench: Bench, names: Collection[str], candidate: Candidate) -> dict[str, float]:
    """The metrics of a candidate, `clock_mhz`, at which its tokens per second hold, and
    `mac_share`, the part of the linear layers' multiply-accumulates that they are of.

    The clock is the platform's, or the fastest that the synthesized netlist allows if that is less.
    Perplexity is measured only if it is in `names`. Raises `FileError` where the machine is at
    fault, else `RefusedError`; both cross processes.
    """
    try:
        return _measure(bench, names, candidate)
    except FileError as error:
        raise FileError(str(error)) from None
    except RefusedError as error:
        raise RefusedError(str(error)) from None


def _measure(bench: Bench, names: Collection[str], candidate: Candidate) -> dict[str, float]:
    spec, weights = candidate.spec, candidate.weights
    work = require_scope(model(bench.model), workload(model(bench.model), weights, spec), spec)
    netlist = synthesize(spec, "asic")
    frequency_hz = min(candidate.platform.frequency_hz, 1e9 / netlist.delay_ns)
    metrics = evaluate(
        spec,
        work,
        replace(candidate.platform, frequency_hz=frequency_hz),
    )
    measured = {"perplexity": perplexity(bench, weights, spec)} if "perplexity" in names else {}
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
    """The linear layers that every candidate of a study leaves to the host: the output head where
    the checkpoint has no codes of it, else none."""
    return () if subject.codes("head") is not None else ("head",)


def scope_in_words(subject: LanguageModel) -> str:
    """What the speeds of a study are of."""
    left = scope(subject)
    return f"all linear layers but {', '.join(left)}" if left else "all linear layers"


def require_scope(subject: LanguageModel, work: Workload, spec: Engine) -> Workload:
    """`work`, if it leaves to the host what every candidate does.

    Raises `QuantError` otherwise: a speed without a layer is not to be ranked among those with it.
    """
    require_whole(work, spec)
    if work.host != scope(subject):
        left = ", ".join(work.host) or "no layer"
        raise QuantError(
            f"weights: {work.weights} leaves {left} to the host, other candidates do not; all of a "
            f"study must run {scope_in_words(subject)}"
        )
    return work


def perplexity(bench: Bench, weights: Weights, spec: Engine) -> float:
    """Perplexity through the engine's arithmetic, kept on disk by all that it depends on."""
    content = text(bench)
    rounded = None if spec.exact else spec.to_dict()
    facts = (
        code_digest("hw/spec", "sim", "sw"),
        model_digest(bench.model),
        weights.name,
        spec.weight_bits,
        spec.activation_bits,
        spec.activation_format,
        rounded,
        hashlib.sha256(content.content.encode()).hexdigest(),
        bench.tokens,
        bench.context,
    )
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    path = cache_directory() / "perplexity" / f"{key}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["perplexity"]
    linears = engine_linears(model(bench.model), weights, spec, fast_backend(spec))
    # The model itself as reference costs nothing and is not looked at.
    found = measure_text(model(bench.model), linears, linears, content, bench.tokens, bench.context)
    write_text(path, json.dumps(asdict(found)) + "\n")
    return found.perplexity


@functools.cache
def model_digest(name: str) -> str:
    """Changes whenever a weight of the model does."""
    found = hashlib.sha256()
    for key, tensor in sorted(model(name).tensors.items()):
        found.update(key.encode())
        for array in _arrays(tensor):
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:12]


def _arrays(tensor: Tensor) -> tuple[NDArray[Any], ...]:
    if not isinstance(tensor, Coded):
        return (tensor,)
    whole = parted(tensor)
    found = [whole.order, whole.scale, whole.bias]
    for part in whole.parts:
        found += [part.codes, part.scale, part.minimum]
        match part.form:
            case Grid(special=special) if part.format.specials:
                found.append(special)
            case Table(centroids=centroids):
                found.append(centroids.points)
            case _:
                pass
    return tuple(each for each in found if each is not None)


@functools.cache
def model(name: str) -> LanguageModel:
    """The model called `name`, loaded once per process."""
    return load(name)


@functools.cache
def text(bench: Bench) -> Text:
    """The bench's text, or the default one of its model."""
    return read_text(bench.text) if bench.text else default_text(bench.model)
