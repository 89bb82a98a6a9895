"""FPGA families as data: which resources the cells take that Yosys maps to
(`hw.emit.yosys_script`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from evolute.hw.synthesis.tools import ToolError
from evolute.support.errors import UnknownNameError


@dataclass(frozen=True)
class Part:
    """A device and how many of each resource it has, from the maker's data sheet."""

    name: str
    lut: int
    ff: int
    bram: int
    dsp: int

    def shares(self, used: Mapping[str, int]) -> dict[str, float]:
        """The share of each resource that a design uses, from 0 to 1 or above; 0 where nothing is
        used."""
        available = {name: getattr(self, name) for name in used}
        return {name: round(used[name] / room, 4) for name, room in available.items() if room}


@dataclass(frozen=True)
class Family:
    """One FPGA family.

    For each resource, `resources` maps patterns of full cell names to the number that such a cell
    takes. Carry cells and small memories count as the lookup tables whose place they take. Block
    memories are counted in the smallest unit that the family can use by itself.
    """

    name: str
    resources: Mapping[str, Mapping[str, int]]
    free: str
    """Pattern of the names of cells that take none of the resources."""
    parts: tuple[Part, ...]
    """Devices of the family, smallest first."""

    def usage(self, cells: Mapping[str, int]) -> dict[str, int]:
        """How many of each resource a design takes, from its number of mapped cells by name.

        Raises `ToolError` for an unknown cell, because a count without it would be wrong.
        """
        used = dict.fromkeys(self.resources, 0)
        for cell, count in cells.items():
            if re.fullmatch(self.free, cell):
                continue
            for resource, patterns in self.resources.items():
                weights = [weight for name, weight in patterns.items() if re.fullmatch(name, cell)]
                if weights:
                    used[resource] += weights[0] * count
                    break
            else:
                raise ToolError(f"{self.name}: the mapped design has an unknown cell {cell}")
        return used

    def smallest_part(self, used: Mapping[str, int]) -> Part | None:
        """The smallest part that has these resources and a tenth of its logic to spare for packing;
        None if there is none."""
        packed = {"lut": 0.9, "ff": 0.9}
        for part in self.parts:
            if all(n <= packed.get(name, 1) * getattr(part, name) for name, n in used.items()):
                return part
        return None

    def part(self, name: str) -> Part:
        """The part called `name`. Raises `UnknownNameError` with similar names."""
        parts_by_name = {part.name: part for part in self.parts}
        if name not in parts_by_name:
            raise UnknownNameError(f"{self.name} part", name, list(parts_by_name))
        return parts_by_name[name]


_XILINX = {
    "lut": {
        "LUT[1-6]|INV|SRL16E|SRLC32E|RAM(32|64)X1S": 1,
        "RAM(32|64)X1D|RAM128X1S": 2,
        "RAM(32|64)M|RAM128X1D": 4,
        "RAM(32M16|64M8|256X1D)": 8,
    },
    "ff": {"FD[CPRS]E(_1)?": 1},
    "bram": {"RAMB18E[12]": 1, "RAMB36E[12]": 2},
    "dsp": {"DSP48E[12]": 1},
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="ecp5",
            resources={
                "lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
                "ff": {"TRELLIS_FF": 1},
                "bram": {"DP16KD": 1},
                "dsp": {"MULT18X18D": 1},
            },
            free="PFUMX|L6MUX21",
            parts=(
                Part("LFE5U-25F", 24_288, 24_288, 56, 28),
                Part("LFE5U-45F", 43_848, 43_848, 108, 72),
                Part("LFE5U-85F", 83_640, 83_640, 208, 156),
            ),
        ),
        Family(
            name="ice40",
            resources={
                "lut": {"SB_LUT4": 1},
                "ff": {"SB_DFF.*": 1},
                "bram": {"SB_RAM40_4K.*": 1},
                "dsp": {"SB_MAC16": 1},
            },
            free="SB_CARRY",  # shares the logic cell of the lookup table that it feeds
            parts=(
                Part("iCE40UP5K", 5_280, 5_280, 30, 8),
                Part("iCE40HX8K", 7_680, 7_680, 32, 0),
            ),
        ),
        Family(
            name="xilinx",
            resources=_XILINX,
            free="CARRY4|MUXF[78]|GND|VCC",  # carries and wide multiplexers have their own place
            parts=(
                Part("XC7A35T", 20_800, 41_600, 100, 90),
                Part("XC7A100T", 63_400, 126_800, 270, 240),
                Part("XC7A200T", 134_600, 269_200, 730, 740),
            ),
        ),
        Family(
            name="xilinx-us",
            resources=_XILINX,
            free="CARRY[48]|MUXF[789]|GND|VCC",
            parts=(
                Part("XCZU3EG", 70_560, 141_120, 432, 360),
                Part("XCK26", 117_120, 234_240, 288, 1_248),
                Part("XCZU7EV", 230_400, 460_800, 624, 1_728),
            ),
        ),
        Family(
            name="gowin",
            resources={
                "lut": {"LUT[1-4]": 1, "ALU": 1, "RAM16SDP4": 6},
                "ff": {"DFF.*": 1},
                "bram": {"(DP|SDP|SP|DPX9|SDPX9|SPX9)B?": 1},
                "dsp": {"MULT.*": 1},
            },
            free="MUX2_LUT[5-8]|GND|VCC|GSR",
            parts=(
                Part("GW1NR-9", 8_640, 6_480, 26, 20),
                Part("GW2A-18", 20_736, 15_552, 46, 48),
            ),
        ),
    )
}
