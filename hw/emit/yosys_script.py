"""The Yosys passes that map a design's Verilog to gates or FPGA cells, as text. Both the project's
own runs and the exports use them."""

from __future__ import annotations

FPGA_MAPPING = {
    "ecp5": "synth_ecp5",
    "ice40": "synth_ice40",
    "xilinx": "synth_xilinx -family xc7 -noiopad -noclkbuf",
    "xilinx-us": "synth_xilinx -family xcup -noiopad -noclkbuf",
    "gowin": "synth_gowin -noiopads",
}
"""For each FPGA family, the pass that maps to its cells; `-top` is added by `fpga_passes`."""

# Amaranth's output trips an assertion in the passes of some FPGA families unless it is flattened
# and its generated names are made short first (YosysHQ/yosys issue 4349).
_PREPARE = ("proc", "flatten", "opt_clean -purge", "rename -enumerate")


def fpga_passes(family: str, source: str, top: str) -> list[str]:
    """The passes that map the Verilog file `source` to the cells of a family in `FPGA_MAPPING`."""
    return [f"read_verilog {source}", *_PREPARE, f"{FPGA_MAPPING[family]} -top {top}"]


def generic_passes(source: str, top: str) -> list[str]:
    """The passes that map the Verilog file `source` to gates; memories stay whole."""
    return [
        f"read_verilog {source}",
        f"synth -flatten -top {top} -run begin:fine",
        *("techmap", "opt -full", "abc", "opt_clean"),
    ]
