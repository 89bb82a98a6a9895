"""What a quantization leaves in its output folder: finished layers until all are, then the model.

Finished layers lie in files under a key, the digest of all that they depend on: versions, model,
method, calibration and seed. A run with the same key takes them from there, or the whole model if
it is finished.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors

from evolute.support.files import FileError
from evolute.support.identity import digest
from evolute.sw import revisions
from evolute.sw.checkpoints import quantized_file
from evolute.sw.language_model.model import LanguageModel, Parent
from evolute.sw.tensors.bits import Bits, bits_of, per_weight
from evolute.sw.tensors.stored import CheckpointError, Tensor
from evolute.sw.tensors.tensor import Coded

UNFINISHED = ".unfinished"
"""Folder of finished layers of an unfinished model."""

Finished: TypeAlias = tuple[dict[str, Tensor], dict[str, list[dict[str, Any]]]]
"""Tensors of layers by candidate, and by layer what is reported of each candidate."""


def key_of(*identity: Any) -> str:
    """The key of what depends on `identity`, and on the version of the quantizers."""
    versions = [importlib.metadata.version("evolute"), f"revision {revisions.QUANTIZERS}"]
    return digest([*versions, *identity])[:32]


def keep_layers(
    path: Path,
    key: str,
    tensors: Mapping[str, Tensor],
    reports: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Leave layers at `path`, where `finished_layers` finds them. Raises `FileError`."""
    documents, arrays = quantized_file.stored(tensors)
    metadata = {"key": key, "documents": json.dumps(documents), "layers": json.dumps(reports)}
    quantized_file.write_arrays(path, arrays, metadata)


def finished_layers(path: Path, key: str) -> Finished | None:
    """What `keep_layers` left at `path`; None if it is not there, not whole, or of another key."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
        if metadata["key"] != key:
            return None
        tensors = dict(quantized_file.read_stored(path, json.loads(metadata["documents"])))
        return tensors, json.loads(metadata["layers"])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, CheckpointError):
        return None


def read_back(path: Path, key: str) -> Finished:
    """What `keep_layers` just left at `path`. Raises `FileError` where it is not there."""
    finished = finished_layers(path, key)
    if finished is None:
        raise FileError(f"{path}: cannot be read back")
    return finished


def unfinished_layers(folder: Path) -> int:
    """How many groups of layers (which share an input) an interrupted run has finished in `folder`,
    for the next run to use."""
    return sum(1 for _ in (folder / UNFINISHED).glob("*/*.safetensors"))


def finished_document(folder: Path, key: str) -> dict[str, Any] | None:
    """The document of the finished model in `folder`; None if there is none or it belongs to
    another run."""
    if not (folder / quantized_file.DOCUMENT).is_file():
        return None
    document = quantized_file.read_document(folder).get("quantization")
    return document if isinstance(document, dict) and document.get("key") == key else None


def layer_report(name: str, tensor: Coded, stages: Mapping[str, float]) -> dict[str, Any]:
    """What is reported of one layer; `stages` has the error after each stage, in order."""
    bits = bits_of(tensor)
    return {
        "name": name,
        "shape": list(tensor.shape),
        "bits": bits.to_dict(),
        "bits_total": bits.total / math.prod(tensor.shape),
        "stages": stages,
        "proxy_error": list(stages.values())[-1] if stages else None,
    }


def model_document(
    method: str,
    seed: int,
    model: LanguageModel,
    key: str,
    coded: Mapping[str, Coded],
    layers: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What a folder says of how its model came about from `model`; `coded` are its layers in codes,
    and `layers` what is reported of them."""
    stored = sum((bits_of(tensor) for tensor in coded.values()), Bits())
    weights = sum(math.prod(tensor.shape) for tensor in coded.values())
    errors = [layer["proxy_error"] for layer in layers]
    return {
        "method": method,
        "seed": seed,
        "model": model.name,
        "key": key,
        **asdict(per_weight(stored, weights)),
        "proxy_error": None if None in errors else float(np.mean(errors)),
        "layers": layers,
    }


def write_finished(
    folder: Path,
    model: LanguageModel,
    tensors: Mapping[str, Tensor],
    parent: Parent,
    document: dict[str, Any],
) -> LanguageModel:
    """Write `model` with other `tensors` to `folder`, in the place of its finished layers; it is
    called what the folder is called. Returns it. Raises `FileError`."""
    made = replace(model, name=folder.resolve().name, tensors=dict(tensors), parent=parent)
    quantized_file.write_quantized(folder, made, document)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return made
