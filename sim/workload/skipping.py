"""What is left to do where a ReLU switches rows of feed-forward layers off.

Behind a ReLU most numbers of a token are 0 in models that are trained for it. What they multiply
need not be read: of a half with a gate the rows of `up` and the columns of `down`, without a gate
the columns of `down`. The layer before the ReLU is computed whole, as it decides. The share of idle
rows is stated, and taken to be idle for each token apart from the others, so that several tokens at
once leave fewer weights unread.

No core of this project can skip rows; the counts say what one that could would be spared.
"""

from __future__ import annotations

from typing import NamedTuple

from evolute.hw.spec.base import require
from evolute.sim.workload.linear import Workload, rows_of
from evolute.sim.workload.operations import Pass
from evolute.sim.workload.shape import FeedForward, ModelShape

RELUS = ("relu", "relu2")
"""Activations that are exactly 0 for half of all numbers."""


class Spared(NamedTuple):
    """What a pass need not do, in the mean."""

    macs: float
    bytes: float
    """Of weights with all that is stored beside their codes."""


def require_relu(shape: ModelShape, idle_share: float) -> None:
    """Raise `SpecError` unless the share is one, and feed-forward halves of `shape` have a ReLU."""
    require(0 <= idle_share < 1, "idle_rows", "at least 0 and below 1", idle_share)
    halves = [block.feed_forward for block in shape.blocks if block.feed_forward is not None]
    others = {half.activation for half in halves} - set(RELUS)
    rule = "of a model whose feed-forward halves all have a ReLU"
    kinds = ", ".join(sorted(others)) or "no feed-forward half"
    require(bool(halves) and not others, "idle_rows", rule, f"{shape.name} with {kinds}")


def spared(shape: ModelShape, workload: Workload, work: Pass, idle_share: float) -> Spared:
    """What `work`, whose layers are `workload`, is spared where `idle_share` of the rows behind
    every ReLU are idle for a token. Raises as `require_relu` does."""
    require_relu(shape, idle_share)
    macs = moved = 0.0
    for linear in workload.linears:
        half = None if linear.name.block is None else shape.blocks[linear.name.block].feed_forward
        if half is None or linear.name.role not in _skippable(half):
            continue
        rows = rows_of(linear, work.tokens)
        macs += linear.count * linear.n * linear.k * rows * idle_share
        moved += linear.total_bits / 8 * idle_share**rows
    return Spared(macs, moved)


def _skippable(half: FeedForward) -> tuple[str, ...]:
    return ("up", "down") if half.gated else ("down",)
