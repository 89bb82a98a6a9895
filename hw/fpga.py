"""FPGA families as data: how Yosys maps to them and what its cells use up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hw.tools import ToolError


@dataclass(frozen=True)
class Part:
    """A device with its lookup tables and flip-flops, after the maker's data sheet."""

    name: str
    lut: int
    ff: int


@dataclass(frozen=True)
class Family:
    """One FPGA family.

    `resources` gives, for each resource, patterns of full cell names and how many of it a cell
    takes. Carry cells count as the lookup tables whose place they take.
    """

    name: str
    synthesis: str
    """The Yosys pass, but for `-top`."""
    resources: Mapping[str, Mapping[str, int]]
    free: str
    """Pattern of the cells that take none of the resources."""
    parts: tuple[Part, ...]
    """Smallest first."""

    def usage(self, cells: Mapping[str, int]) -> dict[str, int]:
        """Each resource's count, from counts of mapped cells.

        Raises `ToolError` for a cell it does not know: a count that leaves some out is no count.
        """
        used = dict.fromkeys(self.resources, 0)
        for cell, count in cells.items():
            if re.fullmatch(self.free, cell):
                continue
            for resource, patterns in self.resources.items():
                weights = [each for name, each in patterns.items() if re.fullmatch(name, cell)]
                if weights:
                    used[resource] += weights[0] * count
                    break
            else:
                raise ToolError(f"{self.name}: the mapped design has an unknown cell {cell}")
        return used

    def smallest_part(self, lut: int, ff: int) -> Part | None:
        """The first part that has this many of both, and a tenth to spare for packing, if any."""
        fits = (part for part in self.parts if lut <= 0.9 * part.lut and ff <= 0.9 * part.ff)
        return next(fits, None)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="ecp5",
            synthesis="synth_ecp5",
            resources={
                "lut": {"LUT4": 1, "CCU2C": 2},
                "ff": {"TRELLIS_FF": 1},
                "bram": {"DP16KD": 1},
                "dsp": {"MULT18X18D": 1},
            },
            free="PFUMX|L6MUX21",
            parts=(
                Part("LFE5U-25F", 24_288, 24_288),
                Part("LFE5U-45F", 43_848, 43_848),
                Part("LFE5U-85F", 83_640, 83_640),
            ),
        ),
        Family(
            name="ice40",
            synthesis="synth_ice40",
            resources={
                "lut": {"SB_LUT4": 1},
                "ff": {"SB_DFF.*": 1},
                "bram": {"SB_RAM40_4K.*": 1},
                "dsp": {"SB_MAC16": 1},
            },
            free="SB_CARRY",  # shares the logic cell of the lookup table that it feeds
            parts=(Part("iCE40UP5K", 5_280, 5_280), Part("iCE40HX8K", 7_680, 7_680)),
        ),
        Family(
            name="xilinx",
            synthesis="synth_xilinx -family xc7 -noiopad -noclkbuf",
            resources={
                "lut": {"LUT[1-6]": 1, "INV": 1},
                "ff": {"FD[CPRS]E(_1)?": 1},
                "bram": {"RAMB(18|36)E1": 1},
                "dsp": {"DSP48E1": 1},
            },
            free="CARRY4|MUXF[78]|GND|VCC",  # carries and wide multiplexers have their own place
            parts=(
                Part("XC7A35T", 20_800, 41_600),
                Part("XC7A100T", 63_400, 126_800),
                Part("XC7A200T", 134_600, 269_200),
            ),
        ),
        Family(
            name="gowin",
            synthesis="synth_gowin -noiopads",
            resources={
                "lut": {"LUT[1-4]": 1, "ALU": 1},
                "ff": {"DFF.*": 1},
                "bram": {"(DP|SDP|SP|DPX9|SDPX9|SPX9)B?": 1},
                "dsp": {"MULT.*": 1},
            },
            free="MUX2_LUT[5-8]|GND|VCC|GSR",
            parts=(Part("GW1NR-9", 8_640, 6_480), Part("GW2A-18", 20_736, 15_552)),
        ),
    )
}
