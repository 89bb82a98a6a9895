"""Shapes of models that are pruned in whole heads, widths and layers, as Minitron's are (arXiv
2407.14679)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evolute.hw.spec.base import SpecError, require
from evolute.sim.workload.shape import Attention, Block, ModelShape
from evolute.sim.workload.sparsity import dropped, require_share


@dataclass(frozen=True)
class SizeCut:
    """How much of a size is taken away: a share, or all but `kept`."""

    share: float = 0.0
    kept: int | None = None

    def __post_init__(self) -> None:
        require_share(self.share)
        if self.kept is not None:
            require(self.kept >= 1, "kept", "at least 1", self.kept)

    def of(self, what: str, size: int) -> int:
        """What is left of `size`. Raises `SpecError` where more is to be kept than there is."""
        if self.kept is None:
            return size - dropped(self.share, size)
        require(self.kept <= size, what, f"at most the {size} of the model", self.kept)
        return self.kept

    def __str__(self) -> str:
        return f"{self.share:g}" if self.kept is None else str(self.kept)


@dataclass(frozen=True)
class ShapePruning:
    """What is taken away of each size; None for nothing."""

    heads: SizeCut | None = None
    """Heads of attention; of keys and values only where every head has its own."""
    ffn: SizeCut | None = None
    """Width of the feed-forward half, of every expert."""
    hidden: SizeCut | None = None
    """Numbers of the vector between layers."""
    layers: SizeCut | None = None
    """Blocks; those that stay are spread evenly over the model, the first among them."""

    @property
    def name(self) -> str:
        return ",".join(f"{name}:{cut}" for name, cut in vars(self).items() if cut is not None)


@dataclass(frozen=True)
class PrunedShape:
    """A pruned model, and of what it consisted before."""

    shape: ModelShape
    pattern: str
    params: int
    dense_params: int
    sizes: dict[str, tuple[int, int]]
    """Before and after, of the first block that has any."""


def pruned_shape(shape: ModelShape, pruning: ShapePruning, factors: Sequence[int]) -> PrunedShape:
    """The shape with less of everything that `pruning` names.

    A size that one of `factors` divides, such as the inputs of a scale group or the outputs of a
    column tile, must still be divided by it, so that pruning leaves no padding that was not there.
    Raises `SpecError` for sizes that are not, and where the model has nothing of what is asked.
    """
    sizes: dict[str, tuple[int, int]] = {}

    def cut(name: str, size: int, unit: int = 1) -> int:
        """What is left of `size`, of which one has `unit` inputs or outputs of a layer."""
        amount = getattr(pruning, name)
        if amount is None:
            return size
        left = amount.of(name, size)
        step = math.lcm(*(one // math.gcd(one, unit) for one in factors if size * unit % one == 0))
        _require_multiple(name, left, step, size)
        sizes.setdefault(name, (size, left))
        return left

    def attention(mixer: Attention) -> Attention:
        heads, own = cut("heads", mixer.heads, mixer.value_dim), mixer.heads
        keys = heads if mixer.key_heads == own else mixer.key_heads
        values = heads if mixer.value_heads == own else mixer.value_heads
        _require_multiple("heads", heads, math.lcm(keys, values), own)
        return replace(mixer, heads=heads, key_heads=keys, value_heads=values)

    def block(one: Block) -> Block:
        mixer, half = one.mixer, one.feed_forward
        if isinstance(mixer, Attention):
            mixer = attention(mixer)
        if half is not None:
            half = replace(half, width=cut("ffn", half.width))
        return replace(one, mixer=mixer, feed_forward=half)

    count = shape.layers
    if pruning.layers is not None:
        count = pruning.layers.of("layers", count)
        require(count >= 1, "layers", "at least 1 after pruning", count)
        sizes["layers"] = shape.layers, count
    known: dict[Block, Block] = {}
    for one in shape.blocks:
        if one not in known:
            known[one] = block(one)
    places = [shape.layers * number // count for number in range(count)]
    found = replace(
        shape,
        hidden=cut("hidden", shape.hidden),
        blocks=tuple(known[shape.blocks[place]] for place in places),
    )
    for name, what in (("heads", "attention"), ("ffn", "feed-forward halves")):
        if getattr(pruning, name) is not None and name not in sizes:
            raise SpecError(name, f"of a model that has {what}", shape.name)
    return PrunedShape(found, pruning.name, found.params, shape.params, sizes)


def _require_multiple(name: str, left: int, step: int, size: int) -> None:
    """Raise `SpecError` with the nearest sizes that are possible."""
    below = left // step * step
    near = [str(one) for one in (below, below + step) if 1 <= one <= size]
    rule = f"a multiple of {step} after pruning, such as {' or '.join(near)} of {size}"
    require(left % step == 0 and left >= 1, name, rule, left)
