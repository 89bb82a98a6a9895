"""Makes the table that `hw.synthesis.sram` reads: what CACTI 7 says of memories of many sizes.

`python -m evolute.hw.synthesis.cacti > hw/synthesis/sram_45nm.csv` fetches CACTI's source inside a
published package, compiles it (it needs make and a C++ compiler) and asks it for every size. CACTI
is HP's model of memories (its source states version 7.0 and a BSD licence). It is not shipped.
"""

from __future__ import annotations

import csv
import itertools
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from evolute.hw.synthesis.sram import COLUMNS, Sram
from evolute.hw.synthesis.tools import ToolError, run_tool
from evolute.support import files
from evolute.support.waiting import shown

REQUIREMENT = "hwcomponents-cacti==1.0.40"
WHEEL_SHA256 = "0bec35a55fedef890b4c6e12e8c553f765e3eb0e00a7dce41062a35cf889669e"
_FOLDER = "hwcomponents_cacti/cacti/"

WORDS = tuple(1 << i for i in range(5, 15))
BITS = tuple(1 << i for i in range(4, 10))
PORTS = ((0, 0, 1), (1, 1, 0))
"""(read, write, either): one port for both, or one of each."""

_TIMEOUT_S = 600.0

_CONFIGURATION = """\
-size (bytes) {size}
-block size (bytes) {block}
-output/input bus width {width}
-read-write port {either}
-exclusive read port {read}
-exclusive write port {write}
-single ended read ports 0
-associativity 1
-UCA bank count 1
-technology (u) 0.045
-operating temperature (K) 300
-cache type "ram"
-tag size (b) "default"
-access mode (normal, sequential, fast) - "normal"
-Data array cell type - "itrs-hp"
-Data array peripheral type - "itrs-hp"
-Tag array cell type - "itrs-hp"
-Tag array peripheral type - "itrs-hp"
-design objective (weight delay, dynamic power, leakage power, cycle time, area) 0:0:0:0:100
-deviate (delay, dynamic power, leakage power, cycle time, area) 60:100000:100000:100000:1000000
-NUCAdesign objective (weight delay, dynamic power, leakage power, cycle time, area) 100:100:0:0:100
-NUCAdeviate (delay, dynamic power, leakage power, cycle time, area) 10:10000:10000:10000:10000
-Optimize ED or ED^2 (ED, ED^2, NONE): "ED^2"
-Cache model (NUCA, UCA)  - "UCA"
-NUCA bank count 0
-Core count 8
-Cache level (L2/L3) - "L3"
-Wire signaling (fullswing, lowswing, default) - "Global_30"
-Wire inside mat - "semi-global"
-Wire outside mat - "semi-global"
-Interconnect projection - "conservative"
-Add ECC - "false"
-Print level (DETAILED, CONCISE) - "DETAILED"
-Print input parameters - "false"
-Force cache config - "false"
-Array Power Gating - "false"
-WL Power Gating - "false"
-CL Power Gating - "false"
-Bitline floating - "false"
-Interconnect Power Gating - "false"
-Power Gating Performance Loss 0.01
-page size (bits) 8192
-burst length 8
-internal prefetch width 8
-dram_type "DDR3"
-io state "WRITE"
-addr_timing 1.0
-mem_density 4 Gb
-bus_freq 800 MHz
-duty_cycle 1.0
-activity_dq 1.0
-activity_ca 0.5
-num_dq 72
-num_dqs 18
-num_ca 25
-num_clk 2
-num_mem_dq 2
-mem_data_width 8
-rtt_value 10000
-ron_value 34
-num_bobs 1
-capacity 80
-num_channels_per_bob 1
-first metric "Cost"
-second metric "Bandwidth"
-third metric "Energy"
-DIMM model "ALL"
-mirror_in_bob "F"
"""
"""High-performance transistors at 300 K, the smallest area within 60 % of the least delay. What is
about caches and memories outside the chip, CACTI asks for and does not use here."""


def build(folder: Path) -> Path:
    """Fetch and compile CACTI in `folder`; returns the folder of its program."""
    wheel = files.cache_directory() / "cacti" / "hwcomponents_cacti.whl"
    if not wheel.exists():
        files.fetch_archive(REQUIREMENT, WHEEL_SHA256, wheel)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(
            folder, [name for name in archive.namelist() if name.startswith(_FOLDER)]
        )
    source = folder / _FOLDER
    for built in source.glob("obj_*"):
        for product in built.iterdir():
            product.unlink()
    (source / "cacti").unlink(missing_ok=True)
    run_tool("make", ["make", "opt"], source, _TIMEOUT_S)
    return source


def ask(source: Path, words: int, bits: int, ports: tuple[int, int, int]) -> Sram:
    """What CACTI says of one memory. Raises `ToolError` where it finds none."""
    read, write, either = ports
    octets = -(-bits // 8)
    text = _CONFIGURATION.format(
        size=words * octets,
        block=octets,
        width=8 * octets,
        read=read,
        write=write,
        either=either,
    )
    (source / "memory.cfg").write_text(text, encoding="utf-8")
    run = subprocess.run(
        ["./cacti", "-infile", "memory.cfg"],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )

    def number(label: str) -> list[float]:
        found = re.search(re.escape(label) + r":?\s*([\d.e+-]+)(?: x ([\d.e+-]+))?", run.stdout)
        if not found:
            raise ToolError(f"cacti: says nothing of {words} words of {bits} bits")
        return [float(part) for part in found.groups() if part]

    height_mm, width_mm = number("Cache height x width (mm)")
    return Sram(
        words=words,
        bits=bits,
        shared_port=bool(either),
        area_um2=height_mm * width_mm * 1e6,
        access_ns=number("Access time (ns)")[0],
        read_fj=number("Total dynamic read energy per access (nJ)")[0] * 1e6,
        write_fj=number("Total dynamic write energy per access (nJ)")[0] * 1e6,
        leakage_nw=number("Total leakage power of a bank (mW)")[0] * 1e6,
    )


def table() -> Iterator[Sram]:
    """Every size, with one port and with two, from a CACTI that is built for it."""
    sizes = list(itertools.product(PORTS, WORDS, BITS))
    with (
        tempfile.TemporaryDirectory(prefix="evolute-") as folder,
        shown("asking CACTI", len(sizes)) as progress,
    ):
        source = build(Path(folder))
        for number, (ports, words, bits) in enumerate(sizes, 1):
            yield ask(source, words, bits, ports)
            progress(number)


def main() -> None:
    """Print the table."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for memory in table():
        writer.writerow([f"{getattr(memory, column):.6g}" for column in COLUMNS])


if __name__ == "__main__":
    main()
