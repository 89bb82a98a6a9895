"""Writes the figures of synthesis into the documentation, from the committed records.

    python -m evolute.reports.figures

replaces the text between the marks of each figure; `make figures` synthesizes and measures first.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from pathlib import Path

from evolute.reports.records import Record, load
from evolute.support.files import FileError, write_text

RECORDS = Path(__file__).parent / "data" / "synthesis.jsonl"
DOCS = Path(__file__).resolve().parents[1] / "docs"

_CELLS = {
    "ecp5": ("TRELLIS_COMB", "TRELLIS_FF", "DP16KD", "MULT18X18D"),
    "xilinx": ("lut", "ff", "bram", "dsp"),
    "xilinx-us": ("lut", "ff", "bram", "dsp"),
}
"""What `utilization` calls lookup tables, flip-flops, block memories and multipliers, by target."""

_NAMES = {"ecp5": ("DP16KD", "MULT18"), "xilinx": ("RAMB18", "DSP48")}
"""What a family calls its block memories and multipliers."""


def fpga_table(records: Sequence[Record]) -> str:
    """A table of the resources and the clock of one accelerator on several parts, and of where its
    slowest path lies."""
    placed = [record for record in records if record.optional("fmax_mhz")]
    tools = dict.fromkeys(tool for record in records for tool in record.text("tool").split(", "))
    lines = [
        f"By {' and '.join(tools)}; clocks are those of the core {placed[0].text('fmax_is')}:",
        "",
        "| part | lookup tables | flip-flops | block memories | multipliers | clock |",
        "|---|---|---|---|---|---|",
        *(_fpga_row(record) for record in records),
    ]
    lines += ["", " ".join(_slowest_path(record) for record in placed)]
    return "\n".join(lines)


def _slowest_path(record: Record) -> str:
    """The file of the RTL from which most nets of the slowest path come."""
    hops = record.parts("critical_path")
    files = collections.Counter(
        hop.text("source").partition(":")[0] for hop in hops if hop.optional("source")
    )
    ((file, count),) = files.most_common(1)
    device = record.text("device")
    return f"On {device}, {count} of the slowest path's {len(hops)} nets are of `{file}`."


def _fpga_row(record: Record) -> str:
    target = record.text("target")
    memories, multipliers = _NAMES[target.partition("-")[0]]
    shares = [f"{record.number(f'utilization.{cell}'):.1%}" for cell in _CELLS[target]]
    as_placed = " as placed" if record.optional("fmax_mhz") else ""
    clock = record.optional("fmax_mhz")
    cells = (
        record.text("device"),
        f"{record.number('lut'):,} mapped, {shares[0]}{as_placed}",
        f"{record.number('ff'):,}, {shares[1]}",
        f"{record.number('bram'):,} {memories}, {shares[2]}",
        f"{record.number('dsp'):,} {multipliers}, {shares[3]}",
        f"{clock:.1f} MHz" if clock else "not placed",
    )
    return f"| {' | '.join(cells)} |"


def asic_sentence(record: Record) -> str:
    """A sentence about the area, the largest blocks and the delay of a core in standard cells."""
    total_um2 = record.number("blocks_area_um2")
    blocks = sorted(
        ((block["area_um2"] / total_um2, name) for name, block in record["blocks"].items()),
        reverse=True,
    )
    largest = ", ".join(f"`{name}` {share:.0%}" for share, name in blocks[:3])
    library = record.text("library").partition(" ")[0]
    return (
        f"`{record.text('accelerator')}`: {record.number('area_ge'):,.0f} gates of two inputs in "
        f"{library} ({largest}), {record.number('delay_ns'):.2f} ns before layout, beside "
        f"{record.number('memory_bits'):,} bits in {len(record.parts('memories'))} memories."
    )


def texts(records: Sequence[Record]) -> dict[str, str]:
    """Every text that is made from figures, by its name."""
    chosen = {"core-fpga": [], "core-decode asic": []}
    for record in records:
        asic = " asic" if record.text("target") == "asic" else ""
        chosen[record.text("accelerator") + asic].append(record)
    (asic,) = chosen["core-decode asic"]
    return {"core-fpga": fpga_table(chosen["core-fpga"]), "core-decode asic": asic_sentence(asic)}


def filled(page: str, pieces: dict[str, str]) -> str:
    """`page` with every text between its marks, `<!-- figures: NAME -->` and `<!-- end of figures
    -->`. Raises `FileError` for a mark with an unknown name."""

    def piece(mark: re.Match[str]) -> str:
        name = mark[1]
        if name not in pieces:
            raise FileError(f"no figures are called {name!r}, only {', '.join(pieces)}")
        return f"<!-- figures: {name} -->\n{pieces[name]}\n<!-- end of figures -->"

    return re.sub(
        r"<!-- figures: ([^>]*?) -->\n.*?<!-- end of figures -->", piece, page, flags=re.DOTALL
    )


def main() -> None:
    """Write the figures of all pages again."""
    pieces = texts(load([RECORDS]))
    for path in sorted(DOCS.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        filled_page = filled(page, pieces)
        if filled_page != page:
            write_text(path, filled_page)


if __name__ == "__main__":
    main()
