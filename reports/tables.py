"""Tables from records, column by column, where each column states what kind of number it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from evolute.reports import frames
from evolute.reports.records import (
    PHASES,
    Record,
    host_layers,
    is_core,
    is_whole,
    labels,
    layer_seconds,
)

if TYPE_CHECKING:
    import pandas

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class PageColumn:
    """A column's title and unit, and the kind of its numbers as a key of `MEANINGS`."""

    title: str
    unit: str = ""
    how: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table of a page: columns, and rows of text with one entry per column."""

    columns: tuple[PageColumn, ...]
    rows: tuple[tuple[str, ...], ...]


Cells: TypeAlias = tuple[PageColumn, Iterable[str]]
"""A column and the text of its cells, from the first row down."""


def page_table(*columns: Cells) -> PageTable:
    """The table of these columns, which are equally long."""
    titles, cells = zip(*columns, strict=True)
    return PageTable(titles, tuple(zip(*cells, strict=True)))


def texts(
    frame: pandas.DataFrame, name: str, shown: Callable[..., str] = str, missing: str = ""
) -> list[str]:
    """The facts of a column as text, made by `shown`; `missing` where a row, or all, lack it."""
    if name not in frame:
        return [missing] * len(frame)
    column = frame[name].astype(object)  # numbers as Python has them
    return [
        shown(fact) if known else missing
        for fact, known in zip(column, column.notna(), strict=True)
    ]


def quantity(value: float, digits: int = 4) -> str:
    """A number for reading: integers with separators of thousands, others with `digits` digits."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.{digits - 1}e}"
    return f"{value:.{digits}g}"


def size(count: float) -> str:
    """A number of bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"


def perplexity_change(record: Record) -> str:
    """Perplexity as shipped and on the engine as text, or a statement that it was not measured."""
    perplexity = record.optional("perplexity")
    if not perplexity:
        return "not measured"
    after = record.number("perplexity.quantized")
    if perplexity["float"] is None:
        return f"{after:.4g}, as shipped unknown"
    return f"{record.number('perplexity.float'):.4g} → {after:.4g}"


def percent(value: float) -> str:
    """A share in percent."""
    return f"{value:.1%}"


def short(value: float) -> str:
    """`quantity` to three digits."""
    return quantity(value, 3)


def left_to_the_host(run: Record) -> str:
    """A title that says which layers the figures of a `sim` record cover."""
    left = host_layers(run)
    if not left:
        return "All linear layers on the accelerator"
    return f"Without {', '.join(left) if len(left) < 4 else f'{len(left)} linear layers'}"


def headlines(runs: Sequence[Record]) -> list[tuple[str, PageTable]]:
    """Tables of `sim` records. Records that leave different layers to the host cannot be compared
    and are in separate tables; so are cores and engines if their labels differ."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for run in runs:
        groups.setdefault((host_layers(run), is_whole(run), *labels(run).values()), []).append(run)
    members = sorted(groups.values(), key=lambda group: len(host_layers(group[0])))
    return [
        (
            f"{left_to_the_host(group[0])}: {'cores' if is_core(group[0]) else 'engines alone'}"
            f"{', whole tokens' if is_whole(group[0]) else ''}",
            _headline(group),
        )
        for group in members
    ]


def _headline(runs: Sequence[Record]) -> PageTable:
    """A table of `sim` records with the same labels; one row per run and phase."""
    how = labels(runs[0])
    frame = frames.table(row for run in runs for row in frames.rows(run))
    first = frame["phase"] == PHASES[0]
    place = frame["accelerator"] + ", " + frame["weights"] + " weights"
    changes = [text for run in runs for text in (perplexity_change(run), *[""] * len(PHASES[1:]))]
    return page_table(
        (PageColumn("run"), frame["model"].where(first, place)),
        (PageColumn("phase"), frame["phase"] + " " + frame["tokens"].map("{:g}".format)),
        (
            PageColumn("speed", "tokens/s", how["tokens_per_s"]),
            texts(frame, "tokens_per_s", quantity),
        ),
        (
            PageColumn("MACs on it", "share", how["mac_share"]),
            texts(frame, "mac_share", percent, "not stated"),
        ),
        (PageColumn("bound by", how=how["bound"]), frame["bound"]),
        (PageColumn("perplexity", how=how["perplexity"]), changes),
        (PageColumn("took", "cycles", how["cycles"]), texts(frame, "cycles", quantity)),
        (PageColumn("utilized", how=how["utilization"]), texts(frame, "utilization", percent)),
        (PageColumn("moved", how=how["dram_bytes"]), texts(frame, "dram_bytes", size)),
    )


def layers(run: Record, phase: str) -> PageTable:
    """A table with one row per kind of layer of a run; times are sums over all layers of that
    kind."""
    how = labels(run, of_layers=True)
    parts = run.parts(f"{phase}.layers")
    frame = frames.table(part.data for part in parts)
    frame["seconds"] = [layer_seconds(run, part) for part in parts]
    for name in ("seconds", "compute_seconds", "memory_seconds"):
        frame[name] *= 1e3 * frame["count"]
    return page_table(
        (PageColumn("layer"), frame["name"]),
        (
            PageColumn(f"outputs {TIMES} inputs"),
            frame["n"].map("{:g}".format) + f" {TIMES} " + frame["k"].map("{:g}".format),
        ),
        (PageColumn("count"), texts(frame, "count", quantity)),
        (
            PageColumn("weights"),
            frame["weights"] + ", groups of " + frame["group"].map("{:g}".format),
        ),
        (PageColumn("cycles", "each", how["cycles"]), texts(frame, "cycles", quantity)),
        (PageColumn("utilization", "", how["utilization"]), texts(frame, "utilization", percent)),
        (PageColumn("moved", "each", how["dram_bytes"]), texts(frame, "dram_bytes", size)),
        (PageColumn("took", "ms in all", how["seconds"]), texts(frame, "seconds", short)),
        (
            PageColumn("computing", "ms in all", how["compute_seconds"]),
            texts(frame, "compute_seconds", short),
        ),
        (
            PageColumn("moving", "ms in all", how["memory_seconds"]),
            texts(frame, "memory_seconds", short),
        ),
        (PageColumn("bound by", how=how["bound"]), frame["bound"]),
    )


def accuracy(records: Sequence[Record]) -> PageTable:
    """A table with one row per `accuracy` record, fewest stored bits first."""
    frame = frames.table(record.data for record in records)
    frame = frame.sort_values(by=["bits_total"], kind="stable")
    other, reference = (
        texts(frame, f"other_{name}", quantity) for name in ("perplexity", "reference_perplexity")
    )
    return page_table(
        (PageColumn("weights"), frame["weights"]),
        (PageColumn("method"), frame["method"]),
        (PageColumn("index", "bits/weight", "exact"), texts(frame, "bits_index", short)),
        (PageColumn("stored", "bits/weight", "exact"), texts(frame, "bits_total", short)),
        (PageColumn("tables", how="exact"), _table_widths(frame)),
        (PageColumn("perplexity", how="measured"), texts(frame, "perplexity", quantity)),
        (PageColumn("as shipped", how="measured"), texts(frame, "reference_perplexity", quantity)),
        (PageColumn("divergence", "nats/token", "measured"), texts(frame, "kl", short)),
        (
            PageColumn("text of another kind", "perplexity, as shipped", "measured"),
            [", ".join(filter(None, pair)) for pair in zip(other, reference, strict=True)],
        ),
    )


def _table_widths(frame: pandas.DataFrame) -> list[str]:
    """The widths of the lookup tables of the engines on which accuracy was measured."""
    engines = texts(frame, "spec.kind")
    widths = texts(frame, "spec.table_bits", "{:g} bits".format, "full width")
    return [width if engine else "no engine" for engine, width in zip(engines, widths, strict=True)]


def front(study: Record) -> PageTable:
    """A table with one row per candidate on the Pareto front of a `dse` record, in the order of the
    first objective."""
    objectives = study.parts("objectives")
    first, on_front = f"metrics.{objectives[0].text('name')}", set(study["front"])
    trials = [trial for trial in study.parts("trials") if trial["number"] in on_front]
    trials.sort(key=lambda trial: trial.number(first))
    frame = frames.table(trial.data for trial in trials)
    return page_table(
        (PageColumn("trial"), texts(frame, "number", quantity)),
        (PageColumn("weights"), texts(frame, "weights")),
        (PageColumn("engine"), [shape(trial["spec"]) for trial in trials]),
        (PageColumn("clock", "MHz"), texts(frame, "metrics.clock_mhz", quantity)),
        *(
            (
                PageColumn(objective.text("title"), objective.text("unit"), objective.text("how")),
                texts(frame, f"metrics.{objective['name']}", quantity),
            )
            for objective in objectives
        ),
        (
            PageColumn("MACs on it", "share", "exact"),
            texts(frame, "metrics.mac_share", percent, "not stated"),
        ),
    )


def compared(record: Record) -> PageTable:
    """A table with one row per engine of a `compare` record that was not refused, best first."""
    frame = frames.table(row for row in record["results"] if row["refused"] is None)
    return page_table(
        (PageColumn("engine"), texts(frame, "name")),
        (PageColumn("steps", "per slice", "exact"), texts(frame, "slice_steps", quantity)),
        (PageColumn("took", "cycles", "exact"), texts(frame, "cycles", quantity)),
        (PageColumn("area", "GE", "synthesized"), texts(frame, "area_ge", quantity)),
        (PageColumn("cells", how="synthesized"), texts(frame, "cells", quantity)),
        (PageColumn("longest path", "ns", "synthesized"), texts(frame, "delay_ns", short)),
        (
            PageColumn("area per MAC/cycle", "µm²", "synthesized"),
            texts(frame, "area_um2_per_mac_per_cycle", quantity),
        ),
        (
            PageColumn(f"area {TIMES} cycles", "of best", "synthesized"),
            texts(frame, "area_cycles_of_best", short),
        ),
        (
            PageColumn("largest difference", "relative", "measured"),
            texts(frame, "max_rel_difference", lambda value: quantity(value, 2)),
        ),
        (
            PageColumn("rounding of activations", "rms", "measured"),
            texts(frame, "activation_error", "{:.3%}".format),
        ),
        (PageColumn("weights", how="modelled"), texts(frame, "weight_bytes", size)),
        (PageColumn("moved in all", how="modelled"), texts(frame, "moved_bytes", size)),
    )


def comparison_setting(record: Record) -> str:
    """Sentences about what the engines of a `compare` record were compared on."""
    sizes = [record.number(f"shape.{name}") for name in ("m", "n", "slice_k")]
    sentences = [
        f"Layer {record.text('layer')} ({record.number('n'):g} {TIMES} {record.number('k'):g}), "
        f"{record.number('rows'):g} token(s) at once, on engines of {sizes[0]:g} {TIMES} "
        f"{sizes[1]:g} {TIMES} {sizes[2]:g} (rows, columns, products of a sum's step), or as many "
        "in all",
        f"Inside the area, as far as an engine has it: {record.text('inside')}",
        f"Outside, the same for all: {record.text('outside')}",
    ]
    sentences += [
        f"The area of {row.text('name')} leaves out memories of "
        f"{quantity(row.number('memory_bits'))} bits"
        for row in record.parts("results")
        if row.optional("memory_bits")
    ]
    sentences += [
        f"Refused: {row.text('name')} ({row.text('refused')})"
        for row in record.parts("results")
        if row["refused"] is not None
    ]
    return ". ".join(sentences) + "."


def shape(spec: dict[str, Any]) -> str:
    """The tile of a lookup engine as one word, such as M1 N32 K4x2, with its table width if it is
    rounded, and its core."""
    if "engine" in spec:
        return f"{shape(spec['engine'])} behind a {spec['bus_bits']}-bit AXI4 port"
    table = f", {spec['table_bits']}-bit tables" if spec.get("table_bits") else ""
    tables = f"{TIMES}{spec['kg']}" if "kg" in spec else ""
    inputs = spec["k"] if "k" in spec else spec["v"]
    return f"M{spec['m']} N{spec['n']} K{inputs}{tables}{table}"


_ORIGIN = ("how", "tools", "seed", "revision")
"""What the provenance of a record states, as far as a page shows it."""


def provenance(records: Iterable[Record]) -> PageTable:
    """A table of where the records on a page come from. Records that only differ in their line
    share a row."""
    facts = []
    for record in records:
        file, _, line = record.origin.rpartition(":")
        place = "/".join(Path(file).parts[-3:])  # a page should not show where its reader lives
        stated = record.optional("provenance") or {}
        origin = {name: _plain(stated.get(name, "not stated")) for name in _ORIGIN}
        facts.append({"file": place, "kind": record.kind, **origin, "lines": int(line)})
    shared = ["file", "kind", *_ORIGIN]
    frame = frames.table(facts).reindex(columns=[*shared, "lines"])
    frame = frame.groupby(shared, sort=False, as_index=False)["lines"].agg(_ranges)
    shown = ("file", "lines", "kind", *_ORIGIN)
    return page_table(*((PageColumn(name), frame[name]) for name in shown))


def _plain(fact: Any) -> str:
    """A fact of a record as text."""
    if isinstance(fact, dict):
        return ", ".join(f"{name} {value}" for name, value in fact.items())
    return "none" if fact is None else str(fact)


def _ranges(lines: pandas.Series) -> str:
    """Line numbers in short: 1, 3-5."""
    lines = lines.sort_values()
    runs = lines.groupby(lines.diff().ne(1).cumsum()).agg(["min", "max"])
    return ", ".join(
        str(first) if first == last else f"{first}-{last}"
        for first, last in runs.itertuples(index=False)
    )


@dataclass(frozen=True)
class Tile:
    """A figure at the top of a page. `how` is a key of `MEANINGS`."""

    name: str
    value: str
    how: str


def _mac_share(run: Record, phase: str) -> str:
    known = run.optional(f"{phase}.mac_share") is not None
    return percent(run.number(f"{phase}.mac_share")) if known else "not stated"


def tiles(run: Record) -> tuple[Tile, ...]:
    """The most important figures of a `sim` record."""
    how = labels(run)
    speeds = [
        Tile(
            f"tokens/s in {phase}, {run.text(f'{phase}.bound')}-bound, with "
            f"{_mac_share(run, phase)} of the linear MACs",
            quantity(run.number(f"{phase}.tokens_per_s")),
            how["tokens_per_s"],
        )
        for phase in PHASES
    ]
    cycles = Tile(
        "cycles per decoded token",
        quantity(run.number("decode.cycles") / run.number("decode.tokens")),
        how["cycles"],
    )
    return (
        *speeds,
        cycles,
        Tile("perplexity, as shipped → on the engine", perplexity_change(run), how["perplexity"]),
    )


def setting(run: Record) -> str:
    """Sentences about what a `sim` record assumes and what was checked."""
    parts = [
        shape(run["spec"]),
        f"{run.number('platform.frequency_hz') / 1e6:g} MHz",
        f"memory bus of {run.number('platform.bandwidth_bytes_per_s') / 1e9:g} GB/s",
    ]
    if run.optional("platform.memory.bytes_per_cycle"):
        parts[-1] += f" ({run.text('platform.memory.bytes_per_cycle')} bytes per cycle)"
    if run.optional("platform.latency_cycles"):
        parts.append(f"{run.number('platform.latency_cycles'):g} cycles from address to data")
    if run.optional("perplexity"):
        tokens, text = run.number("perplexity.tokens"), run.text("perplexity.text")
        parts.append(f"perplexity over {quantity(tokens)} tokens of {text}")
    sentences = [", ".join(parts)]
    sentences.append(left_to_the_host(run))
    if host_layers(run):
        in_them = "with its time" if is_whole(run) else "and not in these figures"
        sentences[-1] += f", left to the host {in_them}"
        if run.optional("host_macs_per_token") is not None:
            sentences[-1] += (
                f": {quantity(run.number('host_macs_per_token'))} MACs "
                f"and {size(run.number('host_bytes_per_token'))} of float32 weights per token"
            )
    if run.optional("recoded"):
        layers, error = run["recoded.layers"], run.number("recoded.relative_error")
        sentences.append(
            f"{len(layers)} linear layers without codes that the engine runs are coded to "
            f"{run.text('recoded.weights')}, relative error of their weights {error:.2g}"
        )
    equal = run.optional("perplexity.tables_equal")
    if equal is not None:
        relation = "equal" if equal else "DIFFER from"
        sentences.append(f"Logits of the golden model {relation} those of integer products")
    sentences.append(_verification(run))
    return ". ".join(sentences) + "."


def _verification(run: Record) -> str:
    if not run.optional("verified"):
        return "This RTL was not verified here when the run was made"
    wrong = run.number("verified.mismatches")
    relation = f"has {quantity(wrong)} mismatches with" if wrong else "equals"
    count, simulator = run.number("verified.transactions"), run.text("verified.simulator")
    return f"The RTL {relation} the golden model in {quantity(count)} transactions ({simulator})"


def study_setting(study: Record) -> str:
    """A sentence about what a `dse` record searched."""
    trials = study.parts("trials")
    pruned = sum(trial["state"] == "pruned" for trial in trials)
    infeasible = sum(trial["state"] == "complete" and not trial["feasible"] for trial in trials)
    front_size = len(study["front"])
    text = f"{len(trials) - pruned} candidates for {study.text('model')}: {front_size} on the front"
    text += f", {pruned} refused" if pruned else ""
    text += f", {infeasible} against a constraint" if infeasible else ""
    if constraints := study["constraints"]:
        text += f" ({', '.join(constraints)})"
    if study.optional("scope") is not None:
        text += f"; speeds are of {study.text('scope')}"
    return f"{text}; hypervolume {study.number('hypervolume'):.4g}."
