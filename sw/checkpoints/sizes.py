"""Models without weights, which are known by their sizes alone."""

from __future__ import annotations

from pathlib import Path

from evolute.sim.workload.shape import ModelShape, NetworkShape
from evolute.sim.workload.zoo import ENTRIES, read_shape, zoo_entry
from evolute.support.errors import RefusedError
from evolute.sw.checkpoints.hugging_face import CONFIG, read_config
from evolute.sw.checkpoints.safetensors_file import holds_weights
from evolute.sw.checkpoints.zoo import KNOWN
from evolute.sw.language_model.shape import shape_of


def without_weights(name: str | None) -> ModelShape | None:
    """The shape of a model that is known by its sizes alone; None for a model with weights.

    Such a model is an entry of the zoo, a folder with a config.json but no weights, or a JSON file
    of sizes (`sim.workload.zoo.read_shape`). Raises `RefusedError` if a file breaks a rule, and for
    encoders and convolutional networks, which do not decode tokens.
    """
    if name is None or name in KNOWN:
        return None
    path = Path(name)
    if path.name == CONFIG and path.is_file():
        path = path.parent  # one file of a folder means that folder
    if name in ENTRIES and not path.exists():
        shape = zoo_entry(name).shape
    elif path.is_file() and path.suffix == ".json":
        shape = read_shape(path).shape
    elif (path / CONFIG).is_file() and not holds_weights(path):
        stated = read_config(path)
        return shape_of(path.resolve().name, stated.kind, stated.config, tied=stated.tied)
    else:
        return None
    if isinstance(shape, NetworkShape):
        raise RefusedError(f"model: {name} is a network of convolutions, which decodes no tokens")
    if not shape.has_head:
        raise RefusedError(f"model: {name} is an encoder, which decodes no tokens")
    return shape
