"""`--prune`: what is taken out of a model, by name and share, and how that is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from evolute.hw.spec.base import SpecError
from evolute.sim.workload.sparsity import NOfM, RowGroup, Sparsity, SparsityFigures, TileGroup
from evolute.support.errors import RefusedError

_BLOCKS = {"tile-group": TileGroup, "group": RowGroup}
_GRAMMAR = "tile-group:SHARE[/INPUTS], group:SHARE[/INPUTS] or N:M"

prune_option = click.option(
    "--prune",
    "prune_text",
    metavar="WHAT",
    help=f"Make weights zero: {_GRAMMAR}, such as tile-group:0.5/64 or 2:4. Cores leave out the "
    "blocks of tile-group; the others take as long as dense weights. docs/sparsity.md has more.",
)


@dataclass(frozen=True)
class Pruning:
    """What `--prune` asks for."""

    sparsity: Sparsity | None = None


def parse_pruning(text: str | None) -> Pruning:
    """What `text` asks for; nothing for None. Raises `RefusedError`."""
    if text is None:
        return Pruning()
    try:
        return Pruning(_sparsity(text))
    except SpecError as error:
        raise RefusedError(f"--prune {text:.60}: {error}") from None


def _sparsity(text: str) -> Sparsity:
    if match := re.fullmatch(r"(\d{1,6}):(\d{1,6})", text):
        return NOfM(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"(tile-group|group):(\d*\.?\d+)(?:/(\d{1,6}))?", text):
        return _BLOCKS[match[1]](float(match[2]), None if match[3] is None else int(match[3]))
    raise RefusedError(f"--prune: must be {_GRAMMAR}, got {text!r:.60}")


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
