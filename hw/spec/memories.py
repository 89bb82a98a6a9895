"""Memories and boards by name: how fast they are at most, and how much they hold.

A bandwidth is a data rate times a width, which no controller keeps up all the time; what a design
gets of it is for its own bursts, latency and refresh to say (`Platform`). Where a published design
reached a share of it, the share and the design are told. An energy per bit is stated only where a
source gives one for that memory; it is of the memory's devices and their interface, and depends on
how rows are used, so that what follows from it is a model.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolute.support.errors import UnknownNameError

GIB, MIB = 1 << 30, 1 << 20


@dataclass(frozen=True)
class Memory:
    """A memory, or the one of a board that logic on it reads."""

    name: str
    transfers_per_s: float
    """Words of `width_bits` per second."""
    width_bits: int
    capacity_bytes: int | None
    """None for a kind of memory, of which one can have any amount."""
    source: str
    reached: str | None = None
    """What share of the bandwidth a published design got, and which."""
    energy_pj_per_bit: float | None = None
    """Of a bit that is read or written; None where no source states it for this memory."""
    energy_source: str | None = None
    """Who states that energy, and for what."""

    @property
    def bandwidth_bytes_per_s(self) -> float:
        return self.transfers_per_s * self.width_bits / 8


MEMORIES: dict[str, Memory] = {
    memory.name: memory
    for memory in (
        Memory("ddr3-1600-x16", 1600e6, 16, None, "JEDEC JESD79-3, DDR3-1600, one device"),
        Memory("ddr3-1600-x64", 1600e6, 64, None, "JEDEC JESD79-3, DDR3-1600, one module"),
        Memory("ddr4-2400-x16", 2400e6, 16, None, "JEDEC JESD79-4, DDR4-2400, one device"),
        Memory("ddr4-2400-x64", 2400e6, 64, None, "JEDEC JESD79-4, DDR4-2400, one module"),
        Memory("ddr4-3200-x64", 3200e6, 64, None, "JEDEC JESD79-4, DDR4-3200, one module"),
        Memory("lpddr4x-4266-x32", 4266e6, 32, None, "JEDEC JESD209-4, 4266 Mb/s per pin"),
        Memory("lpddr5-6400-x16", 6400e6, 16, None, "JEDEC JESD209-5, 6400 Mb/s per pin"),
        Memory("lpddr5-6400-x64", 6400e6, 64, None, "JEDEC JESD209-5, 6400 Mb/s per pin"),
        Memory("hbm2e-3200", 3200e6, 1024, None, "JEDEC JESD235, one stack at 3.2 Gb/s per pin"),
        Memory(
            "arty-a7",
            667e6,
            16,
            256 * MIB,
            "Digilent Arty A7 reference manual: DDR3L, 16 bits, 667 MT/s",
        ),
        Memory(
            "ulx3s",
            143e6,
            16,
            32 * MIB,
            "ULX3S: SDRAM IS42S16160G-7, 16 bits, 143 MHz",
        ),
        Memory(
            "kv260",
            2400e6,
            64,
            4 * GIB,
            "arXiv 2502.10659: KV260, DDR4, 19.2 GB/s",
            "84 to 85 % (arXiv 2502.10659), 94 % (arXiv 2507.03308)",
        ),
        Memory(
            "zcu104",
            2400e6,
            64,
            2 * GIB,
            "UG1267: 64 bits of DDR4-2400 at the processing system; UG1702: 2 GB",
            "93 % (arXiv 2507.03308)",
        ),
        Memory(
            "u280-hbm2",
            32 * 14.375e9,
            8,
            8 * GIB,
            "UG1393: 32 channels of 14.375 GB/s, 8 GB",
            "65.9 % (arXiv 2401.03868)",
            3.97,
            "O'Connor et al., Fine-Grained DRAM (MICRO 2017), section 1: a bit of HBM2",
        ),
    )
}
"""Every memory by its name, kinds first and then boards."""


def memory(name: str) -> Memory:
    """The memory called `name`. Raises `UnknownNameError` with the near names."""
    if name not in MEMORIES:
        raise UnknownNameError("memory", name, list(MEMORIES))
    return MEMORIES[name]
