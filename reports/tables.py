"""Records to tables: rows of text, each column saying what kind of number it holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.records import PHASES, Record

TIMES = "\N{MULTIPLICATION SIGN}"

HOW = {
    "exact": "counted by construction; equal to the RTL, cycle by cycle, wherever it was simulated",
    "measured": "the result of running the model through the engine's bit-exact arithmetic",
    "modelled": "exact cycles at the stated clock; a core's with the stated memory, which keeps to "
    "its times exactly, an engine's with an ideal memory bus",
    "synthesized": "from a netlist that Yosys mapped to a standard-cell library",
}
"""What the labels on numbers mean."""


@dataclass(frozen=True)
class Column:
    """A column's title, its unit, and a key of `HOW` for what its numbers are."""

    title: str
    unit: str = ""
    how: str = ""


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def quantity(value: float, digits: int = 4) -> str:
    """A number for reading: integers whole with thousands, others to `digits` digits."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.{digits - 1}e}"
    return f"{value:.{digits}g}"


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"


def perplexity_change(record: Record) -> str:
    """Perplexity as shipped and on the engine, or that nobody measured it."""
    found = record.optional("perplexity")
    if not found:
        return "not measured"
    after = record.number("perplexity.quantized")
    if found["float"] is None:
        return f"{after:.4g}, as shipped unknown"
    return f"{record.number('perplexity.float'):.4g} → {after:.4g}"


def headline(runs: Sequence[Record]) -> Table:
    """One row per run and phase of `sim` records."""
    columns = (
        Column("run"),
        Column("phase"),
        Column("speed", "tokens/s", "modelled"),
        Column("bound by", how="modelled"),
        Column("perplexity", how="measured"),
        Column("took", "cycles", "exact"),
        Column("utilized", how="exact"),
        Column("moved", how="modelled"),
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
                    run.text(f"{phase}.bound"),
                    perplexity_change(run) if first else "",
                    quantity(run.number(f"{phase}.cycles")),
                    f"{run.number(f'{phase}.utilization'):.1%}",
                    size(run.number(f"{phase}.dram_bytes")),
                )
            )
    return Table(columns, tuple(rows))


def layers(run: Record, phase: str) -> Table:
    """One row per kind of layer of a run; times are of all layers of that kind."""
    columns = (
        Column("layer"),
        Column(f"outputs {TIMES} inputs"),
        Column("count"),
        Column("weights"),
        Column("cycles", "each", "exact"),
        Column("utilization", "", "exact"),
        Column("moved", "each", "modelled"),
        Column("computing", "ms in all", "modelled"),
        Column("moving", "ms in all", "modelled"),
        Column("bound by", how="modelled"),
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
                quantity(1e3 * count * layer.number("compute_seconds"), 3),
                quantity(1e3 * count * layer.number("memory_seconds"), 3),
                layer.text("bound"),
            )
        )
    return Table(columns, tuple(rows))


def accuracy(records: Sequence[Record]) -> Table:
    """One row per `accuracy` record, fewest stored bits first."""
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
    ordered = sorted(records, key=lambda each: each.number("bits_total"))
    rows = tuple(
        (
            each.text("weights"),
            each.text("method"),
            quantity(each.number("bits_index"), 3),
            quantity(each.number("bits_total"), 3),
            _table_width(each),
            quantity(each.number("perplexity")),
            *(
                "" if each.optional(name) is None else quantity(each.number(name), digits)
                for name, digits in (("reference_perplexity", 4), ("kl", 3))
            ),
            _other_text(each),
        )
        for each in ordered
    )
    return Table(columns, rows)


def _other_text(record: Record) -> str:
    """Perplexity on text of another kind than a model was calibrated with, and as shipped there."""
    if record.optional("other_perplexity") is None:
        return ""
    names = ("other_perplexity", "other_reference_perplexity")
    return ", ".join(quantity(record.number(name)) for name in names)


def _table_width(record: Record) -> str:
    """Of the lookup tables of the engine on which accuracy was measured, if there was one."""
    if record.optional("spec") is None:
        return "no engine"
    bits = record.optional("spec.table_bits")
    return f"{bits} bits" if bits else "full width"


def front(study: Record) -> Table:
    """One row per candidate on the Pareto front of a `dse` record, by the first objective."""
    objectives = study.parts("objectives")
    columns = [Column("trial"), Column("weights"), Column("engine"), Column("clock", "MHz")]
    columns += [
        Column(each.text("title"), each.text("unit"), each.text("how")) for each in objectives
    ]
    on_front = set(study["front"])
    trials = [each for each in study.parts("trials") if each["number"] in on_front]
    trials.sort(key=lambda each: each.number(f"metrics.{objectives[0].text('name')}"))
    rows = tuple(
        (
            quantity(trial.number("number")),
            trial.text("weights"),
            shape(trial["spec"]),
            quantity(trial.number("metrics.clock_mhz")),
            *(quantity(trial.number(f"metrics.{each['name']}")) for each in objectives),
        )
        for trial in trials
    )
    return Table(tuple(columns), rows)


def compared(record: Record) -> Table:
    """One row per engine of a `compare` record that was not refused, best first."""
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
            each.text("name"),
            quantity(each.number("slice_steps")),
            quantity(each.number("cycles")),
            quantity(each.number("area_ge")),
            quantity(each.number("cells")),
            quantity(each.number("delay_ns"), 3),
            *(
                "" if each.optional(name) is None else quantity(each.number(name), digits)
                for name, digits in (("area_um2_per_mac_per_cycle", 4), ("area_cycles_of_best", 3))
            ),
            quantity(each.number("max_rel_difference"), 2),
            f"{each.number('activation_error'):.3%}",
            size(each.number("weight_bytes")),
            size(each.number("moved_bytes")),
        )
        for each in record.parts("results")
        if each["refused"] is None
    )
    return Table(columns, rows)


def comparison_setting(record: Record) -> str:
    """What the engines of a `compare` record were compared at, in sentences."""
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
        f"The area of {each.text('name')} leaves out memories of "
        f"{quantity(each.number('memory_bits'))} bits"
        for each in record.parts("results")
        if each.optional("memory_bits")
    ]
    sentences += [
        f"Refused: {each.text('name')} ({each.text('refused')})"
        for each in record.parts("results")
        if each["refused"] is not None
    ]
    return ". ".join(sentences) + "."


def shape(spec: dict[str, Any]) -> str:
    """A lookup engine's tile in one word: M1 N32 K4x2, its table width where rounded, its core."""
    if "engine" in spec:
        return f"{shape(spec['engine'])} behind a {spec['bus_bits']}-bit AXI4 port"
    table = f", {spec['table_bits']}-bit tables" if spec.get("table_bits") else ""
    tables = f"{TIMES}{spec['kg']}" if "kg" in spec else ""
    return f"M{spec['m']} N{spec['n']} K{spec['k']}{tables}{table}"


def provenance(records: Iterable[Record]) -> Table:
    """Where the records on a page came from; those alike but for their line share a row."""
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
    return Table(
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
    """One figure to read first; `how` is a key of `HOW`."""

    name: str
    value: str
    how: str


def tiles(run: Record) -> tuple[Tile, ...]:
    """The figures of a `sim` record that matter most."""
    speeds = [
        Tile(
            f"tokens/s in {phase}, {run.text(f'{phase}.bound')}-bound",
            quantity(run.number(f"{phase}.tokens_per_s")),
            "modelled",
        )
        for phase in PHASES
    ]
    cycles = Tile(
        "cycles per decoded token",
        quantity(run.number("decode.cycles") / run.number("decode.tokens")),
        "exact",
    )
    return (
        *speeds,
        cycles,
        Tile("perplexity, as shipped → on the engine", perplexity_change(run), "measured"),
    )


def setting(run: Record) -> str:
    """What a `sim` record assumes and what was checked, in a few sentences."""
    parts = [
        shape(run["spec"]),
        f"{run.number('platform.frequency_hz') / 1e6:g} MHz",
        f"memory bus of {run.number('platform.bandwidth_bytes_per_s') / 1e9:g} GB/s",
    ]
    if run.optional("platform.latency_cycles"):
        parts.append(f"{run.number('platform.latency_cycles'):g} cycles from address to data")
    if run.optional("perplexity"):
        tokens, text = run.number("perplexity.tokens"), run.text("perplexity.text")
        parts.append(f"perplexity over {quantity(tokens)} tokens of {text}")
    sentences = [", ".join(parts)]
    if host := run.optional("host_layers"):
        left = ", ".join(host) if len(host) < 4 else f"{len(host)} linear layers"
        sentences.append(f"On the host and not in these figures: {left}")
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
    """What a `dse` record searched, in a sentence."""
    trials = study.parts("trials")
    pruned = sum(trial["state"] == "pruned" for trial in trials)
    infeasible = sum(trial["state"] == "complete" and not trial["feasible"] for trial in trials)
    front_size = len(study["front"])
    text = f"{len(trials) - pruned} candidates for {study.text('model')}: {front_size} on the front"
    text += f", {pruned} refused" if pruned else ""
    text += f", {infeasible} against a constraint" if infeasible else ""
    if constraints := study["constraints"]:
        text += f" ({', '.join(constraints)})"
    return f"{text}; hypervolume {study.number('hypervolume'):.4g}."
