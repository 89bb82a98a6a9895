"""Quantizing a whole model: layers in worker processes, each kept as soon as it is done.

Finished layers lie in the output folder until all are, under a digest of all that they depend on:
model, method, calibration and seed. A second run with the same digest takes them from there, or
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
from concurrent.futures.process import BrokenProcessPool
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
from evolute.sw.quantizers.vptq.choice import require_useful, stored_bits
from evolute.sw.tensors.bits import Bits, bits_of, per_weight
from evolute.sw.tensors.stored import CheckpointError, Tensor
from evolute.sw.tensors.tensor import Coded, QuantError, QuantTensor

UNFINISHED = ".unfinished"
"""Folder of finished layers of an unfinished model."""


@dataclass(frozen=True)
class _Plan:
    """What all layers of a model have in common."""

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
    """Layers that share an input."""

    plan: _Plan
    weights: Mapping[str, NDArray[np.float32]]
    ties: NDArray[np.int64] | None
    """Which inputs must be scaled alike; None where they are not scaled."""

    @property
    def first(self) -> str:
        """The layer that the input is named after."""
        return next(iter(self.weights))

    @property
    def path(self) -> Path:
        """Where the layers go when they are done."""
        return self.plan.folder / f"{self.first}.safetensors"


def _choice(name: str, number: int) -> str:
    """What one candidate's tensor is called in a file of finished layers."""
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
    """What `_work` left at `path`; None if it is not there or not whole."""
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
    """Quantize the linear layers of `model`, all but the head, and write it to `folder`.

    A method that `calibrates` needs a calibration; of another it adds the proxy errors. `parent` is
    where `model` is to be found, which the folder remembers with its digest. Returns the quantized
    model, and what its document says of how it came about. `force` allows codebooks that are larger
    than what they encode. Raises `QuantError` and `FileError`.
    """
    parent_digest = model_digest(model)
    seen = None if calibration is None else calibration.digest
    identity = [*_versions(), method.name, parent_digest, seen, seed]
    key = digest(identity)[:32]
    if (finished := _document_of(folder, key)) is not None:
        return quantized_file.read_quantized(folder), finished
    plan = _Plan(method, calibration, seed, force, folder / UNFINISHED / key, key)
    with processes(workers) as pool:
        made = _made(model, plan, pool, workers, progress)
    reports = made.reports
    chosen = dict.fromkeys(reports, 0)
    if method.bits is not None:
        chosen = _chosen(reports, method.bits)
    coded: dict[str, Coded] = {}
    for path in made.paths:
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
        name: dequantized(tensor) / made.folded[name] if name in made.folded else tensor
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
    """What of this package a result depends on."""
    return [importlib.metadata.version("evolute"), f"revision {revisions.QUANTIZERS}"]


def _remembered(parent: Parent | None, model: LanguageModel, digest: str) -> Parent:
    return replace(parent or Parent(model.name), digest=digest)


def _mean_error(layers: Sequence[dict[str, Any]]) -> float | None:
    """The mean proxy error; None where it was not asked for."""
    errors = [layer["proxy_error"] for layer in layers]
    return None if None in errors else float(np.mean(errors))


def require_fits(model: LanguageModel, method: Method, force: bool = False) -> None:
    """Raise `QuantError` where the sizes of `model` alone say that `method` cannot do it.

    That is for before the model is calibrated, which takes minutes. `force` is as in
    `quantize_model`, which refuses the same.
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
    """How many groups of layers, those that share an input, an interrupted run finished in `folder`
    for the next one to take."""
    return sum(1 for _ in (folder / UNFINISHED).glob("*/*.safetensors"))


def require_training() -> None:
    """Raise `QuantError` where tables cannot be trained because PyTorch is missing."""
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
    """Write `model` to `folder` with tables by centroid for its layers, all but the head, made from
    what windows of tokens have for inputs. Returns what its document says of how it came about.

    Tables are fitted to the first windows, up to `SAMPLES` tokens; training draws from all.
    Finished layers, and steps of training, are taken from an interrupted run, and a finished model
    as it is; `parent` is as in `quantize_model`. A layer's `proxy_error` is that of its outputs
    over these tokens. Raises `QuantError` and `FileError`.
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
    before = np.cumsum([0, *(len(part) for part in parts[:-1])])
    seen = [part for part, tokens in zip(parts, before, strict=True) if tokens < SAMPLES]
    inputs = seen_inputs(model, seen, lambda done: progress(part_done * done / 4))
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
    made = replace(model, name=folder.resolve().name, tensors=tensors)
    if choice.steps:
        from evolute.sw.quantizers.lut_boost import boosted  # PyTorch is an extra

        state = unfinished / "training.safetensors"

        def trained(done: float) -> None:
            progress(part_done + (1 - part_done) * done)

        made = boosted(model, made, choice, parts, state, key, seed, trained)
        for first, names in shared.items():
            x = samples_of(inputs[first], choice)
            for layer_name in names:
                tensor = made.tensors[layer_name]
                assert isinstance(tensor, QuantTensor)
                stages[layer_name]["trained"] = output_error(
                    tensor, dequantized(model.tensors[layer_name]), x
                )
    layers, stored, weights = [], Bits(), 0
    for layer_name, errors in stages.items():
        tensor = made.tensors[layer_name]
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
    made = replace(made, parent=_remembered(parent, model, parent_digest))
    quantized_file.write_quantized(folder, made, document)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return document


def _keep_tables(path: Path, key: str, made: Mapping[str, tuple[QuantTensor, float]]) -> None:
    """Leave the tables of layers that share an input where `_finished` finds them."""
    layers = {name: [{"stages": {"fitted": error}}] for name, (_, error) in made.items()}
    documents, arrays = quantized_file.stored({name: tensor for name, (tensor, _) in made.items()})
    metadata = {"key": key, "documents": json.dumps(documents), "layers": json.dumps(layers)}
    quantized_file.write_arrays(path, arrays, metadata)


def _document_of(folder: Path, key: str) -> dict[str, Any] | None:
    """How the finished model in `folder` came about; None if it is not there or another."""
    if not (folder / quantized_file.DOCUMENT).is_file():
        return None
    document = quantized_file.read_document(folder).get("quantization")
    return document if isinstance(document, dict) and document.get("key") == key else None


class _Made(NamedTuple):
    """What came of a model's layers."""

    reports: dict[str, list[dict[str, Any]]]
    """By layer, of every candidate."""
    paths: list[Path]
    folded: dict[str, NDArray[np.float32]]
    """By what elements of other tensors must be divided."""


def _made(
    model: LanguageModel,
    plan: _Plan,
    pool: concurrent.futures.Executor,
    workers: int,
    progress: Callable[[float], None],
) -> _Made:
    """Quantize all layers, as far as they are not there."""
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
    """Of scales of inputs, those of what makes them."""
    factors = np.ones(int(ties.max()) + 1, np.float32)
    factors[ties] = scale
    return factors


_LEAST_ERROR = 1e-12
"""Below which a layer counts as exact."""


def _chosen(reports: Mapping[str, list[dict[str, Any]]], bits: float) -> dict[str, int]:
    """The candidate that each layer gets, of `bits` bits per weight on average.

    Lost is the logarithm of the proxy error times the layer's weights. How much one layer's error
    matters to the model compared with another's is not in their Hessians; as a factor it adds the
    same to all logarithms of a layer, so the choice does not depend on it.
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
    """What comes of each task, in order; those that were finished before are not run again."""
    # Of a large model only so many layers are held in float32 at once.
    pending: collections.deque[tuple[_Task, concurrent.futures.Future[None] | None]] = (
        collections.deque()
    )
    while True:
        for task in itertools.islice(tasks, 2 * workers - len(pending)):
            known = _finished(task.path, task.plan.key) is not None
            pending.append((task, None if known else pool.submit(_work, task)))
        if not pending:
            return
        task, future = pending.popleft()
        try:
            if future is not None:
                future.result()
        except BrokenProcessPool:
            rule = "too little memory for that many workers, or a Python script that calls this"
            rule = f"a worker process died: {rule} outside `if __name__ == '__main__':`"
            raise FileError(rule) from None
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
    """Of every block the layers of these inputs; rows are divided by what is `folded` by then."""
    for layer in range(model.config.layers):
        for shared in inputs:
            weights = {}
            for name in (f"{layer}.{role}" for role in shared):
                w = dequantized(model.tensors[name])
                weights[name] = w / folded[name][:, None] if name in folded else w
            ties = _ties(model, f"{layer}.{shared[0]}") if plan.method.scaling else None
            yield _Task(plan, weights, ties)


def _ties(model: LanguageModel, name: str) -> NDArray[np.int64] | None:
    """For each input of the layer `name` the output, or the norm's element, that makes it; None if
    nothing does that it could fold into."""
    config, role = model.config, LayerName.parse(name).role
    into = folds_into(config, role)
    if into is None:
        return None
    if into == "v":
        return tied_columns(config.heads, config.kv_heads, config.head_dim)
    return np.arange(config.layer_linears()[role][1])
