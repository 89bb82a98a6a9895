"""Quantizing a whole model: layers in worker processes, each kept as soon as it is done.

Finished layers lie in the output folder until all are, under a digest of all that they depend on:
model, method, calibration and seed. A second run with the same digest takes them from there.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from hw.files import FileError
from sw import quantized_file
from sw.model import LanguageModel, dequantized
from sw.quantizers.hessian import Calibration, model_digest
from sw.quantizers.methods import Method, quantize_layer
from sw.stored import CheckpointError, Tensor
from sw.tensor import Coded, parted

UNFINISHED = ".unfinished"
"""Folder of finished layers of an unfinished model."""


@dataclass(frozen=True)
class Bits:
    """What a layer stores, in bits."""

    codes: int
    """Codes, or indices of codewords."""
    padding: int
    """Of indices, what belongs to outputs that are not there."""
    codebooks: int
    groups: int
    """Scales, minima or zero points, and special values."""
    columns: int
    """Orders, scales and biases of columns."""

    @property
    def total(self) -> int:
        return self.codes + self.padding + self.codebooks + self.groups + self.columns

    def to_dict(self) -> dict[str, int]:
        return {**vars(self), "total": self.total}


def bits_of(tensor: Coded) -> Bits:
    """What `tensor` stores."""
    whole = parted(tensor)
    codes = padding = codebooks = groups = 0
    for part in whole.parts:
        groups += part.scale.size * part.group_bits
        if part.vectors is None:
            codes += part.index_bits
            continue
        books = sum(book.size for _, book in part.vectors.books)
        books *= part.format.bits - (part.vectors.residual is not None)
        per_column = (part.index_bits - books) // part.shape[1]
        codebooks += books
        if part.vectors.along == "outputs":
            rows = len(part.vectors.index)
            spare = rows * part.vectors.v - part.shape[0]
            padding += per_column * part.shape[1] * spare // (rows * part.vectors.v)
        codes += part.index_bits - books
    return Bits(codes - padding, padding, codebooks, groups, whole.shape[1] * whole.column_bits)


@dataclass(frozen=True, eq=False)
class _Task:
    """Layers that share an input, and where they go when they are done."""

    weights: Mapping[str, NDArray[np.float32]]
    calibration: Calibration
    method: Method
    seed: int
    force: bool
    path: Path
    key: str


def _work(task: _Task) -> None:
    moments = task.calibration[next(iter(task.weights))]
    tensors: dict[str, Tensor] = {}
    layers = {}
    for name, w in task.weights.items():
        # A layer's numbers do not depend on which others are quantized, or when.
        rng = np.random.default_rng([task.seed, zlib.crc32(name.encode())])
        quantizer = task.method.quantizer
        tensors[name], layers[name] = quantize_layer(quantizer, w, moments, rng, task.force)
    documents, arrays = quantized_file.stored(tensors)
    metadata = {"key": task.key, "documents": json.dumps(documents), "layers": json.dumps(layers)}
    quantized_file.write_arrays(task.path, arrays, metadata)


def _finished(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
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


def _become_worker() -> None:
    """Leave interrupts to the parent, and end through every `finally` when it says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Processes whose matrix products have one thread each: their results do not depend on how
    many cores there are, and together they use as many as there are of them."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_become_worker)
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def quantize_model(
    model: LanguageModel,
    method: Method,
    calibration: Calibration,
    folder: Path,
    seed: int = 0,
    workers: int = 1,
    force: bool = False,
    progress: Callable[[float], None] = lambda done: None,
) -> tuple[LanguageModel, dict[str, Any]]:
    """Quantize the linear layers of `model`, all but the head, and write it to `folder`.

    Returns the quantized model, and what its document says of how it came about. `force` allows
    codebooks that are larger than what they encode. Raises `QuantError` and `FileError`.
    """
    identity = [method.name, model_digest(model), calibration.digest, seed, quantized_file.VERSION]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    unfinished = folder / UNFINISHED / key
    tasks = _tasks(model, method, calibration, seed, force, unfinished, key)
    steps = model.config.layers * len(model.config.shared_inputs)
    found: dict[str, Coded] = {}
    layers = []
    for done, (tensors_there, stages) in enumerate(_run(tasks, workers), 1):
        for name, tensor in tensors_there.items():
            assert isinstance(tensor, Coded)
            found[name] = tensor
            layers.append(_layer(name, tensor, stages[name]))
        progress(done / steps)
    tensors = dict(model.tensors) | found
    weights = sum(math.prod(tensor.shape) for tensor in found.values())
    document = {
        "method": method.name,
        "seed": seed,
        "model": model.name,
        "key": key,
        "bits_index": sum(tensor.index_bits for tensor in found.values()) / weights,
        "bits_total": sum(tensor.total_bits for tensor in found.values()) / weights,
        "proxy_error": float(np.mean([each["proxy_error"] for each in layers])),
        "layers": layers,
    }
    quantized = replace(model, name=folder.resolve().name, tensors=tensors)
    quantized_file.write_quantized(folder, quantized, document)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return quantized, document


def _layer(name: str, tensor: Coded, stages: Mapping[str, float]) -> dict[str, Any]:
    bits = bits_of(tensor)
    return {
        "name": name,
        "shape": list(tensor.shape),
        "bits": bits.to_dict(),
        "bits_total": bits.total / math.prod(tensor.shape),
        "stages": dict(stages),
        "proxy_error": list(stages.values())[-1],
    }


def _run(
    tasks: Iterator[_Task], workers: int
) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """What comes of each task, in order; those that were finished before are not run again."""
    # Of a large model only so many layers are held in float32 at once.
    pending: collections.deque[tuple[_Task, concurrent.futures.Future[None] | None]] = (
        collections.deque()
    )
    with _pool(workers) as pool:
        while True:
            for task in itertools.islice(tasks, 2 * workers - len(pending)):
                known = _finished(task.path, task.key) is not None
                pending.append((task, None if known else pool.submit(_work, task)))
            if not pending:
                return
            task, future = pending.popleft()
            try:
                if future is not None:
                    future.result()
            except BrokenProcessPool:
                rule = "a worker process died; is there memory for so many --workers?"
                raise FileError(rule) from None
            done = _finished(task.path, task.key)
            if done is None:
                raise FileError(f"{task.path}: cannot be read back")
            yield done


def _tasks(
    model: LanguageModel,
    method: Method,
    calibration: Calibration,
    seed: int,
    force: bool,
    unfinished: Path,
    key: str,
) -> Iterator[_Task]:
    roles = model.config.layer_linears()
    for layer in range(model.config.layers):
        for shared in model.config.shared_inputs:
            names = [f"{layer}.{role}" for role in shared if role in roles]
            weights = {name: dequantized(model.tensors[name]) for name in names}
            path = unfinished / f"{names[0]}.safetensors"
            yield _Task(weights, calibration, method, seed, force, path, key)
