"""What every unit has in common: machines with streams and clocks of their own, so that no core can
hold them."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass

from evolute.hw.spec.base import Spec
from evolute.hw.spec.beat import Beat


@dataclass(frozen=True, kw_only=True)
class Unit(Spec, abc.ABC):
    """Base of the units' specs."""

    @property
    @abc.abstractmethod
    def beats(self) -> Mapping[str, Beat]:
        """What a word of each stream is, by the stream's name."""

    @property
    @abc.abstractmethod
    def meaning(self) -> str:
        """What moves over the streams, in words."""

    @property
    @abc.abstractmethod
    def more_clocks(self) -> tuple[tuple[str, str], ...]:
        """Clocks beside `clk`, each with its reset."""
