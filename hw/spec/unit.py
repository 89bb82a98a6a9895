"""What every unit has in common. A unit is a machine with streams and clocks of its own, other than
an engine's, so that no core can hold it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass

from evolute.hw.spec.base import Spec
from evolute.hw.spec.beat import Beat

RESET_CYCLES = 3
"""Cycles of the slower clock for which both sides of a unit with two clocks must be reset together;
`hw.rtl.blocks.crossing` is why."""


@dataclass(frozen=True, kw_only=True)
class UnitSpec(Spec, abc.ABC):
    """Base of the specs of units."""

    @property
    @abc.abstractmethod
    def beats(self) -> Mapping[str, Beat]:
        """The layout of every stream's words, by the stream's name."""

    @property
    @abc.abstractmethod
    def meaning(self) -> str:
        """A text that tells what moves over the streams."""

    @property
    @abc.abstractmethod
    def more_clocks(self) -> tuple[tuple[str, str], ...]:
        """The names of the clocks beside `clk`, each in a pair with the name of its reset."""
