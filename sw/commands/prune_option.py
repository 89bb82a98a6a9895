"""`--prune`: what is taken out of a model, by name and share, and how that is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from evolute.hw.spec.base import SpecError
from evolute.sim.workload.pruned_shape import PrunedShape, ShapePruning, SizeCut, pruned_shape
from evolute.sim.workload.pruned_tokens import TokenSchedule
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import ModelShape
from evolute.sim.workload.sparsity import NOfM, RowGroup, Sparsity, SparsityFigures, TileGroup
from evolute.support.errors import RefusedError

_BLOCKS = {"tile-group": TileGroup, "group": RowGroup}
_SIZES = "heads", "ffn", "hidden", "layers"
_GRAMMAR = (
    "tile-group:SHARE[/INPUTS], group:SHARE[/INPUTS] or N:M of weights; "
    "heads:, ffn:, hidden: or layers:SHARE of sizes; tokens:SHARE@LAYER[/...]"
)


def prune_option(*, sizes: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option; of a command that takes models without weights with `sizes`."""
    text = (
        "Make weights zero: tile-group:SHARE[/INPUTS], blocks that a core's programs leave out; "
        "group:SHARE[/INPUTS] or N:M, which take as long as dense weights. "
    )
    if sizes:
        text += (
            "Of a model without weights also heads:, ffn:, hidden: and layers:, each with a share "
            "to take away or a whole number to keep; and tokens:SHARE@LAYER[/SHARE@LAYER...], "
            "shares of a prompt's tokens that are gone from a layer on. "
        )
    return click.option(
        "--prune", "prune_text", metavar="WHAT[,WHAT...]", help=f"{text}See docs/sparsity.md."
    )


@dataclass(frozen=True)
class Pruning:
    """What `--prune` asks for."""

    sparsity: Sparsity | None = None
    sizes: ShapePruning | None = None
    tokens: TokenSchedule | None = None

    def of_weights(self) -> Sparsity | None:
        """The pattern of zeros for a model with weights. Raises `RefusedError` for all that is of
        sizes alone."""
        for one in (self.sizes, self.tokens):
            if one is not None:
                raise RefusedError(
                    f"--prune {one.name}: must be of a model without weights, such as a folder "
                    "with a config.json alone"
                )
        return self.sparsity


def parse_pruning(text: str | None) -> Pruning:
    """What `text` asks for; nothing for None. Raises `RefusedError`."""
    if text is None:
        return Pruning()
    sparsity: Sparsity | None = None
    schedule: TokenSchedule | None = None
    cuts: dict[str, SizeCut] = {}
    for part in text.split(","):
        name, _, amount = part.partition(":")
        try:
            if name == "tokens":
                if schedule is not None:
                    raise RefusedError(f"--prune tokens: must be given once, got {text!r:.60}")
                schedule = _schedule(part, amount)
                continue
            if name in _SIZES:
                if name in cuts:
                    raise RefusedError(f"--prune {name}: must be given once, got {text!r:.60}")
                cuts[name] = _cut(part, amount)
                continue
            pattern = _sparsity(part)
        except SpecError as error:
            raise RefusedError(f"--prune {part:.60}: {error}") from None
        if sparsity is not None:
            raise RefusedError(f"--prune: must be one pattern of zeros, got {text!r:.60}")
        sparsity = pattern
    return Pruning(sparsity, ShapePruning(**cuts) if cuts else None, schedule)


def _schedule(part: str, amount: str) -> TokenSchedule:
    steps = []
    for step in amount.split("/"):
        match = re.fullmatch(r"(\d*\.?\d+)@(\d{1,4})", step)
        if match is None:
            raise RefusedError(
                f"--prune {part:.60}: must be tokens:SHARE@LAYER[/SHARE@LAYER...], got {step!r:.60}"
            )
        steps.append((float(match[1]), int(match[2])))
    return TokenSchedule(tuple(steps))


def _cut(part: str, amount: str) -> SizeCut:
    if re.fullmatch(r"[1-9]\d{0,6}", amount):
        return SizeCut(kept=int(amount))
    if re.fullmatch(r"\d*\.?\d+", amount):
        return SizeCut(float(amount))
    raise RefusedError(
        f"--prune {part:.60}: must be a share to take away, or a whole number to keep, got "
        f"{amount!r:.60}"
    )


def _sparsity(text: str) -> Sparsity:
    if match := re.fullmatch(r"(\d{1,6}):(\d{1,6})", text):
        return NOfM(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"(tile-group|group):(\d*\.?\d+)(?:/(\d{1,6}))?", text):
        return _BLOCKS[match[1]](float(match[2]), None if match[3] is None else int(match[3]))
    raise RefusedError(f"--prune: must be {_GRAMMAR}; got {text!r:.60}")


def resized(shape: ModelShape, pruning: Pruning, factors: Sequence[int]) -> PrunedShape | None:
    """The model with the sizes that `pruning` asks for; None where it asks for none. Raises
    `RefusedError`; `factors` are those of `pruned_shape`."""
    if pruning.sizes is None:
        return None
    try:
        return pruned_shape(shape, pruning.sizes, factors)
    except SpecError as error:
        raise RefusedError(f"--prune {pruning.sizes.name}: {error}") from None


def with_schedule(shape: ModelShape, pruning: Pruning, serving: Serving) -> ModelShape:
    """The model whose layers see the tokens that `pruning` leaves; with a stated context, of all in
    the cache. Raises `RefusedError`."""
    if pruning.tokens is None:
        return shape
    try:
        return pruning.tokens.of(shape, None if serving.contexts else serving.prefill_tokens)
    except SpecError as error:
        raise RefusedError(f"--prune {pruning.tokens.name}: {error}") from None


def tokens_record(
    schedule: TokenSchedule | None, shape: ModelShape, serving: Serving
) -> dict[str, Any] | None:
    """For records: the tokens that each layer computes of a prompt, and those that it has in the
    cache for the first token after it."""
    if schedule is None:
        return None
    cached = serving.decode[0].cached
    return {
        "pattern": schedule.name,
        "prompt_tokens": [block.seen(serving.prefill_tokens) for block in shape.blocks],
        "cached_tokens": [block.seen(cached) for block in shape.blocks],
    }


def tokens_lines(record: dict[str, Any] | None) -> Iterator[str]:
    """What there is to say of layers that see fewer tokens."""
    if record is None:
        return
    prompt, cached = record["prompt_tokens"], record["cached_tokens"]
    yield (
        f"{record['pattern']}: layers see {min(prompt):,} to {max(prompt):,} tokens of the prompt "
        f"({sum(prompt) / (len(prompt) * prompt[0]):.1%} of all in the mean), and {min(cached):,} "
        f"to {max(cached):,} in the cache; choosing them takes no time here, and what it does to "
        "accuracy is unknown"
    )


def sizes_record(pruned: PrunedShape | None) -> dict[str, Any] | None:
    """A pruned shape as records hold it."""
    if pruned is None:
        return None
    return {
        "pattern": pruned.pattern,
        "params": pruned.params,
        "dense_params": pruned.dense_params,
        "sizes": {name: list(both) for name, both in pruned.sizes.items()},
    }


def sizes_lines(record: dict[str, Any] | None) -> Iterator[str]:
    """What there is to say of a model with other sizes."""
    if record is None:
        return
    sizes = ", ".join(
        f"{name} {before:,} -> {after:,}" for name, (before, after) in record["sizes"].items()
    )
    share = record["params"] / record["dense_params"]
    yield (
        f"pruned in size: {sizes}; {record['params']:,} parameters, {share:.1%} of "
        f"{record['dense_params']:,}; its accuracy is unknown"
    )


def pruning_record(figures: SparsityFigures | None) -> dict[str, Any] | None:
    """The figures as records hold them."""
    return figures and {**asdict(figures), "stored_share": figures.stored_share}


def pruning_lines(record: dict[str, Any] | None) -> Iterator[str]:
    """What there is to say of weights that are zero."""
    if record is None:
        return
    kept = record["kept_weights"] / record["weights"]
    yield (
        f"{record['pattern']}: {kept:.1%} of weights kept, the head aside; stored in "
        f"{record['value_bytes']:,} bytes and {record['index_bytes']:,} of index in the place of "
        f"{record['dense_bytes']:,} (index: {record['index']})"
    )
    if record["time"] == "dense":
        yield (
            "no accelerator here decodes it: time, bytes moved and tokens/s are those of dense "
            f"weights; a decoder would leave {kept:.1%} of their multiply-accumulates and "
            f"{record['stored_share']:.1%} of their bytes"
        )
    elif record["basis"] == "sizes":
        yield "programs leave the other blocks out, here spread evenly: no weights were read"
    else:
        yield "programs leave the other blocks out: cycles and bytes moved are without them"
