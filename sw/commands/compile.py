"""The command `evolute compile`, which writes what a host needs to run a model on a real core."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import safetensors.numpy
from rich.console import Console
from rich.table import Table

from evolute.hw.commands.specs import set_option
from evolute.hw.isa import instructions as isa
from evolute.hw.spec import CoreSpec
from evolute.hw.spec.base import require
from evolute.hw.spec.core import MEMORY_PAGE_BYTES
from evolute.sim.program.placement import Batch
from evolute.sim.timing.memory import MemoryTiming
from evolute.support.errors import RefusedError
from evolute.support.files import provenance, replacing, write_text
from evolute.support.options import COUNT, json_option, show
from evolute.sw.commands.eval import (
    accel_option,
    accelerator_from,
    chosen_weights,
    load_model,
    model_argument,
    require_core,
    scope_summary,
    weights_option,
    working,
)
from evolute.sw.commands.prune_option import parse_pruning, prune_option
from evolute.sw.deploy.assignment import assign
from evolute.sw.deploy.image import PhaseProgram, contents, phases
from evolute.sw.deploy.on_core import CoreModel, core_model
from evolute.sw.tensors.weights import parse_weights

IMAGE, UNITS, MANIFEST = "image.bin", "units.safetensors", "manifest.json"


def listing(phase: PhaseProgram) -> str:
    """A program as text that `hw.isa.instructions.assemble` reads, with the index of each
    instruction."""
    lines = [f"# {phase.name}, rows: {phase.rows}, at {phase.program.address:#x}"]
    for i, instruction in enumerate(phase.program.instructions):
        lines.append(f"{isa.disassemble(instruction)}  # {i}")
    return "\n".join(lines) + "\n"


def _stage(batch: Batch) -> dict[str, Any]:
    return {
        "name": batch.stage.name,
        "input": {
            "address": batch.input_address,
            "k": batch.stage.layers[0].linear.k,
            "group": batch.stage.layers[0].linear.group,
            "parts_slices": list(batch.stage.parts),
            "blocks_row_tiles": list(batch.blocks),
        },
        "results": {
            "address": batch.result_address,
            "layers": [
                {
                    "name": str(layer.linear.name),
                    "n": layer.linear.n,
                    "column_tiles": layer.column_tiles,
                }
                for layer in batch.stage.layers
            ],
        },
    }


def manifest(
    placed: CoreModel, programs: Sequence[PhaseProgram], base: int, size: int
) -> dict[str, Any]:
    """The addresses of everything in memory, for the software that drives the core."""
    return {
        "kind": "image",
        "spec": placed.core.to_dict(),
        "digest": placed.core.digest,
        "base": base,
        "bytes": size,
        "host_layers": sorted(map(str, placed.host)),
        "programs": [
            {
                "name": phase.name,
                "rows": phase.rows,
                "address": phase.program.address,
                "instructions": len(phase.program.instructions),
                "cycles": phase.model.cycles,
                "stages": [_stage(batch) for batch in phase.program.batches],
            }
            for phase in programs
        ],
        "meaning": {
            "stages": "between two stages the core waits in a sync: read results, write the next "
            "input, then write RESUME",
            "input": "block by block the parts of K, each in activation beats [row tile][slice]; "
            "every scale group of K is padded with zeros to whole slices",
            "results": "block by block the column tiles of the layers in order, each [row tile] of "
            "[m][n] 64-bit integers; output = integer * unit[n] * the row's activation scale",
            "cycles": f"of the cycle model, at a latency of {MemoryTiming().latency_cycles} cycles "
            f"and {MemoryTiming().bytes_per_cycle} bytes per cycle",
        },
    }


@click.command(epilog="Example: evolute compile evolute-tiny --accel core-fpga -o build/tiny")
@model_argument
@accel_option
@set_option
@weights_option
@prune_option(sizes=False)
@click.option(
    "--prompt-tokens",
    type=COUNT,
    default=16,
    show_default=True,
    help="Tokens that the programs for the prompt take at once.",
)
@click.option(
    "--base",
    default="0",
    metavar="ADDRESS",
    help="First byte in the core's memory, a multiple of 4096, such as 0x40000000. Default: 0.",
)
@click.option(
    "-o",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder to write into; files of the same names are replaced.",
)
@json_option
def compile(  # the front door finds a command by its name
    model: str | None,
    accel: str,
    assignments: tuple[str, ...],
    weights: str | None,
    prune_text: str | None,
    prompt_tokens: int,
    base: str,
    folder: Path,
    as_json: bool,
) -> None:
    """Compile a model for a core: memory image, programs, and a manifest for the host.

    The image holds packed weights, scales and programs; `units.safetensors` one float per output;
    `manifest.json` says where inputs and results of every stage lie.
    """
    core = require_core("compile", accel, accelerator_from(accel, assignments))
    address = _address(base, core)
    sparsity = parse_pruning(prune_text).of_weights()
    if weights is not None:
        parse_weights(weights)
    loaded = load_model(model)
    limit = loaded.config.context
    rule = f"at most {limit}, the model's context"
    require(prompt_tokens <= limit, "--prompt-tokens", rule, prompt_tokens)
    choice = chosen_weights(weights, loaded)
    assignment = assign(loaded, choice, core, sparsity)
    with working("compiling"):
        placed = core_model(assignment, address)
        prompt, decode = phases(placed, prompt_tokens, MemoryTiming())
        programs = [decode, *prompt]
        end = max(phase.program.end for phase in programs)
        image = np.zeros(end - address, np.uint8)
        for first, data in contents(placed, programs):
            image[first - address :][: len(data)] = data
        document: dict[str, Any] = {"model": loaded.name, "weights": choice.name}
        document["pruned"] = assignment.sparsity and assignment.sparsity.name
        document["mac_share"] = assignment.workload.mac_share()
        document["recoded"] = assignment.recoding_record()
        document |= manifest(placed, programs, address, len(image))
        document["provenance"] = asdict(provenance("compiled", ("numpy",)))
        _write(folder, placed, programs, image, document)

    def render(console: Console) -> None:
        table = Table("program", "rows", "instructions", "at", "cycles", box=None, pad_edge=False)
        for phase in programs:
            program = phase.program
            table.add_row(
                phase.name,
                str(phase.rows),
                f"{len(program.instructions):,}",
                f"{program.address:#x}",
                f"{phase.model.cycles:,}",
            )
        console.print(f"{loaded.name}, {choice.name} weights, for {accel} {core.digest}")
        console.print(scope_summary(assignment), soft_wrap=True)
        console.print(table)
        console.print(f"{len(image):,} bytes from {address:#x} on, in {folder / IMAGE}")

    show(as_json, document, render)


def _address(text: str, core: CoreSpec) -> int:
    rule = f"base: must be a multiple of {MEMORY_PAGE_BYTES}, such as 0x40000000, got {text!r}"
    try:
        address = int(text, 0)
    except ValueError:
        raise RefusedError(rule) from None
    if address < 0 or address % MEMORY_PAGE_BYTES:
        raise RefusedError(rule)
    most = f"below 2^{core.address_bits}, the core's address_bits"
    require(address < 1 << core.address_bits, "base", most, text)
    return address


def _write(
    folder: Path,
    placed: CoreModel,
    programs: Sequence[PhaseProgram],
    image: np.ndarray,
    document: dict[str, Any],
) -> None:
    units = {str(name): tensor.unit for name, tensor in placed.tensors.items()}
    with replacing(folder / IMAGE) as temporary:
        image.tofile(temporary)
    with replacing(folder / UNITS) as temporary:
        temporary.write_bytes(safetensors.numpy.save(units))
    for i, phase in enumerate(programs):
        write_text(folder / f"{i:02d}-{phase.name}.asm", listing(phase))
    write_text(folder / MANIFEST, json.dumps(document, indent=2) + "\n")
