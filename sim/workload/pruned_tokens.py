"""Schedules that drop tokens of a prompt from some layer on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from evolute.hw.spec.base import require
from evolute.sim.workload.shape import KeptTokens, ModelShape
from evolute.sim.workload.sparsity import require_share


@dataclass(frozen=True)
class TokenSchedule:
    """From which layer on which share of a prompt's tokens is gone, counted of all its tokens.

    Layers are numbered from 0. Every step has a later layer and a greater share than that before
    it: a token that is gone does not come back.
    """

    steps: tuple[tuple[float, int], ...]
    """Shares and layers."""

    def __post_init__(self) -> None:
        for share, layer in self.steps:
            require_share(share)
            require(layer >= 1, "layer", "at least 1: the first layer sees all tokens", layer)
        for (share, layer), (greater, later) in itertools.pairwise(self.steps):
            require(later > layer, "layer", f"later than {layer}", later)
            require(greater > share, "share", f"above {share:g}, that of layer {layer}", greater)

    @property
    def name(self) -> str:
        return "tokens:" + "/".join(f"{share:g}@{layer}" for share, layer in self.steps)

    def of(self, shape: ModelShape, prompt: int | None) -> ModelShape:
        """The model whose blocks see fewer tokens: of `prompt` tokens the share that is left, and
        all later ones; or where that is None, of all that are in the cache. Raises `SpecError` for
        a layer that the model does not have."""
        last = self.steps[-1][1]
        require(last < shape.layers, "layer", f"in 1..{shape.layers - 1}", last)
        blocks = list(shape.blocks)
        for share, layer in self.steps:
            kept = KeptTokens(share=share, prompt=prompt)
            for place in range(layer, shape.layers):
                blocks[place] = replace(blocks[place], tokens=kept)
        return replace(shape, blocks=tuple(blocks))
