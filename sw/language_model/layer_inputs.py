"""What a linear layer of a model takes when the model reads a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.linear import host_linear
from evolute.sw.language_model.model import LanguageModel


def layer_inputs(model: LanguageModel, name: str, tokens: Sequence[int]) -> NDArray[np.float32]:
    """The inputs of the layer `name`, float32 [tokens, K], when the model as shipped reads
    `tokens`."""

    class Reached(Exception):
        """Ends the forward pass where the layer begins."""

    def linear(names: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        if name in names:
            raise Reached(x)
        return [host_linear(model, name)(x) for name in names]

    try:
        head(model, linear, forward(model, linear, tokens, Cache(model.config, len(tokens))))
    except Reached as reached:
        return reached.args[0]
    raise AssertionError(f"no forward pass uses {name}")
