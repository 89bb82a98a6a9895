"""Models that are known by their sizes alone."""

from __future__ import annotations

from pathlib import Path

from evolute.sim.workload.shape import ModelShape, NetworkShape
from evolute.sim.workload.zoo import ENTRIES, read_shape, zoo_entry
from evolute.support.errors import RefusedError
from evolute.sw.checkpoints.hugging_face import CONFIG, read_config, read_stretched
from evolute.sw.checkpoints.safetensors_file import holds_weights
from evolute.sw.checkpoints.zoo import KNOWN
from evolute.sw.language_model.model import ModelConfig
from evolute.sw.language_model.shape import shape_of


def without_weights(name: str | None) -> ModelShape | None:
    """The shape of a model that is known by its sizes alone; None for one that has weights.

    Such a model is an entry of the zoo, a folder with a config.json and no weights, or a JSON file
    of sizes (`sim.workload.zoo.read_shape`). Raises `RefusedError` where a file breaks a rule, and
    for encoders and networks of convolutions, which decode no tokens.
    """
    shape = _shape(name)
    if isinstance(shape, NetworkShape):
        raise RefusedError(f"model: {name} is a network of convolutions, which decodes no tokens")
    if shape is not None and not shape.has_head:
        raise RefusedError(f"model: {name} is an encoder, which decodes no tokens")
    return shape


def without_tokens(name: str | None) -> ModelShape | NetworkShape | None:
    """The shape of an encoder or of a network of convolutions, which do all in one pass; None for
    models that decode tokens. Raises `RefusedError` where a file breaks a rule."""
    shape = _shape(name)
    return None if isinstance(shape, ModelShape) and shape.has_head else shape


def _shape(name: str | None) -> ModelShape | NetworkShape | None:
    """The shape of whatever is known by its sizes alone."""
    if name is None or name in KNOWN:
        return None
    path = Path(name)
    if path.name == CONFIG and path.is_file():
        path = path.parent  # one file of a folder means that folder
    if name in ENTRIES and not path.exists():
        return zoo_entry(name).shape
    if path.is_file() and path.suffix == ".json":
        return read_shape(path).shape
    if (path / CONFIG).is_file() and not holds_weights(path):
        stated = read_config(path)
        return shape_of(path.resolve().name, stated.kind, stated.config, tied=stated.tied)
    return None


def beyond_context(name: str | None) -> ModelConfig | None:
    """The configuration of a model beyond the context that it was first trained with, where it is
    in a folder whose config.json states long factors; of other files nothing is known. Raises
    `CheckpointError`."""
    path = Path(name or "")
    if path.name == CONFIG:
        path = path.parent
    return read_stretched(path) if name and (path / CONFIG).is_file() else None
