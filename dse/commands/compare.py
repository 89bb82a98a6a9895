"""The command `evolute compare`, which compares engines on one layer of a real model."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from evolute.dse.compare.contenders import (
    ACTIVATIONS,
    Contender,
    Task,
    contenders,
    parse_activations,
    require_any,
)
from evolute.dse.compare.layer import layer_of
from evolute.dse.compare.own_forms import in_own_forms
from evolute.dse.compare.peers import peers
from evolute.dse.compare.rows import INSIDE, OUTSIDE, areas, layer_operand, ranked, row
from evolute.dse.compare.scaling import with_scaling
from evolute.dse.compare.stationary import arrangements, stationary_row
from evolute.hw.spec import ENGINES
from evolute.hw.spec.base import require
from evolute.hw.spec.scaling import IntegerScaling
from evolute.support import schema
from evolute.support.errors import UnknownNameError
from evolute.support.files import RECORDS, append_record, provenance
from evolute.support.options import COUNT, WORKERS, json_option, out_option, show
from evolute.support.tables import number_columns
from evolute.support.waiting import shown
from evolute.sw.commands.eval import chosen_text, load_model, model_argument, text_option, working
from evolute.sw.tensors.tensor import QuantError
from evolute.sw.tensors.weights import FLOAT, GRAMMAR, Weights, parse_weights
from evolute.verif.energy import Operand

_GROUP = 128
"""Weights that share a scale where only bits are asked for."""


@click.command(epilog="Example: evolute compare smollm2-135m --bits 2 --activations int8")
@model_argument
@click.option(
    "--bits",
    metavar="1-8|t|b3|b4",
    help=f"Weights in groups of {_GROUP}: bits, t for ternary, b for BitMoD's. Default: 2.",
)
@click.option("--weights", metavar="CHOICE", help=f"More exactly than --bits: {GRAMMAR}.")
@click.option(
    "--activations",
    default="int8",
    show_default=True,
    metavar="FORMAT",
    help=f"{ACTIVATIONS}.",
)
@click.option("--layer", default="0.gate", show_default=True, help="The layer, BLOCK.ROLE or head.")
@click.option("--rows", type=COUNT, default=1, show_default=True, help="Tokens at once.")
@click.option(
    "--shape",
    default="1,16,16",
    show_default=True,
    metavar="M,N,K",
    help="Size of all engines: rows, columns, and products that a step adds to each sum.",
)
@click.option("--engines", metavar="A,B", help=f"Some of {', '.join(ENGINES)}. Default: all.")
@click.option(
    "--floating", is_flag=True, help="Also baselines with floating sums, which take long to map."
)
@click.option(
    "--units", is_flag=True, help="Also LUT-DLA as published, whose memories have no area."
)
@click.option(
    "--power", is_flag=True, help="Also the energy of the engines' cells, simulated on the layer."
)
@click.option("--presets", is_flag=True, help="Also presets, in sizes of their own.")
@click.option(
    "--workers",
    type=WORKERS,
    default=2,
    show_default=True,
    help="Synthesis processes at a time.",
)
@text_option
@out_option
@json_option
def compare(
    model: str | None,
    bits: str | None,
    weights: str | None,
    activations: str,
    layer: str,
    rows: int,
    shape: str,
    engines: str | None,
    floating: bool,
    units: bool,
    power: bool,
    presets: bool,
    workers: int,
    text_path: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Compare engines of one size on one layer: exactness, cycles, area, data moved.

    Every engine is synthesized whole, with scaling that keeps up with it, which takes seconds to
    minutes the first time and is kept.
    Values come from its golden model, on the layer's real inputs.
    """
    choice = _weights(bits, weights)
    kind = parse_activations(activations)
    m, n, slice_k = _shape(shape)
    stems = _engines(engines)
    loaded = load_model(model)
    with working("running the model up to the layer"):
        chosen = layer_of(loaded, layer, choice, chosen_text(text_path, model or loaded.name))
    linear = chosen.linear
    task = Task(linear.format, linear.group, kind, m, n, slice_k)
    candidates = contenders(task, stems, presets, floating)
    with working("learning codebooks and tables"):
        candidates += in_own_forms(task, stems, chosen, presets)
    candidates = with_scaling(candidates, chosen, rows)
    require_any(task, stems, candidates)
    with shown(
        "synthesizing", sum(contender.spec is not None for contender in candidates)
    ) as synthesizing:

        def advance(running: list[str], done: int) -> None:
            synthesizing(done, f"synthesizing {' and '.join(running)}" if running else None)

        def operand_of(contender: Contender) -> Operand | None:
            return layer_operand(contender, chosen) if power else None

        results = areas(candidates, workers, advance, operand_of)
    with working("multiplying the layer"):
        compared = ranked(
            [row(contender, results.get(contender.name), chosen, rows) for contender in candidates]
        )
    apart = []
    if units:
        with working("synthesizing and replaying the units"):
            apart = [
                stationary_row(arrangement, task, chosen, rows)
                for arrangement in arrangements(task, chosen, rows, presets)
            ]
    setting = schema.Setting(
        model=loaded.name,
        layer=layer,
        n=linear.n,
        k=linear.k,
        weights=choice.name,
        codes=linear.format.name,
        group=linear.group,
        activations=activations,
        activation_bits=kind.bits,
        rows=rows,
        shape=schema.Shape(m, n, slice_k),
        tokens=len(chosen.inputs),
    )
    record = schema.to_record(
        schema.Comparison(
            **vars(setting),
            inside=INSIDE,
            outside=OUTSIDE,
            results=compared,
            units=apart,
            published=peers(task),
            provenance=provenance(
                "values from golden models, cycles as the RTL's, area synthesized",
                ("amaranth", "numpy", "pyosys"),
            ),
        )
    )
    append_record(out / RECORDS, record)
    rows_of_engines = (*record["results"], *record["units"])
    document = [schema.to_record(setting) | facts for facts in rows_of_engines]
    show(as_json, document, lambda console: _render(console, record))


def _weights(bits: str | None, weights: str | None) -> Weights:
    """The weights that `--bits` or `--weights` names. Raises `QuantError`."""
    if weights is not None:
        if bits is not None:
            raise QuantError("bits: is part of --weights, give one of the two")
        choice = parse_weights(weights)
        require(choice != FLOAT, "weights", "codes, an engine multiplies no floats", weights)
        return choice
    bits = bits or "2"
    # One bit from the least to the greatest weight, zero included, would lose every sign.
    signs = "s" if bits == "1" else ""
    name = f"{bits}g{_GROUP}" if bits[0].isalpha() else f"w{bits}g{_GROUP}{signs}"
    try:
        return parse_weights(name)
    except QuantError:
        raise QuantError(f"bits: must be 1 to 8, t, b3 or b4, got {bits!r}") from None


def _shape(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"(\d{1,4}),(\d{1,4}),(\d{1,4})", text)
    require(match is not None, "shape", "of the form M,N,K", text)
    assert match is not None
    m, n, slice_k = (int(number) for number in match.groups())
    return m, n, slice_k


def _engines(text: str | None) -> list[str]:
    stems = list(ENGINES) if text is None else [stem.strip() for stem in text.split(",")]
    for stem in stems:
        if stem not in ENGINES:
            raise UnknownNameError("engine", stem, list(ENGINES))
    return stems


_COSTS = (
    ("area x cycles", "area_cycles_um2"),
    ("area x cycles x path", "area_time_um2_ns"),
)


def _render(console: Console, record: dict[str, Any]) -> None:
    shape = record["shape"]
    tokens = f"{_tokens(record['rows'])} at once"
    console.print(
        f"{record['model']}, layer {record['layer']} ({record['n']} x {record['k']}) in "
        f"{record['weights']} weights and {record['activations']} activations, {tokens}\n"
        f"on engines of {shape['m']} x {shape['n']} x {shape['slice_k']} (rows, columns, products "
        "of a sum's step), or as many in all\n",
        soft_wrap=True,
    )
    compared = [entry for entry in record["results"] if entry["refused"] is None]
    refused = [entry for entry in record["results"] if entry["refused"] is not None]
    if compared:
        _render_cost(console, compared)
        console.print()
        _render_data(console, compared)
        console.print()
        with_energy = [entry for entry in compared if entry["dynamic_fj_per_mac"] is not None]
        if with_energy:
            _render_energy(console, with_energy)
            console.print()
        first = compared[0]
        for text in (
            f"Inside the area, as far as an engine has it: {record['inside']}.",
            f"Outside, the same for all: {record['outside']}.",
            "scaling: the smallest that never makes the engine wait on this layer, with whole "
            f"products or bit by bit; the latter for {_serial(compared)}.",
            "exact: equal to the RTL's, fill and drain included.",
            *_beside(compared),
            *_of_energy(compared),
            "synth.: of the whole mapped engine, and of its scaling, before layout; "
            f"{first['library']}, "
            f"{first['tool']}.",
            f"measured: through the golden model on the layer's inputs for {record['tokens']} "
            "tokens of text, with scales as stored: those of integer engines become integers of "
            f"{IntegerScaling.scale_bits} bits in a core, which is not in these figures. "
            "The difference is the largest from a float64 product of the same "
            "codes and rounded activations, over the largest result; that of rounding is the root "
            "mean square from activations as they were, over that of the results.",
            "modelled: whole beats, padding included.",
        ):
            _paragraph(console, text)
        console.print()
    for entry in refused:
        console.print(f"refused: {entry['name']}: {entry['refused']}", soft_wrap=True)
    with_area = [entry for entry in compared if not entry["memory_bits"]]
    if with_area:
        for title, cost in _COSTS:
            _paragraph(console, _verdict(with_area, title, cost))
    with_energy = [entry for entry in compared if entry["dynamic_fj_per_mac"] is not None]
    if with_energy:
        _paragraph(console, _verdict(with_energy, "energy", "dynamic_fj_per_mac"))
    if record["units"]:
        console.print()
        _render_units(console, record["units"])
    if record["published"]:
        console.print()
        _render_published(console, record["published"])


def _serial(compared: list[dict[str, Any]]) -> str:
    """The engines whose smallest scaling multiplies bit by bit."""
    names = [entry["name"] for entry in compared if entry["scalings"][0]["multiplier"] == "serial"]
    return ", ".join(names) or "none"


def _tokens(count: int) -> str:
    return f"{count} token{'s' * (count > 1)}"


def _beside(compared: list[dict[str, Any]]) -> list[str]:
    """Lines about what is not included in the areas of engines with large memories."""
    memories = [
        f"{entry['name']} ({entry['memory_bits']:,})" for entry in compared if entry["memory_bits"]
    ]
    if not memories:
        return []
    return [
        "-: not ranked, since of the bits in memories that are no cells, and of their access, no "
        f"area and no delay is stated: {', '.join(memories)}."
    ]


def _paragraph(console: Console, text: str) -> None:
    console.print(textwrap.fill(text, min(100, console.width), break_long_words=False))


def _name(title: str) -> Column:
    """A column of names, in which the name of an engine is not broken on a narrow terminal."""
    return Column(title, min_width=max(map(len, ENGINES)))


def _render_cost(console: Console, compared: list[dict[str, Any]]) -> None:
    columns = number_columns(
        "steps a\nslice\nexact",
        "cycles\n\nexact",
        "engine\num2\nsynth.",
        "scaling\num2\nsynth.",
        "in all\num2\nsynth.",
        "path\nns\nsynth.",
        "per MAC a\ncycle um2\nsynth.",
        "area x\ncycles\nof best",
    )
    table = Table(_name("engine"), *columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for entry in compared:
        table.add_row(
            entry["name"],
            f"{entry['slice_steps']:.3g}",
            f"{entry['cycles']:,}",
            f"{entry['engine_um2']:,.0f}",
            f"{entry['scaling_um2']:,.0f}",
            f"{entry['area_um2']:,.0f}",
            f"{entry['delay_ns']:.2f}",
            _cost(entry["area_um2_per_mac_per_cycle"], ".1f"),
            _cost(entry["area_cycles_of_best"], ".2f"),
        )
    console.print(table)


def _cost(value: float | None, form: str) -> str:
    """A cost as text; a dash if there is none."""
    return "-" if value is None else format(value, form)


def _render_energy(console: Console, with_energy: list[dict[str, Any]]) -> None:
    columns = number_columns("fJ a MAC\nsimulated", "of the least", "leakage uW")
    table = Table(_name("engine"), *columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    ordered = sorted(with_energy, key=lambda entry: entry["dynamic_fj_per_mac"])
    least = ordered[0]["dynamic_fj_per_mac"]
    for entry in ordered:
        energy_fj = entry["dynamic_fj_per_mac"]
        leakage_uw = entry["leakage_nw"] / 1e3
        table.add_row(
            entry["name"], f"{energy_fj:.1f}", f"{energy_fj / least:.2f}", f"{leakage_uw:,.0f}"
        )
    console.print(table)


def _of_energy(compared: list[dict[str, Any]]) -> list[str]:
    """Lines about energies, if any was measured."""
    if all(entry["dynamic_fj_per_mac"] is None for entry in compared):
        return []
    return [
        "fJ a MAC: what the engine's cells take on the layer's own weights and inputs, simulated "
        "gate by gate, without scaling, leakage, wires, clock tree and glitches; every result "
        "equals the golden model's."
    ]


def _render_data(console: Console, compared: list[dict[str, Any]]) -> None:
    columns = number_columns(
        "off\nfloat64\nmeasured",
        "by input\nrounding\nmeasured",
        "off float\nlayer\nmeasured",
        "weights\nbytes\nmodelled",
        "scales\nbytes\nmodelled",
        "inputs\nbytes\nmodelled",
        "results\nbytes\nmodelled",
    )
    table = Table(_name("engine"), *columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for entry in compared:
        table.add_row(
            entry["name"],
            f"{entry['max_rel_difference']:.2g}",
            f"{entry['activation_error']:.3%}",
            f"{entry['layer_error']:.2%}",
            *(
                f"{entry[f'{operand}_bytes']:,}"
                for operand in ("weight", "scale", "activation", "result")
            ),
        )
    console.print(table)


def _render_units(console: Console, units: list[dict[str, Any]]) -> None:
    compared = [unit for unit in units if unit["refused"] is None]
    tokens = "".join(f" for {_tokens(unit['tokens'])}" for unit in compared[:1])
    _paragraph(
        console,
        f"LUT-DLA as published{tokens}, not ranked: area is that of its logic and of memories of "
        "at most 4,096 bits, and no area is stated for the bits of the others. Cycles are as the "
        "RTL's, with both clocks alike and with the encoder's twice as fast.",
    )
    columns = number_columns(
        "cycles\n\nexact",
        "encoder\nat 2:1\nexact",
        "logic\nGE\nsynth.",
        "memory\nbits\n",
        "path\nns\nsynth.",
        "tables\nbytes\nexact",
        "centroids\nbytes\nexact",
    )
    table = Table(_name("unit"), *columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for entry in compared:
        table.add_row(
            entry["name"],
            f"{entry['cycles']:,}",
            f"{entry['cycles_fast_encoder']:,}",
            f"{entry['logic_ge']:,.0f}",
            f"{entry['memory_bits']:,}",
            f"{entry['delay_ns']:.2f}",
            f"{entry['table_bytes']:,}",
            f"{entry['centroid_bytes']:,}",
        )
    console.print(table)
    for unit in units:
        if unit["refused"] is not None:
            console.print(f"refused: {unit['name']}: {unit['refused']}", soft_wrap=True)


def _render_published(console: Console, published: list[dict[str, Any]]) -> None:
    _paragraph(
        console,
        "Published designs for orientation: their Verilog, synthesized by us in the same library "
        "but with another script and boundary.",
    )
    columns = number_columns("per MAC a\ncycle um2\npublished")
    table = Table("design", *columns, "", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for peer in published:
        area = f"{peer['area_um2_per_mac_per_cycle']:,}"
        table.add_row(peer["name"], area, f"{peer['what']} ({peer['source']})")
    console.print(table)


def _verdict(compared: list[dict[str, Any]], title: str, cost: str) -> str:
    """Which exact engine has the lowest cost, and by how much."""
    exact = [entry for entry in compared if entry["max_abs_difference"] == 0] or compared
    ordered = sorted(exact, key=lambda entry: entry[cost])
    verdict = f"Least {title}: {ordered[0]['name']}"
    if len(ordered) > 1:
        ratio = ordered[1][cost] / ordered[0][cost]
        verdict += f"; next is {ordered[1]['name']} with {ratio:.3f} times as much"
    return verdict
