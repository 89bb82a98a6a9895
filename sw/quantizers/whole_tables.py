"""A whole model with tables by centroid in the place of its linear layers, written to a folder."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolute.sw.language_model.model import LanguageModel, Parent, dequantized, model_digest
from evolute.sw.quantizers.finished import (
    UNFINISHED,
    finished_document,
    finished_layers,
    keep_layers,
    key_of,
    layer_report,
    model_document,
    read_back,
    write_finished,
)
from evolute.sw.quantizers.lut_dla import (
    SAMPLES,
    Tables,
    layers_by_input,
    output_error,
    samples_of,
    seen_inputs,
    tables_of_input,
)
from evolute.sw.tensors.stored import Tensor
from evolute.sw.tensors.tensor import Coded, QuantError, QuantTensor

_FITTED_SHARE = 0.2
"""Of the whole time, what is over when tables are fitted, where they are trained after that."""


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
    parent_digest, torch_versions = model_digest(model), []
    if choice.steps:
        require_training()
        torch_versions.append(importlib.metadata.version("torch"))
    windows = [list(part) for part in parts]
    key = key_of(*torch_versions, name, parent_digest, windows, seed)
    if (document := finished_document(folder, key)) is not None:
        return document
    unfinished = folder / UNFINISHED / key
    share = _FITTED_SHARE if choice.steps else 1.0

    def fitted_in_part(done: float) -> None:
        progress(share * done)

    def trained_in_part(done: float) -> None:
        progress(share + (1 - share) * done)

    inputs, fitted = _fitted(model, choice, parts, unfinished, key, seed, fitted_in_part)
    tensors, stages = {**model.tensors, **fitted.tensors}, fitted.stages
    if choice.steps:
        from evolute.sw.quantizers.lut_boost import boosted  # PyTorch is an extra

        start = replace(model, name=folder.resolve().name, tensors=tensors)
        state = unfinished / "training.safetensors"
        trained = boosted(model, start, choice, parts, state, key, seed, trained_in_part)
        tensors = trained.tensors
        for layer, error in _errors(model, trained, choice, inputs).items():
            stages[layer]["trained"] = error
    coded = {}
    for layer in stages:
        tensor = tensors[layer]
        assert isinstance(tensor, Coded)
        coded[layer] = tensor
    reports = [layer_report(layer, coded[layer], errors) for layer, errors in stages.items()]
    document = model_document(name, seed, model, key, coded, reports)
    remembered = replace(parent or Parent(model.name), digest=parent_digest)
    write_finished(folder, model, tensors, remembered, document)
    return document


class _Fitted(NamedTuple):
    """Tables by layer, and their errors by layer and stage."""

    tensors: dict[str, Tensor]
    stages: dict[str, dict[str, float]]


def _fitted(
    model: LanguageModel,
    choice: Tables,
    parts: Sequence[Sequence[int]],
    unfinished: Path,
    key: str,
    seed: int,
    progress: Callable[[float], None],
) -> tuple[dict[str, NDArray[np.float32]], _Fitted]:
    """The inputs of layers over the first windows, and tables fitted to them; those that lie in the
    folder `unfinished` are taken from there."""
    before = np.cumsum([0, *(len(part) for part in parts[:-1])])
    seen = [part for part, tokens in zip(parts, before, strict=True) if tokens < SAMPLES]
    inputs = seen_inputs(model, seen, lambda done: progress(done / 4))
    fitted, shared = _Fitted({}, {}), layers_by_input(model)
    for done, (first, names) in enumerate(shared.items()):
        path = unfinished / f"{first}.safetensors"
        if finished_layers(path, key) is None:
            _keep_tables(path, key, tables_of_input(model, choice, names, inputs[first], seed))
        tensors, reports = read_back(path, key)
        fitted.tensors.update(tensors)
        fitted.stages.update({name: reports[name][0]["stages"] for name in names})
        progress((1 + 3 * (done + 1) / len(shared)) / 4)
    return inputs, fitted


def _keep_tables(path: Path, key: str, made: Mapping[str, tuple[QuantTensor, float]]) -> None:
    reports = {name: [{"stages": {"fitted": error}}] for name, (_, error) in made.items()}
    keep_layers(path, key, {name: tensor for name, (tensor, _) in made.items()}, reports)


def _errors(
    model: LanguageModel,
    trained: LanguageModel,
    choice: Tables,
    inputs: Mapping[str, NDArray[np.float32]],
) -> dict[str, float]:
    """By layer the `output_error` of the tables of `trained`."""
    errors = {}
    for first, names in layers_by_input(model).items():
        x = samples_of(inputs[first], choice)
        for name in names:
            tensor = trained.tensors[name]
            assert isinstance(tensor, QuantTensor)
            errors[name] = output_error(tensor, dequantized(model.tensors[name]), x)
    return errors
