"""Quantizes a whole model: layers are quantized in worker processes, and each is saved as soon as
it is finished.

Finished layers are kept in the output folder until all are done, under a digest of everything that
they depend on: model, method, calibration and seed. Another run with the same digest uses them, or
the whole model if it is finished.
"""

from __future__ import annotations

import collections
import concurrent.futures
import importlib.metadata
import importlib.util
import itertools
import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import safetensors
from numpy.typing import NDArray

from evolute.sim.workload.linear import LayerName
from evolute.support.files import FileError
from evolute.support.identity import digest
from evolute.support.processes import processes
from evolute.sw import revisions
from evolute.sw.checkpoints import quantized_file
from evolute.sw.language_model.linear import linear_names
from evolute.sw.language_model.model import LanguageModel, Parent, dequantized, model_digest
from evolute.sw.quantizers.hessian import Calibration
from evolute.sw.quantizers.lut_dla import (
    SAMPLES,
    Tables,
    layers_by_input,
    output_error,
    samples_of,
    seen_inputs,
    tables_of_input,
)
from evolute.sw.quantizers.methods import GridChoice, Method, quantize_layer
from evolute.sw.quantizers.mixed import Candidate, cheapest
from evolute.sw.quantizers.scaling import (
    folds_into,
    folds_into_rows,
    input_scale,
    scaled_moments,
    tied_columns,
)
from evolute.sw.quantizers.vptq import require_useful, stored_bits
from evolute.sw.tensors.bits import Bits, bits_of, per_weight
from evolute.sw.tensors.stored import CheckpointError, Tensor
from evolute.sw.tensors.tensor import Coded, QuantError, QuantTensor

UNFINISHED = ".unfinished"
"""Folder of finished layers of an unfinished model."""


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
    layers: dict[str, list[dict[str, Any]]] = {}
    if task.ties is not None and plan.method.scaling is not None and moments is not None:
        (choice,) = plan.method.candidates
        assert isinstance(choice, GridChoice)
        scale = input_scale(weights, moments, choice.rounding, plan.method.scaling, task.ties)
        tensors[_SCALE] = scale
        weights = {name: w * scale for name, w in weights.items()}
        moments = scaled_moments(moments, scale)
    for name, w in weights.items():
        layers[name] = []
        for number, quantizer in enumerate(plan.method.candidates):
            # A layer's numbers do not depend on which others are quantized, or when.
            rng = np.random.default_rng([plan.seed, zlib.crc32(name.encode()), number])
            tensor, stages = quantize_layer(quantizer, w, moments, rng, plan.force)
            tensors[_choice(name, number)] = tensor
            bits = bits_of(tensor)
            layers[name].append(
                {
                    "name": name,
                    "shape": list(tensor.shape),
                    "bits": bits.to_dict(),
                    "bits_total": bits.total / math.prod(tensor.shape),
                    "stages": stages,
                    "proxy_error": list(stages.values())[-1] if stages else None,
                }
            )
    documents, arrays = quantized_file.stored(tensors)
    metadata = {"key": plan.key, "documents": json.dumps(documents), "layers": json.dumps(layers)}
    quantized_file.write_arrays(task.path, arrays, metadata)


_SCALE = "input_scale"


def _finished(path: Path, key: str) -> _Finished | None:
    """The result of `_work` at `path`; None if it is missing or incomplete."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
        if metadata["key"] != key:
            return None
        tensors = dict(quantized_file.read_stored(path, json.loads(metadata["documents"])))
        return tensors, json.loads(metadata["layers"])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, CheckpointError):
        return None


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
    calibration_digest = None if calibration is None else calibration.digest
    identity = [*_versions(), method.name, parent_digest, calibration_digest, seed]
    key = digest(identity)[:32]
    if (finished := _document_of(folder, key)) is not None:
        return quantized_file.read_quantized(folder), finished
    plan = _Plan(method, calibration, seed, force, folder / UNFINISHED / key, key)
    with processes(workers) as pool:
        result = _made(model, plan, pool, workers, progress)
    reports = result.reports
    chosen = dict.fromkeys(reports, 0)
    if method.bits is not None:
        chosen = _chosen(reports, method.bits)
    coded: dict[str, Coded] = {}
    for path in result.paths:
        tensors, layers_there = _read_back(path, key)
        for name in layers_there:
            tensor = tensors[_choice(name, chosen[name])]
            assert isinstance(tensor, Coded)
            coded[name] = tensor
    order = [name for name in linear_names(model) if name in coded]
    layers = [{**reports[name][chosen[name]], "candidate": chosen[name]} for name in order]
    weights = sum(math.prod(tensor.shape) for tensor in coded.values())
    stored = sum((bits_of(tensor) for tensor in coded.values()), Bits())
    document = {
        "method": method.name,
        "seed": seed,
        "model": model.name,
        "key": key,
        **asdict(per_weight(stored, weights)),
        "proxy_error": _mean_error(layers),
        "layers": layers,
    }
    others = {
        name: dequantized(tensor) / result.folded[name] if name in result.folded else tensor
        for name, tensor in model.tensors.items()
        if name not in coded
    }
    quantized = replace(
        model,
        name=folder.resolve().name,
        tensors={**others, **coded},
        parent=_remembered(parent, model, parent_digest),
    )
    quantized_file.write_quantized(folder, quantized, document)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return quantized, document


def _versions() -> list[str]:
    """The versions of this package on which a result depends."""
    return [importlib.metadata.version("evolute"), f"revision {revisions.QUANTIZERS}"]


def _remembered(parent: Parent | None, model: LanguageModel, digest: str) -> Parent:
    return replace(parent or Parent(model.name), digest=digest)


def _mean_error(layers: Sequence[dict[str, Any]]) -> float | None:
    """The mean proxy error of layers; None if it was not measured."""
    errors = [layer["proxy_error"] for layer in layers]
    return None if None in errors else float(np.mean(errors))


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


def unfinished_layers(folder: Path) -> int:
    """How many groups of layers (which share an input) an interrupted run has finished in `folder`,
    for the next run to use."""
    return sum(1 for _ in (folder / UNFINISHED).glob("*/*.safetensors"))


def require_training() -> None:
    """Raise `QuantError` if PyTorch, which training tables needs, is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise QuantError("method: training needs PyTorch; pip install evolute[train]")


def write_tables(
    model: LanguageModel,
    name: str,
    choice: Tables,
    parts: Sequence[Sequence[int]],
    folder: Path,
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
    parent: Parent | None = None,
) -> dict[str, Any]:
    """Write `model` to `folder` with tables by centroid for its layers, except the head. Returns
    the document that describes how it was made.

    `parts` are windows of tokens, whose inputs are the samples. Tables are fitted to the first
    windows, up to `SAMPLES` tokens; training draws from all of them. A layer's `proxy_error` is
    that of its outputs over these tokens. Finished layers and training steps of an interrupted run
    are used, and a finished model is returned as it is. `parent` is as in `quantize_model`. Raises
    `QuantError` and `FileError`.
    """
    versions, parent_digest = _versions(), model_digest(model)
    if choice.steps:
        require_training()
        versions.append(importlib.metadata.version("torch"))
    identity = [*versions, name, parent_digest, [list(part) for part in parts], seed]
    key = digest(identity)[:32]
    if (document := _document_of(folder, key)) is not None:
        return document
    part_done = 0.2 if choice.steps else 1.0  # of the whole, before training
    tokens_before = np.cumsum([0, *(len(part) for part in parts[:-1])])
    fitting_parts = [
        part for part, tokens in zip(parts, tokens_before, strict=True) if tokens < SAMPLES
    ]
    inputs = seen_inputs(model, fitting_parts, lambda done: progress(part_done * done / 4))
    unfinished, stages = folder / UNFINISHED / key, {}
    tensors: dict[str, Tensor] = dict(model.tensors)
    shared = layers_by_input(model)
    for done, (first, names) in enumerate(shared.items()):
        path = unfinished / f"{first}.safetensors"
        if _finished(path, key) is None:
            _keep_tables(path, key, tables_of_input(model, choice, names, inputs[first], seed))
        finished, layers_there = _read_back(path, key)
        tensors |= finished
        stages |= {name: layers_there[name][0]["stages"] for name in names}
        progress(part_done * (1 + 3 * (done + 1) / len(shared)) / 4)
    result = replace(model, name=folder.resolve().name, tensors=tensors)
    if choice.steps:
        from evolute.sw.quantizers.lut_boost import boosted  # PyTorch is an extra

        state = unfinished / "training.safetensors"

        def trained(done: float) -> None:
            progress(part_done + (1 - part_done) * done)

        result = boosted(model, result, choice, parts, state, key, seed, trained)
        for first, names in shared.items():
            x = samples_of(inputs[first], choice)
            for layer_name in names:
                tensor = result.tensors[layer_name]
                assert isinstance(tensor, QuantTensor)
                stages[layer_name]["trained"] = output_error(
                    tensor, dequantized(model.tensors[layer_name]), x
                )
    layers, stored, weights = [], Bits(), 0
    for layer_name, errors in stages.items():
        tensor = result.tensors[layer_name]
        assert isinstance(tensor, Coded)
        bits, size = bits_of(tensor), math.prod(tensor.shape)
        weights += size
        stored += bits
        layers.append(
            {
                "name": layer_name,
                "shape": list(tensor.shape),
                "bits": bits.to_dict(),
                "bits_total": bits.total / size,
                "stages": errors,
                "proxy_error": list(errors.values())[-1],
            }
        )
    document = {
        "method": name,
        "seed": seed,
        "model": model.name,
        "key": key,
        **asdict(per_weight(stored, weights)),
        "proxy_error": _mean_error(layers),
        "layers": layers,
    }
    result = replace(result, parent=_remembered(parent, model, parent_digest))
    quantized_file.write_quantized(folder, result, document)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return document


def _keep_tables(path: Path, key: str, tables: Mapping[str, tuple[QuantTensor, float]]) -> None:
    """Save the tables of the layers that share an input, for `_finished`."""
    layers = {name: [{"stages": {"fitted": error}}] for name, (_, error) in tables.items()}
    documents, arrays = quantized_file.stored(
        {name: tensor for name, (tensor, _) in tables.items()}
    )
    metadata = {"key": key, "documents": json.dumps(documents), "layers": json.dumps(layers)}
    quantized_file.write_arrays(path, arrays, metadata)


def _document_of(folder: Path, key: str) -> dict[str, Any] | None:
    """The document of the finished model in `folder`; None if there is none or it belongs to
    another run."""
    if not (folder / quantized_file.DOCUMENT).is_file():
        return None
    document = quantized_file.read_document(folder).get("quantization")
    return document if isinstance(document, dict) and document.get("key") == key else None


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
        folding_last = tuple(shared for shared in inputs if folds_into_rows(config, shared[0]))
        rounds = [folding_last, tuple(shared for shared in inputs if shared not in folding_last)]
    result = _Made({}, [], {})
    for layer_round in rounds:
        for task, (tensors, layers) in _run(
            _tasks(model, layer_round, result.folded, plan), pool, workers
        ):
            result.reports.update(layers)
            result.paths.append(task.path)
            scale = tensors.get(_SCALE)
            if task.ties is not None and isinstance(scale, np.ndarray):
                first = LayerName.parse(task.first)
                target, divisor = folds_into(config, first.role), _per_output(scale, task.ties)
                folded = f"{first.block}.{target}"
                result.folded[folded] = result.folded[f"{folded}_bias"] = divisor
            progress(len(result.paths) / (config.layers * len(inputs)))
    return result


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
            Candidate(
                option["bits"]["total"], size * math.log(max(option["proxy_error"], _LEAST_ERROR))
            )
            for option in layer
        ]
        for layer, size in zip(reports.values(), sizes, strict=True)
    ]
    return dict(zip(reports, cheapest(layers, bits * sum(sizes)), strict=True))


_Finished: TypeAlias = tuple[dict[str, Tensor], dict[str, list[dict[str, Any]]]]
"""Tensors of layers by candidate, and what is reported of each."""


def _run(
    tasks: Iterator[_Task], pool: concurrent.futures.Executor, workers: int
) -> Iterator[tuple[_Task, _Finished]]:
    """The result of each task, in order. Tasks that were finished before are not run again."""
    # Of a large model only so many layers are held in float32 at once.
    pending: collections.deque[tuple[_Task, concurrent.futures.Future[None] | None]] = (
        collections.deque()
    )
    while True:
        for task in itertools.islice(tasks, 2 * workers - len(pending)):
            is_finished = _finished(task.path, task.plan.key) is not None
            pending.append((task, None if is_finished else pool.submit(_work, task)))
        if not pending:
            return
        task, future = pending.popleft()
        if future is not None:
            future.result()
        yield task, _read_back(task.path, task.plan.key)


def _read_back(path: Path, key: str) -> _Finished:
    finished = _finished(path, key)
    if finished is None:
        raise FileError(f"{path}: cannot be read back")
    return finished


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
    target = folds_into(config, role)
    if target is None:
        return None
    if target == "v":
        return tied_columns(config.heads, config.kv_heads, config.head_dim)
    return np.arange(config.layer_linears()[role][1])
