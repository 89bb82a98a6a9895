"""Options that all commands share, and numbers within bounds whose values are refused in one common
way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from evolute.support.files import RECORDS

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out"),
    show_default=True,
    help=f"Folder whose {RECORDS} the result is added to.",
)


def show(as_json: bool, document: Any, render: Callable[[Console], None]) -> None:
    """Print `document` as JSON, or let `render` draw it on a console."""
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        render(Console(highlight=False))


class Whole(click.IntRange):
    """A whole number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            rule = f"a whole number in {self.min}..{self.max}"
        self.fail(f"must be {rule}, got {_shown(value)}", param, ctx)


class Real(click.FloatRange):
    """A finite number within bounds."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            number = super().convert(value, param, ctx)
            if math.isfinite(number):
                return number
        except click.BadParameter:
            pass
        assert self.min is not None and self.max is not None
        rule = f"a number in {self.min:.15g}..{self.max:.15g}"
        self.fail(f"must be {rule}, got {_shown(value)}", param, ctx)


class Wholes(click.ParamType):
    """Whole numbers within bounds, separated by commas."""

    name = "numbers"

    def __init__(self, low: int, high: int):
        self._one = Whole(low, high)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(self._one.convert(part, param, ctx) for part in str(value).split(","))


def _shown(value: Any) -> str:
    """A value as the user wrote it, the middle of a long one left out."""
    text = str(value)
    return repr(text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}")


COUNT = Whole(1, 1 << 24)
"""How many of something: tokens, rows, trials."""
CONTEXT = Whole(1, 1 << 24)
"""Tokens of a window; the model has a bound of its own."""
CONTEXTS = Wholes(0, 1 << 24)
"""Tokens in a cache, one number or several."""
SEED = Whole(0, (1 << 31) - 1)
WORKERS = Whole(1, 256)
LATENCY = Whole(1, 1 << 20)
"""Cycles, as `sim.timing.memory.MemoryTiming` bounds them."""
KIB = Whole(0, 1 << 32)
FREQUENCY_MHZ = Real(1e-3, 1e6)
BANDWIDTH_GBS = Real(1e-6, 1e6)
RATE = Real(1e-9, 1e9)
"""Billions of something per second."""
TEMPERATURE = Real(0, 1e3)
