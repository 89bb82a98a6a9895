"""Pictures from records: each function returns one self-contained SVG, equal for equal records."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from evolute.reports import operations
from evolute.reports.records import PHASES, Record, is_core, layer_seconds
from evolute.reports.tables import TIMES

GROUP_COLORS: dict[str, str] = dict(
    zip(operations.GROUPS, ("#0b6e99", "#c4501b", "#3f7d20", "#9aa0a8"), strict=True)
)
PHASE_COLORS = {"prefill": "#0b6e99", "decode": "#c4501b"}
COMPUTE, MEMORY, TAKEN = "#0b6e99", "#e0a030", "#c9ced6"
SERIES_COLORS = ("#0b6e99", "#c4501b", "#3f7d20", "#8a3ea8", "#6b6b6b", "#b8860b")
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#2a2e35",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "xtick.color": "#4a4f58",
    "ytick.color": "#4a4f58",
    "grid.color": "#e4e7eb",
    "legend.frameon": False,
    "svg.fonttype": "none",  # real text: readable, searchable, small
}


def _svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element. `name` keeps its ids distinct from those of other figures
    on the page."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figure(width: float, height: float, columns: int = 1) -> Figure:
    """A figure of `width` by `height` inches, with axes side by side that share their vertical
    scale."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.subplots(1, columns, sharey=True)
    return figure


def _plain(value: float, _position: object = None) -> str:
    """A number for an axis, such as 0.25, 40, 8k, 2M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers between two others, for a logarithmic scale."""
    decades = np.log10(high / low)
    steps = (1,) if decades > 3 else (1, 3) if decades > 1.7 else (1, 2, 5)
    if decades < 0.5:
        steps = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _log_axis(axis: Axes, axis_name: str, low: float, high: float) -> None:
    """Make an axis logarithmic, with plain numbers as labels, even over a short range."""
    getattr(axis, f"set_{axis_name}scale")("log")
    getattr(axis, f"set_{axis_name}lim")(low, high)
    line = getattr(axis, f"{axis_name}axis")
    line.set_ticks(_ticks(low, high))
    line.set_major_formatter(FuncFormatter(_plain))
    line.set_minor_formatter(NullFormatter())


@mpl.rc_context(_STYLE)
def roofline(record: Record) -> str:
    """Multiply-accumulates per second of every layer against its multiply-accumulates per byte
    moved.

    Flat roofs are the engine's peak, one for each weight format of the model, taken from each
    layer's utilization. Slopes are the memory's bandwidth and, for a core, what its port takes per
    cycle; the lower one is the limit.
    """
    figure = _figure(7.4, 4.1)
    axis = figure.axes[0]
    bandwidth = record.number("platform.bandwidth_bytes_per_s")
    frequency = record.number("platform.frequency_hz")
    points: list[tuple[str, str, float, float]] = []
    peaks: dict[str, float] = {}
    for phase in PHASES:
        for layer in record.parts(f"{phase}.layers"):
            macs, name = layer.number("macs"), layer.text("name")
            cycles = layer.number("cycles")
            attained = macs / layer_seconds(record, layer)
            points.append((phase, name, macs / layer.number("dram_bytes"), attained))
            used_cycles = cycles * layer.number("utilization")
            peaks[layer.text("weights")] = macs / used_cycles * frequency
    slopes = {f"memory, {bandwidth / 1e9:.3g} GB/s": bandwidth}
    if is_core(record):
        port = record.number("spec.bus_bits") / 8 * frequency
        slopes[f"the core's port, {port / 1e9:.3g} GB/s"] = port
    bandwidth = min(slopes.values())
    x = np.array([point[2] for point in points])
    y = np.array([point[3] for point in points])
    low = min(x.min(), min(peaks.values()) / max(slopes.values())) / 2
    high = x.max() * 4
    high = max(high, 4 * max(peaks.values()) / bandwidth)
    bottom, top = y.min() / 3, max(peaks.values()) * 2.5
    _log_axis(axis, "x", low, high)
    _log_axis(axis, "y", bottom, top)
    axis.grid(True)
    for (name, slope), style in zip(slopes.items(), ("-", (0, (4, 2))), strict=False):
        start, ridge = max(low, bottom / slope), max(peaks.values()) / slope
        ends = [start * slope, ridge * slope]
        color = "#4a4f58" if slope == bandwidth else "#9aa0a8"
        axis.plot([start, ridge], ends, color=color, ls=style, lw=1.4, label=name)
    for name, peak in peaks.items():
        axis.plot([peak / bandwidth, high], [peak, peak], color="#4a4f58", lw=1.4)
        axis.annotate(
            f"engine peak, {name}: {peak / 1e9:.3g} GMAC/s",
            (high, peak),
            xytext=(-2, 7),
            textcoords="offset points",
            ha="right",
        )
    for phase in PHASES:
        mine = [index for index, point in enumerate(points) if point[0] == phase]
        axis.scatter(
            x[mine],
            y[mine],
            s=34,
            color=PHASE_COLORS[phase],
            edgecolor="white",
            lw=0.7,
            label=phase,
            zorder=3,
        )
    _label_clusters(axis, points)
    axis.set_xlabel("arithmetic intensity (MAC per byte moved)")
    axis.set_ylabel("attained rate (MAC/s)")
    axis.legend(loc="lower right", handlelength=1.2)
    return _svg(figure, f"roofline {record.origin}")


def _label_clusters(axis: Axes, points: Sequence[tuple[str, str, float, float]]) -> None:
    """Name the points. Points that are too close for separate names share one."""
    width = np.subtract(*np.log(axis.get_xlim())[::-1])
    height = np.subtract(*np.log(axis.get_ylim())[::-1])
    clusters: list[list[tuple[str, str, float, float]]] = []
    for point in sorted(points, key=lambda member: (member[0], -member[3])):
        for cluster in clusters:
            phase, _, x, y = cluster[0]
            near = abs(np.log(point[2] / x)) < 0.16 * width
            if point[0] == phase and near and abs(np.log(point[3] / y)) < 0.055 * height:
                cluster.append(point)
                break
        else:
            clusters.append([point])
    for cluster in clusters:
        names = ", ".join(point[1] for point in points if point in cluster)
        x = min(point[2] for point in cluster)
        y = min(point[3] for point in cluster)
        axis.annotate(
            names,
            (x, y),
            xytext=(5, -5),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
            color=PHASE_COLORS[cluster[0][0]],
        )


@mpl.rc_context(_STYLE)
def layer_time(record: Record) -> str:
    """Time of every kind of layer for the prompt and for one token: the whole time, and in it
    computing and moving data."""
    kinds = len(record.parts("prefill.layers"))
    figure = _figure(7.4, 1.1 + 0.34 * kinds, 2)
    for axis, phase in zip(figure.axes, PHASES, strict=True):
        layers = record.parts(f"{phase}.layers")
        seconds_of_layers = [
            layer_seconds(record, layer) * layer.number("count") for layer in layers
        ]
        unit, per_second = _time_unit(max(seconds_of_layers))
        rows = np.arange(len(layers))
        lengths = [per_second * seconds for seconds in seconds_of_layers]
        axis.barh(rows, lengths, height=0.84, color=TAKEN, label="takes")
        for shift, name, color, text in (
            (-0.18, "compute_seconds", COMPUTE, "computing"),
            (0.18, "memory_seconds", MEMORY, "moving data"),
        ):
            times = [per_second * layer.number(name) * layer.number("count") for layer in layers]
            axis.barh(rows + shift, times, height=0.28, color=color, label=text)
        names = [f"{layer.text('name')} {TIMES}{layer.number('count'):g}" for layer in layers]
        axis.set_yticks(rows, names)
        axis.tick_params(axis="y", length=0)
        axis.grid(True, axis="x")
        axis.set_title(f"{phase}: {record.text(f'{phase}.bound')}-bound")
        tokens = record.number(f"{phase}.tokens")
        span = f"prompt of {tokens:g} tokens" if phase == "prefill" else "token"
        axis.set_xlabel(f"{unit} per {span}")
    figure.axes[0].invert_yaxis()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3)
    return _svg(figure, f"layers {record.origin}")


@mpl.rc_context(_STYLE)
def token_time(record: Record) -> str:
    """A bar per phase that shows where the time of a pass goes: linear layers, attention, vector
    operations and the host. A group whose seconds are not known is named but has no length."""
    figure = _figure(7.4, 1.7, 2)
    named: dict[str, Any] = {}
    for axis, phase in zip(figure.axes, PHASES, strict=True):
        shares, count = operations.shares(record, phase), operations.passes(record, phase)
        timed = [share for share in shares if share.seconds is not None]
        total_seconds = sum(share.seconds or 0 for share in timed) / count
        unit, per_second = _time_unit(total_seconds)
        left = 0.0
        for share in shares:
            length = per_second * (share.seconds or 0) / count
            title = share.group if share.seconds is not None else f"{share.group}: not known"
            color = GROUP_COLORS[share.group]
            named[title] = axis.barh([0], [length], left=left, height=0.6, color=color)
            left += length
        axis.set_yticks([])
        axis.set_xlim(0, left * 1.02 or 1)
        axis.grid(True, axis="x")
        axis.spines["left"].set_visible(False)
        axis.set_title(phase)
        axis.set_xlabel(f"{unit} per {'prompt' if phase == 'prefill' else 'pass of one token'}")
    figure.legend(named.values(), named.keys(), loc="outside upper right", ncols=len(named))
    return _svg(figure, f"token {record.origin}")


@mpl.rc_context(_STYLE)
def speed_by_context(record: Record) -> str:
    """Tokens per second of decoding against the number of tokens in the cache."""
    figure = _figure(7.4, 3.2)
    axis = figure.axes[0]
    points = sorted(
        (point.number("context"), point.number("tokens_per_s")) for point in record.parts("curve")
    )
    contexts, speeds = zip(*points, strict=True)
    axis.plot(contexts, speeds, color=PHASE_COLORS["decode"], marker="o", lw=1.4)
    if min(contexts) > 0 and max(contexts) > 8 * min(contexts):
        axis.set_xscale("log", base=2)
        axis.set_xticks(contexts)
        axis.minorticks_off()
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_ylim(0, max(speeds) * 1.12)
    for context, speed in points:
        axis.annotate(
            f"{speed:.3g}",
            (context, speed),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
        )
    axis.grid(True)
    axis.set_xlabel("tokens in the cache")
    axis.set_ylabel(f"tokens/s, {record.text('decode.scope')}")
    return _svg(figure, f"contexts {record.origin}")


def _time_unit(longest: float) -> tuple[str, float]:
    """A suitable unit for times up to `longest` seconds, and the number of these units in a
    second."""
    for unit, per_second in (("s", 1.0), ("ms", 1e3)):
        if longest * per_second >= 0.5:
            return unit, per_second
    return "µs", 1e6


@mpl.rc_context(_STYLE)
def perplexity_by_bits(records: Sequence[Record], methods: Sequence[str]) -> str:
    """Perplexity against stored bits per weight, for records with the same model, text and length.

    Each of `methods` always has the same color and marker. The model as shipped is a horizontal
    line and not a point, because its bits are not those of the engine.
    """
    figure = _figure(9.2, 3.7)
    axis = figure.axes[0]
    references = [record.optional("reference_perplexity") for record in records]
    shipped = next((value for value in references if value is not None), None)
    points = [point for point in records if point.text("weights") != "float"]
    values = [point.number("perplexity") for point in points]
    values += [] if shipped is None else [shipped]
    room = max(1.4, (max(values) / min(values)) ** 0.13)
    _log_axis(axis, "y", min(values) / room, max(values) * 1.4)
    bits = [point.number("bits_total") for point in points]
    axis.set_xlim(min([1.0, *(width - 0.2 for width in bits)]), max([2.0, *bits]) + 0.9)
    axis.grid(True)
    labels: list[tuple[str, float, float, str]] = []
    styles = zip(itertools.cycle(SERIES_COLORS), itertools.cycle(SERIES_MARKERS), strict=False)
    for method, (color, marker) in zip(methods, styles, strict=False):
        mine = [point for point in points if point.text("method") == method]
        if not mine:
            continue
        mine.sort(key=lambda point: point.number("bits_total"))
        axis.plot(
            [point.number("bits_total") for point in mine],
            [point.number("perplexity") for point in mine],
            color=color,
            marker=marker,
            ms=5,
            lw=1.1,
            label=method,
        )
        for point in mine:
            rounded = point.optional("spec.table_bits")
            name = point.text("weights") + (f" T{rounded}" if rounded else "")
            labels.append((name, point.number("bits_total"), point.number("perplexity"), color))
    if shipped is not None:
        axis.axhline(shipped, color="#4a4f58", ls=(0, (4, 3)), lw=1)
        axis.annotate(
            f"as shipped: {shipped:.4g}",
            (0, shipped),
            xycoords=("axes fraction", "data"),
            xytext=(4, -4),
            textcoords="offset points",
            va="top",
        )
    axis.set_xlabel("stored bits per weight, scales included")
    axis.set_ylabel("perplexity")
    figure.legend(loc="outside right upper")
    _label_points(axis, labels)
    return _svg(figure, f"bits {records[0].origin}")


def _label_points(axis: Axes, labels: Sequence[tuple[str, float, float, str]]) -> None:
    """Name points (text, x, y, color) where there is room beside them; others stay unnamed."""
    size, height = 7.5, 9.0
    axis.figure.draw_without_rendering()  # type: ignore[union-attr]  # settles the layout
    points = 72 / axis.figure.dpi
    x_low, y_low, x_high, y_high = np.array(axis.bbox.extents) * points
    centers = axis.transData.transform([(x, y) for _, x, y, _ in labels]) * points
    boxes = [(x - 3, y - 3, x + 3, y + 3) for x, y in centers]
    for (text, x, y, color), (left, bottom) in zip(labels, centers, strict=True):
        width = 0.62 * size * len(text)
        for right, up in (
            (5, 4),
            (5, -12),
            (-5 - width, 4),
            (-5 - width, -12),
            (-4, 13),
            (-4, -21),
        ):
            box = (left + right, bottom + up, left + right + width, bottom + up + height)
            inside = x_low < box[0] and box[2] < x_high and y_low < box[1] and box[3] < y_high
            if not inside or any(
                box[0] < placed[2]
                and placed[0] < box[2]
                and box[1] < placed[3]
                and placed[1] < box[3]
                for placed in boxes
            ):
                continue
            boxes.append(box)
            axis.annotate(
                text,
                (x, y),
                xytext=(right, up + 2),
                textcoords="offset points",
                fontsize=size,
                color=color,
            )
            break


@mpl.rc_context(_STYLE)
def explored(record: Record) -> str:
    """Every candidate of a study: the first objective against the second, colored by the third."""
    figure = _figure(7.4, 4.1)
    axis = figure.axes[0]
    objectives = record.parts("objectives")
    trials = [trial for trial in record.parts("trials") if trial["state"] == "complete"]
    front = set(record["front"])
    x, y, *rest = (
        np.array([trial.number(f"metrics.{objective['name']}") for trial in trials])
        for objective in objectives
    )
    colors = rest[0] if rest else np.full(len(trials), np.nan)
    on_front = np.array([trial["number"] in front for trial in trials])
    feasible = np.array([trial["feasible"] for trial in trials])
    norm = LogNorm(colors.min(), colors.max()) if rest and np.ptp(colors) else None
    for chosen, size, edge, label in (
        (~on_front & feasible, 30, "#b9bec6", "dominated"),
        (on_front, 74, "#1b1f24", "Pareto front"),
    ):
        if chosen.any():
            tint = {"c": colors[chosen], "cmap": "viridis", "norm": norm} if rest else {}
            axis.scatter(x[chosen], y[chosen], s=size, ec=edge, lw=0.9, label=label, **tint)
    if (~feasible).any():
        axis.scatter(
            x[~feasible], y[~feasible], s=26, marker="x", color="#9aa0a8", label="infeasible"
        )
    for which, values in (("x", x), ("y", y)):
        _log_axis(axis, which, values.min() / 1.3, values.max() * 1.3)
    axis.grid(True)
    for chosen, name in ((0, "x"), (1, "y")):
        getattr(axis, f"set_{name}label")(_objective_label(objectives[chosen]))
    if rest and norm and feasible.any():
        bar = figure.colorbar(axis.collections[0], ax=axis, pad=0.01)
        bar.set_label(_objective_label(objectives[2]))
        bar.set_ticks(_ticks(colors.min(), colors.max()))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(_plain))
        bar.ax.minorticks_off()
        bar.outline.set_visible(False)
    axis.legend(loc="best")
    return _svg(figure, f"dse {record.origin}")


def _objective_label(objective: Record) -> str:
    better = "lower is better" if objective["direction"] == "minimize" else "higher is better"
    parts = [part for part in (objective.text("unit"), better) if part]
    return f"{objective.text('title')} ({', '.join(parts)})"
