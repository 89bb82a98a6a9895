"""Tables from records: rows of text, where each column states what kind of number it holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolute.reports.records import (
    PHASES,
    Record,
    host_layers,
    is_core,
    is_whole,
    labels,
    layer_seconds,
)

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Column:
    """A column's title and unit, and the kind of its numbers as a key of `MEANINGS`."""

    title: str
    unit: str = ""
    how: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table of a page: columns, and rows of text with one entry per column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


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
    quantized = record.number("perplexity.quantized")
    if perplexity["float"] is None:
        return f"{quantized:.4g}, as shipped unknown"
    return f"{record.number('perplexity.float'):.4g} → {quantized:.4g}"


def share(record: Record, path: str) -> str:
    """The share at `path` in percent, or a statement that the record does not have it."""
    return "not stated" if record.optional(path) is None else f"{record.number(path):.1%}"


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
    columns = (
        Column("run"),
        Column("phase"),
        Column("speed", "tokens/s", how["tokens_per_s"]),
        Column("MACs on it", "share", how["mac_share"]),
        Column("bound by", how=how["bound"]),
        Column("perplexity", how=how["perplexity"]),
        Column("took", "cycles", how["cycles"]),
        Column("utilized", how=how["utilization"]),
        Column("moved", how=how["dram_bytes"]),
    )
    rows = []
    for run in runs:
        for phase in PHASES:
            first = phase == PHASES[0]
            tokens = run.number(f"{phase}.tokens")
            rows.append(
                (
                    run.text("model")
                    if first
                    else f"{run.text('accelerator')}, {run.text('weights')} weights",
                    f"{phase} {tokens:g}",
                    quantity(run.number(f"{phase}.tokens_per_s")),
                    share(run, f"{phase}.mac_share"),
                    run.text(f"{phase}.bound"),
                    perplexity_change(run) if first else "",
                    quantity(run.number(f"{phase}.cycles")),
                    f"{run.number(f'{phase}.utilization'):.1%}",
                    size(run.number(f"{phase}.dram_bytes")),
                )
            )
    return PageTable(columns, tuple(rows))


def layers(run: Record, phase: str) -> PageTable:
    """A table with one row per kind of layer of a run; times are sums over all layers of that
    kind."""
    how = labels(run, of_layers=True)
    columns = (
        Column("layer"),
        Column(f"outputs {TIMES} inputs"),
        Column("count"),
        Column("weights"),
        Column("cycles", "each", how["cycles"]),
        Column("utilization", "", how["utilization"]),
        Column("moved", "each", how["dram_bytes"]),
        Column("took", "ms in all", how["seconds"]),
        Column("computing", "ms in all", how["compute_seconds"]),
        Column("moving", "ms in all", how["memory_seconds"]),
        Column("bound by", how=how["bound"]),
    )
    rows = []
    for layer in run.parts(f"{phase}.layers"):
        count = layer.number("count")
        rows.append(
            (
                layer.text("name"),
                f"{layer.number('n'):g} {TIMES} {layer.number('k'):g}",
                quantity(count),
                f"{layer.text('weights')}, groups of {layer.number('group'):g}",
                quantity(layer.number("cycles")),
                f"{layer.number('utilization'):.1%}",
                size(layer.number("dram_bytes")),
                quantity(1e3 * count * layer_seconds(run, layer), 3),
                quantity(1e3 * count * layer.number("compute_seconds"), 3),
                quantity(1e3 * count * layer.number("memory_seconds"), 3),
                layer.text("bound"),
            )
        )
    return PageTable(columns, tuple(rows))


def accuracy(records: Sequence[Record]) -> PageTable:
    """A table with one row per `accuracy` record, fewest stored bits first."""
    columns = (
        Column("weights"),
        Column("method"),
        Column("index", "bits/weight", "exact"),
        Column("stored", "bits/weight", "exact"),
        Column("tables", how="exact"),
        Column("perplexity", how="measured"),
        Column("as shipped", how="measured"),
        Column("divergence", "nats/token", "measured"),
        Column("text of another kind", "perplexity, as shipped", "measured"),
    )
    ordered = sorted(records, key=lambda record: record.number("bits_total"))
    rows = tuple(
        (
            record.text("weights"),
            record.text("method"),
            quantity(record.number("bits_index"), 3),
            quantity(record.number("bits_total"), 3),
            _table_width(record),
            quantity(record.number("perplexity")),
            *(
                "" if record.optional(name) is None else quantity(record.number(name), digits)
                for name, digits in (("reference_perplexity", 4), ("kl", 3))
            ),
            _other_text(record),
        )
        for record in ordered
    )
    return PageTable(columns, rows)


def _other_text(record: Record) -> str:
    """Perplexity on text of another kind than the calibration text, and that of the model as
    shipped."""
    if record.optional("other_perplexity") is None:
        return ""
    names = ("other_perplexity", "other_reference_perplexity")
    return ", ".join(quantity(record.number(name)) for name in names)


def _table_width(record: Record) -> str:
    """The width of the lookup tables of the engine on which accuracy was measured, if there was
    one."""
    if record.optional("spec") is None:
        return "no engine"
    bits = record.optional("spec.table_bits")
    return f"{bits} bits" if bits else "full width"


def front(study: Record) -> PageTable:
    """A table with one row per candidate on the Pareto front of a `dse` record, in the order of the
    first objective."""
    objectives = study.parts("objectives")
    columns = [Column("trial"), Column("weights"), Column("engine"), Column("clock", "MHz")]
    columns += [
        Column(objective.text("title"), objective.text("unit"), objective.text("how"))
        for objective in objectives
    ]
    columns.append(Column("MACs on it", "share", "exact"))
    on_front = set(study["front"])
    trials = [member for member in study.parts("trials") if member["number"] in on_front]
    trials.sort(key=lambda member: member.number(f"metrics.{objectives[0].text('name')}"))
    rows = tuple(
        (
            quantity(trial.number("number")),
            trial.text("weights"),
            shape(trial["spec"]),
            quantity(trial.number("metrics.clock_mhz")),
            *(quantity(trial.number(f"metrics.{objective['name']}")) for objective in objectives),
            share(trial, "metrics.mac_share"),
        )
        for trial in trials
    )
    return PageTable(tuple(columns), rows)


def compared(record: Record) -> PageTable:
    """A table with one row per engine of a `compare` record that was not refused, best first."""
    columns = (
        Column("engine"),
        Column("steps", "per slice", "exact"),
        Column("took", "cycles", "exact"),
        Column("area", "GE", "synthesized"),
        Column("cells", how="synthesized"),
        Column("longest path", "ns", "synthesized"),
        Column("area per MAC/cycle", "µm²", "synthesized"),
        Column(f"area {TIMES} cycles", "of best", "synthesized"),
        Column("largest difference", "relative", "measured"),
        Column("rounding of activations", "rms", "measured"),
        Column("weights", how="modelled"),
        Column("moved in all", how="modelled"),
    )
    rows = tuple(
        (
            row.text("name"),
            quantity(row.number("slice_steps")),
            quantity(row.number("cycles")),
            quantity(row.number("area_ge")),
            quantity(row.number("cells")),
            quantity(row.number("delay_ns"), 3),
            *(
                "" if row.optional(name) is None else quantity(row.number(name), digits)
                for name, digits in (("area_um2_per_mac_per_cycle", 4), ("area_cycles_of_best", 3))
            ),
            quantity(row.number("max_rel_difference"), 2),
            f"{row.number('activation_error'):.3%}",
            size(row.number("weight_bytes")),
            size(row.number("moved_bytes")),
        )
        for row in record.parts("results")
        if row["refused"] is None
    )
    return PageTable(columns, rows)


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
    return f"M{spec['m']} N{spec['n']} K{spec['k']}{tables}{table}"


def provenance(records: Iterable[Record]) -> PageTable:
    """A table of where the records on a page come from. Records that only differ in their line
    share a row."""
    columns = tuple(
        Column(title) for title in ("file", "lines", "kind", "how", "tools", "seed", "revision")
    )
    lines: dict[tuple[str, ...], list[int]] = {}
    for record in records:
        file, _, line = record.origin.rpartition(":")
        stated = record.optional("provenance") or {}
        facts = (
            _plain(stated[name]) if name in stated else "not stated"
            for name in ("how", "tools", "seed", "revision")
        )
        place = "/".join(Path(file).parts[-3:])  # a page should not show where its reader lives
        lines.setdefault((place, record.kind, *facts), []).append(int(line))
    return PageTable(
        columns, tuple((place, _ranges(at), *rest) for (place, *rest), at in lines.items())
    )


def _plain(fact: Any) -> str:
    """A fact of a record as text."""
    if isinstance(fact, dict):
        return ", ".join(f"{name} {value}" for name, value in fact.items())
    return "none" if fact is None else str(fact)


def _ranges(numbers: Sequence[int]) -> str:
    """Line numbers in short: 1, 3-5."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in parts)


@dataclass(frozen=True)
class Tile:
    """A figure at the top of a page. `how` is a key of `MEANINGS`."""

    name: str
    value: str
    how: str


def tiles(run: Record) -> tuple[Tile, ...]:
    """The most important figures of a `sim` record."""
    how = labels(run)
    speeds = [
        Tile(
            f"tokens/s in {phase}, {run.text(f'{phase}.bound')}-bound, with "
            f"{share(run, f'{phase}.mac_share')} of the linear MACs",
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
