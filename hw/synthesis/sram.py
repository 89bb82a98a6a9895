"""Memories that are no standard cells: area, access time and energy of static RAM at 45 nm.

The figures are CACTI's, for sizes that are powers of two and for one port or one of each kind
(`sram_45nm.csv`, made by `hw.synthesis.cacti`). Between them they are interpolated by logarithms,
beyond them there are none. Against the twelve memories that the Nangate45 platform publishes with
power and timing, areas, access times and energies are as far off as `docs/energy.md` says.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from evolute.hw.synthesis.libraries import NANGATE45, CellLibrary

_TABLE = Path(__file__).parent / "sram_45nm.csv"

SETUP_NS = 0.05
"""Of a memory's inputs before the clock: what the published memories of Nangate45 state."""

SOURCE = "CACTI 7.0, 45 nm, high-performance transistors, 300 K"


@dataclass(frozen=True)
class Sram:
    """One memory of static RAM, clocked, with a word read or written in every cycle."""

    words: int
    bits: int
    """Width of a word."""
    shared_port: bool
    """Whether reads and writes share one port; else each has its own."""
    area_um2: float
    access_ns: float
    """From the clock to what is read."""
    read_fj: float
    """Energy of reading one word."""
    write_fj: float
    leakage_nw: float


COLUMNS = tuple(Sram.__dataclass_fields__)
_FIGURES = ("area_um2", "access_ns", "read_fj", "write_fj", "leakage_nw")


@functools.cache
def _tables() -> Mapping[bool, RegularGridInterpolator]:
    """Logarithms of the figures over logarithms of words and bits, by whether ports are shared."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        rows = [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]
    tables = {}
    for shared in (False, True):
        of_ports = [row for row in rows if bool(row["shared_port"]) == shared]
        words = sorted({row["words"] for row in of_ports})
        bits = sorted({row["bits"] for row in of_ports})
        figures = np.full((len(words), len(bits), len(_FIGURES)), np.nan)
        for row in of_ports:
            place = words.index(row["words"]), bits.index(row["bits"])
            figures[place] = [row[name] for name in _FIGURES]
        tables[shared] = RegularGridInterpolator(
            (np.log(words), np.log(bits)), np.log(figures), bounds_error=False, fill_value=np.nan
        )
    return tables


def sram(words: int, bits: int, *, shared_port: bool) -> Sram | None:
    """A memory's figures; None for a size beyond the table's."""
    figures = np.exp(_tables()[shared_port]((np.log(words), np.log(bits)))).reshape(-1)
    if not np.isfinite(figures).all():
        return None
    return Sram(words, bits, shared_port, *map(float, figures))


def model_of(
    library: CellLibrary, words: int, bits: int, read_ports: int, write_ports: int
) -> Sram | None:
    """The figures of a memory beside a library's cells; None beside cells of another node, for a
    size beyond the table's, and for other ports than one of each kind."""
    if library != NANGATE45 or (read_ports, write_ports) != (1, 1):
        return None
    return sram(words, bits, shared_port=False)
