"""Quantizes a whole model: layers are quantized in worker processes, and each is saved as soon as
it is finished. `finished` says where layers are kept until all are done.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolute.sim.workload.linear import LayerName
from evolute.support.processes import processes
from evolute.sw.checkpoints import quantized_file
from evolute.sw.language_model.linear import linear_names
from evolute.sw.language_model.model import LanguageModel, Parent, dequantized, model_digest
from evolute.sw.quantizers.finished import (
    UNFINISHED,
    Finished,
    finished_document,
    finished_layers,
    keep_layers,
    key_of,
    layer_report,
    model_document,
    read_back,
    write_finished,
)
from evolute.sw.quantizers.hessian import Calibration
from evolute.sw.quantizers.methods import GridChoice, Method, quantize_layer
from evolute.sw.quantizers.mixed import LayerOption, cheapest
from evolute.sw.quantizers.scaling import (
    folds_into,
    folds_into_rows,
    input_scale,
    scaled_moments,
    tied_columns,
)
from evolute.sw.quantizers.vptq.choice import require_useful, stored_bits
from evolute.sw.tensors.stored import Tensor
from evolute.sw.tensors.tensor import Coded, QuantError


@dataclass(frozen=True)
class _Plan:
    """What the quantization of all layers of a model has in common."""

    method: Method
    calibration: Calibration | None
    """None where nothing looks at layers' inputs."""
    seed: int
    force: bool
    folder: Path
    """Of finished layers."""
    key: str


@dataclass(frozen=True, eq=False)
class _Task:
    """Quantize the layers that share an input."""

    plan: _Plan
    weights: Mapping[str, NDArray[np.float32]]
    ties: NDArray[np.int64] | None
    """Columns with equal numbers must be scaled alike; None if columns are not scaled."""

    @property
    def first(self) -> str:
        """The first of the layers, after which the input is named."""
        return next(iter(self.weights))

    @property
    def path(self) -> Path:
        """The file for the finished layers."""
        return self.plan.folder / f"{self.first}.safetensors"


def _choice(name: str, number: int) -> str:
    """The name of a candidate's tensor in a file of finished layers."""
    return f"{name}@{number}"


def _work(task: _Task) -> None:
    plan, weights = task.plan, task.weights
    moments = None if plan.calibration is None else plan.calibration[task.first]
    tensors: dict[str, Tensor] = {}
    reports: dict[str, list[dict[str, Any]]] = {}
    if task.ties is not None and plan.method.scaling is not None and moments is not None:
        (choice,) = plan.method.candidates
        assert isinstance(choice, GridChoice)
        scale = input_scale(weights, moments, choice.rounding, plan.method.scaling, task.ties)
        tensors[_SCALE] = scale
        weights = {name: w * scale for name, w in weights.items()}
        moments = scaled_moments(moments, scale)
    for name, w in weights.items():
        reports[name] = []
        for number, quantizer in enumerate(plan.method.candidates):
            # A layer's numbers do not depend on which others are quantized, or when.
            rng = np.random.default_rng([plan.seed, zlib.crc32(name.encode()), number])
            tensor, stages = quantize_layer(quantizer, w, moments, rng, plan.force)
            tensors[_choice(name, number)] = tensor
            reports[name].append(layer_report(name, tensor, stages))
    keep_layers(task.path, plan.key, tensors, reports)


_SCALE = "input_scale"


def quantize_model(
    model: LanguageModel,
    method: Method,
    calibration: Calibration | None,
    folder: Path,
    seed: int = 0,
    workers: int = 1,
    force: bool = False,
    progress: Callable[[float], None] = lambda done: None,
    parent: Parent | None = None,
) -> tuple[LanguageModel, dict[str, Any]]:
    """Quantize the linear layers of `model`, except the head, and write the result to `folder`.
    Returns the quantized model, and the document that describes how it was made.

    `calibration` is required for a method that `calibrates`; for others it adds the proxy errors.
    `parent` says where `model` can be found; the folder records it with its digest. `force` allows
    codebooks that are larger than what they encode. Raises `QuantError` and `FileError`.
    """
    parent_digest = model_digest(model)
    seen = None if calibration is None else calibration.digest
    key = key_of(method.name, parent_digest, seen, seed)
    if (document := finished_document(folder, key)) is not None:
        return quantized_file.read_quantized(folder), document
    plan = _Plan(method, calibration, seed, force, folder / UNFINISHED / key, key)
    with processes(workers) as pool:
        made = _made(model, plan, pool, workers, progress)
    reports = made.reports
    chosen = dict.fromkeys(reports, 0)
    if method.bits is not None:
        chosen = _chosen(reports, method.bits)
    coded: dict[str, Coded] = {}
    for path in made.paths:
        tensors, layers_there = read_back(path, key)
        for name in layers_there:
            tensor = tensors[_choice(name, chosen[name])]
            assert isinstance(tensor, Coded)
            coded[name] = tensor
    order = [name for name in linear_names(model) if name in coded]
    layers = [{**reports[name][chosen[name]], "candidate": chosen[name]} for name in order]
    document = model_document(method.name, seed, model, key, coded, layers)
    others = {
        name: dequantized(tensor) / made.folded[name] if name in made.folded else tensor
        for name, tensor in model.tensors.items()
        if name not in coded
    }
    remembered = replace(parent or Parent(model.name), digest=parent_digest)
    quantized = write_finished(folder, model, {**others, **coded}, remembered, document)
    return quantized, document


def require_fits(model: LanguageModel, method: Method, force: bool = False) -> None:
    """Raise `QuantError` if the sizes of `model` alone show that `method` is impossible.

    This check comes before calibration, which takes minutes. `force` is as in `quantize_model`,
    which makes the same checks.
    """
    least = weights = 0
    for name in linear_names(model):
        if name == "head":
            continue
        n, k = model.config.shapes()[name]
        bits = []
        for choice in method.candidates:
            if isinstance(choice, GridChoice):
                bits.append(n * k * choice.rounding.format.bits)
                continue
            if not force:
                require_useful(choice, n, k)
            bits.append(sum(stored_bits(choice, n, k).values()))
        weights += n * k
        least += min(bits)
    if method.bits is not None and least > method.bits * weights:
        raise QuantError(
            f"method: needs {least / weights:.3g} bits per weight at least, in {method.name!r} "
            f"{method.bits:g} are allowed"
        )


class _Made(NamedTuple):
    """The results for a model's layers."""

    reports: dict[str, list[dict[str, Any]]]
    """For each layer, the report of every candidate."""
    paths: list[Path]
    folded: dict[str, NDArray[np.float32]]
    """The numbers by which elements of other tensors must be divided."""


def _made(
    model: LanguageModel,
    plan: _Plan,
    pool: concurrent.futures.Executor,
    workers: int,
    progress: Callable[[float], None],
) -> _Made:
    """Quantize all layers that are not finished yet."""
    inputs, config = model.config.shared_inputs, model.config
    rounds = [inputs]
    if plan.method.scaling:
        # What a layer's rows are divided by is known when the layer that takes them is done.
        last = tuple(shared for shared in inputs if folds_into_rows(config, shared[0]))
        rounds = [last, tuple(shared for shared in inputs if shared not in last)]
    made = _Made({}, [], {})
    for layer_round in rounds:
        for task, (tensors, layers) in _run(
            _tasks(model, layer_round, made.folded, plan), pool, workers
        ):
            made.reports.update(layers)
            made.paths.append(task.path)
            scale = tensors.get(_SCALE)
            if task.ties is not None and isinstance(scale, np.ndarray):
                first = LayerName.parse(task.first)
                into, divisor = folds_into(config, first.role), _per_output(scale, task.ties)
                folded = f"{first.block}.{into}"
                made.folded[folded] = made.folded[f"{folded}_bias"] = divisor
            progress(len(made.paths) / (config.layers * len(inputs)))
    return made


def _per_output(scale: NDArray[np.float32], ties: NDArray[np.int64]) -> NDArray[np.float32]:
    """The scales of outputs for given scales of the inputs that they produce."""
    factors = np.ones(int(ties.max()) + 1, np.float32)
    factors[ties] = scale
    return factors


_LEAST_ERROR = 1e-12
"""A layer with a smaller proxy error counts as exact."""


def _chosen(reports: Mapping[str, list[dict[str, Any]]], bits: float) -> dict[str, int]:
    """The candidate of each layer, with `bits` bits per weight on average.

    The loss is the logarithm of the proxy error, times the number of weights of the layer. How much
    the error of one layer matters compared with another is not known from their Hessians. Such a
    factor would add the same to the logarithms of all candidates of a layer, so the choice does not
    depend on it.
    """
    sizes = [math.prod(layer[0]["shape"]) for layer in reports.values()]
    layers = [
        [
            LayerOption(
                option["bits"]["total"], size * math.log(max(option["proxy_error"], _LEAST_ERROR))
            )
            for option in layer
        ]
        for layer, size in zip(reports.values(), sizes, strict=True)
    ]
    return dict(zip(reports, cheapest(layers, bits * sum(sizes)), strict=True))


def _run(
    tasks: Iterator[_Task], pool: concurrent.futures.Executor, workers: int
) -> Iterator[tuple[_Task, Finished]]:
    """The result of each task, in order. Tasks that were finished before are not run again."""
    # Of a large model only so many layers are held in float32 at once.
    pending: collections.deque[tuple[_Task, concurrent.futures.Future[None] | None]] = (
        collections.deque()
    )
    while True:
        for task in itertools.islice(tasks, 2 * workers - len(pending)):
            known = finished_layers(task.path, task.plan.key) is not None
            pending.append((task, None if known else pool.submit(_work, task)))
        if not pending:
            return
        task, future = pending.popleft()
        if future is not None:
            future.result()
        yield task, read_back(task.path, task.plan.key)


def _tasks(
    model: LanguageModel,
    inputs: Sequence[Sequence[str]],
    folded: Mapping[str, NDArray[np.float32]],
    plan: _Plan,
) -> Iterator[_Task]:
    """The tasks for some inputs of every block. Rows are divided by the scales that are `folded` so
    far."""
    for layer in range(model.config.layers):
        for shared in inputs:
            weights = {}
            for name in (f"{layer}.{role}" for role in shared):
                w = dequantized(model.tensors[name])
                weights[name] = w / folded[name][:, None] if name in folded else w
            ties = _ties(model, f"{layer}.{shared[0]}") if plan.method.scaling else None
            yield _Task(plan, weights, ties)


def _ties(model: LanguageModel, name: str) -> NDArray[np.int64] | None:
    """For each input of the layer `name`, the output or norm element that produces it; None if the
    division of the input cannot be folded into anything."""
    config, role = model.config, LayerName.parse(name).role
    into = folds_into(config, role)
    if into is None:
        return None
    if into == "v":
        return tied_columns(config.heads, config.kv_heads, config.head_dim)
    return np.arange(config.layer_linears()[role][1])
