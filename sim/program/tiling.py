"""How rows of activations are cut up for a core: blocks of row tiles that stay in the activation
buffer, and runs of them that a bank of sums holds."""

from __future__ import annotations

from collections.abc import Sequence

from evolute.hw.isa.instructions import OPERATIONS
from evolute.hw.spec.core import CoreSpec
from evolute.sim.program.placement import Stage

_MOST_ROW_TILES = OPERATIONS["matmul"]["row_tiles"].maximum
"""Row tiles that a matmul can have."""


def equal_parts(total: int, most: int) -> tuple[int, ...]:
    """`total` in the fewest parts of at most `most`, about equal."""
    count = -(-total // most)
    return tuple(total * (i + 1) // count - total * i // count for i in range(count))


def run_tiles(core: CoreSpec) -> int:
    """Row tiles in a run at most."""
    return min(core.bank_words // core.scale_steps, _MOST_ROW_TILES)


def resident(core: CoreSpec, stage: Stage) -> bool:
    """Whether the activation buffer holds a row tile's whole K; if not, it holds parts of it."""
    words = sum(map(core.activation_buffer.words, stage.parts))
    return words <= core.activation_buffer.bus_words


def divisible(core: CoreSpec, stage: Stage) -> bool:
    """Whether the row tiles of a block can go in several runs: each begins a bus word, and all
    parts of a column tile fit the buffers until the last run."""
    per_word = core.activation_buffer.beats_per_word
    return all(part % per_word == 0 for part in stage.parts) and all(
        sum(layer.weight_words) <= core.weight_buffer.bus_words
        and sum(layer.scale_words) <= core.scale_buffer.bus_words
        for layer in stage.layers
    )


def blocks(core: CoreSpec, stage: Stage, rows: int) -> tuple[int, ...]:
    """Row tiles of each block: about equal, with the least estimate, of those the fewest blocks."""
    row_tiles = -(-rows // core.engine.m)
    counts = dict.fromkeys(-(-row_tiles // most) for most in range(row_tiles, 0, -1))
    fitting = [count for count in counts if _fits(core, stage, -(-row_tiles // count))]
    slice_steps = [core.engine.slice_steps(layer.linear.format) for layer in stage.layers]
    cuts = [equal_parts(row_tiles, -(-row_tiles // count)) for count in fitting]
    return min(cuts, key=lambda blocks: _estimate(core, stage, blocks, slice_steps))


def _fits(core: CoreSpec, stage: Stage, row_tiles: int) -> bool:
    """Whether the activations of blocks of `row_tiles` row tiles fit the activation buffer; blocks
    of one row tile always fit."""
    buffer = core.activation_buffer
    words = [buffer.words(row_tiles * part) for part in stage.parts]
    if row_tiles > run_tiles(core) and not (resident(core, stage) and divisible(core, stage)):
        return False
    needed = sum(words) if resident(core, stage) else 2 * max(words)
    return needed <= buffer.bus_words


def _estimate(
    core: CoreSpec, stage: Stage, blocks: tuple[int, ...], slice_steps: Sequence[int]
) -> float:
    """Cycles of the bus or of the engine, whichever has more, and of loads that nothing covers.

    `slice_steps` are the engine's for the weights of each layer.
    """
    buffer, period = core.activation_buffer, core.result_period_cycles
    block_words = sum(buffer.words(max(blocks) * part) for part in stage.parts)
    weight_words = sum(layer.words for layer in stage.layers)
    bus = len(blocks) * weight_words
    bus += len(blocks) * block_words * (1 if resident(core, stage) else stage.column_tiles)
    bus += sum(blocks) * stage.column_tiles * core.tile_store_words
    most = run_tiles(core)
    matmuls = len(stage.parts) * sum(-(-block // most) for block in blocks)
    engine = 0
    for layer, steps in zip(stage.layers, slice_steps, strict=True):
        steps *= layer.group_slices
        row_tile = max(sum(stage.parts) / layer.group_slices, 1) * max(steps, period)
        engine += layer.column_tiles * (sum(blocks) * row_tile + matmuls * matmul_overhead(core))
    covered = 2 * block_words <= buffer.bus_words
    return max(bus, engine) + block_words * (1 if covered else len(blocks))


def matmul_overhead(core: CoreSpec) -> int:
    """Cycles between the last step of a matmul and the first of the next at the soonest."""
    engine = core.engine
    fill = core.stream_latency_cycles + engine.operand_latency_cycles
    return fill + engine.step_latency_cycles + core.scale_drain_cycles
