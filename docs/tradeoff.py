"""Draws docs/tradeoff.svg, the README's picture, from the records in docs/tradeoff.jsonl.

    python docs/tradeoff.py > docs/tradeoff.svg

`make tradeoff` measures anew: `evolute sim` of one model on one core, with weights of several
widths, rounded to nearest or quantized by GPTQ.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

RECORDS = Path(__file__).parent / "tradeoff.jsonl"
MODEL = "smollm2-135m"
SERIES = {
    "rounded to nearest": ("#9a4f00", "s", (-7, 4), "right"),
    "GPTQ, grids clipped": ("#0b57b0", "o", (8, -6), "left"),
    "as the file has them": ("#1b7a2b", "D", (-3, -17), "center"),
}
"""For each line its colour and marker, and where a point's label lies: offset and alignment."""
STYLE = {
    "font.size": 10,
    "svg.hashsalt": "tradeoff",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def series_of(record: dict) -> str:
    """Which line a record belongs to."""
    if record["model"] != MODEL:  # a folder that `evolute quantize` made, named after its method
        return "GPTQ, grids clipped"
    return "as the file has them" if record["weights"] == "native" else "rounded to nearest"


@mpl.rc_context(STYLE)
def picture(records: list[dict]) -> str:
    """Perplexity against tokens per second, a point for each choice of weights."""
    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    axis = figure.subplots()
    first = records[0]
    shipped = first["perplexity"]["float"]
    axis.axhline(shipped, color="#56606b", linestyle=":", linewidth=1.2)
    for name, (colour, marker, offset, alignment) in SERIES.items():
        own = sorted(
            (each for each in records if series_of(each) == name),
            key=lambda each: each["bits_total"],
        )
        x = [each["decode"]["tokens_per_s"] for each in own]
        y = [each["perplexity"]["quantized"] for each in own]
        axis.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1.3, label=name)
        for each, left, up in zip(own, x, y, strict=True):
            axis.annotate(
                f"{each['bits_total']:.1f} bits",
                (left, up),
                textcoords="offset points",
                xytext=offset,
                ha=alignment,
                color=colour,
                fontsize=9,
            )
    axis.set_yscale("log")
    axis.set_ylim(10, 100)
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks([10, 20, 50, 100], ["10", "20", "50", "100"])
    low, high = axis.get_xlim()
    axis.set_xlim(low - 0.13 * (high - low), high + 0.1 * (high - low))
    axis.annotate(
        f"as shipped: {shipped:.1f}",
        (axis.get_xlim()[0], shipped),
        textcoords="offset points",
        xytext=(4, -12),
        color="#56606b",
        fontsize=9,
    )
    memory = first["platform"]["bandwidth_bytes_per_s"] / 1e9
    axis.set_xlabel("decoded tokens/s (linear layers; cycles exact)")
    axis.set_ylabel("perplexity (lower is better)")
    axis.set_title(f"{MODEL} on {first['accelerator']}, {memory:g} GB/s", loc="left", fontsize=11)
    axis.legend(frameon=False, loc="upper left", fontsize=9)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def main() -> None:
    lines = RECORDS.read_text(encoding="utf-8").splitlines()
    sys.stdout.write(picture([json.loads(line) for line in lines]))


if __name__ == "__main__":
    main()
