"""Writes docs/contexts.md and docs/contexts.svg: cores on three models, tokens/s against context.

    python docs/contexts.py

Everything is computed anew, from the sizes of the models; `make docs` runs it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

import evolute

MODELS = ("smollm2-360m", "llama-3.2-1b", "phi-3-mini-128k")
CONTEXTS = (256, 1024, 4096, 16384, 65536)
CORES = {
    "core-decode": ("w4g32", "#0b57b0", "o"),
    "core-prefill": ("w4g32", "#1b7a2b", "s"),
    "core-fpga": ("w4g64", "#56606b", "v"),
    "core-fp16": ("w4g32", "#6a3fb5", "D"),
    "core-bitmod": ("b4g128", "#9a4f00", "^"),
    "core-bitmod-serial": ("b4g128", "#b3261e", "<"),
    "core-mac": ("w4g32", "#007a87", ">"),
}
"""Every core that holds the output head: weights that it runs, and its colour and marker. Cores of
codebooks and of tables leave the head to the host, so that their speeds are not of whole tokens;
one with steps that depend on weights has no speed without these."""
LANES, ROWS = 4, 4
STYLE = {
    "font.size": 10,
    "svg.hashsalt": "contexts",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
}
Speeds = dict[str, dict[str, list[float]]]
"""Tokens/s of every model on every core, a number for each context that the model allows."""


def speeds(models: Sequence[str] = MODELS) -> Speeds:
    """Tokens/s of whole tokens, with a cache of 8 bits and the default memory."""
    return {
        model: {core: _curve(model, core, weights) for core, (weights, *_) in CORES.items()}
        for model in models
    }


def _curve(model: str, core: str, weights: str) -> list[float]:
    shape = evolute.zoo_entry(model).shape
    assert isinstance(shape, evolute.ModelShape)
    spec = evolute.preset(core).spec
    assert isinstance(spec, evolute.CoreSpec)
    spec = spec.evolve(vector_lanes=LANES, attention_rows=ROWS)
    contexts = tuple(context for context in CONTEXTS if context <= shape.context)
    cache = evolute.CacheFormat("int8", bits=8, scale_bits=16)
    platform = evolute.Platform(frequency_hz=spec.clock_mhz * 1e6)
    request = evolute.Request(evolute.Serving(1, contexts=contexts, cache=cache), platform)
    formats = evolute.parse_format("weights", weights), evolute.head_format(None, spec)
    result = evolute.simulate_shape(shape, *formats, spec, request)
    return [point.tokens_per_s for point in result.metrics.curve]


@mpl.rc_context(STYLE)
def picture(found: Speeds) -> str:
    """A panel for each model, a line for each core."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    for axis, (model, cores) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        for core, points in cores.items():
            _, colour, marker = CORES[core]
            x = CONTEXTS[: len(points)]
            axis.plot(
                x, points, color=colour, marker=marker, markersize=4, linewidth=1.2, label=core
            )
        axis.set_xscale("log", base=4)
        axis.set_yscale("log")
        axis.set_xticks(CONTEXTS, ["256", "1k", "4k", "16k", "64k"])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("tokens in the cache")
        axis.set_title(model, loc="left", fontsize=11)
    figure.axes[0].set_ylabel("tokens/s, whole token (modelled)")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def table(model: str, cores: dict[str, list[float]]) -> str:
    """A model's speeds in Markdown."""
    titles = " | ".join(f"{context:,}" for context in CONTEXTS)
    lines = [f"| {model} | weights | {titles} |", "|---|---|" + "---:|" * len(CONTEXTS)]
    for core, points in cores.items():
        numbers = [f"{point:.3g}" for point in points]
        cells = " | ".join([*numbers, *["-"] * (len(CONTEXTS) - len(numbers))])
        lines.append(f"| {core} | {CORES[core][0]} | {cells} |")
    return "\n".join(lines) + "\n"


def page(found: Speeds) -> str:
    """The page in Markdown."""
    tables = "\n".join(table(model, cores) for model, cores in found.items())
    return (
        "# Which core is how fast, at which context?\n\n"
        "The tables show how many whole tokens per second each core decodes for one sequence. A "
        "column's title is the number of tokens that are in the cache at that time. Each of the "
        f"{len(CORES)} cores has {LANES} vector lanes and {ROWS} attention rows, runs at its own "
        "clock, and has a memory of 6.4 GB/s; the cache holds keys and values in 8 bits, and the "
        "output head is in the widest integers that the core runs. Cycles of the linear layers are "
        "exact, those of vector operations and attention are modelled "
        "([whole_token.md](whole_token.md)).\n\n"
        "![Tokens per second against tokens in the cache, a panel for each model and a line for "
        "each core](contexts.svg)\n\n"
        f"{tables}\n"
        "Cores for codebooks or tables leave the output head to the host, so their speeds are not "
        "those of whole tokens. The steps of `core-skip` depend on weights, and these models have "
        "none here. `make docs` computes this page again.\n"
    )


def main() -> None:
    found, here = speeds(), Path(__file__).parent
    (here / "contexts.md").write_text(page(found), encoding="utf-8")
    (here / "contexts.svg").write_text(picture(found), encoding="utf-8")


if __name__ == "__main__":
    main()
