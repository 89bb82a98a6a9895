"""The command `evolute require`, which shows what a target speed requires of an accelerator and its
memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from evolute.hw.spec import CoreSpec
from evolute.hw.spec.memories import MEMORIES, Memory, memory
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import CORES, PRESETS
from evolute.sim.workload.serving import Serving
from evolute.support.errors import RefusedError, UnknownNameError
from evolute.support.files import provenance
from evolute.support.options import (
    COUNT,
    FREQUENCY_MHZ,
    LATENCY,
    RATE,
    Whole,
    json_option,
    show,
)
from evolute.support.schema import RequiredRefusal, Requirement, to_record
from evolute.support.waiting import shown
from evolute.sw.checkpoints.sizes import without_weights
from evolute.sw.commands.eval import load_model, model_argument
from evolute.sw.deploy.assignment import default_weights
from evolute.sw.deploy.requirement import (
    CoreCandidate,
    Needs,
    PricedCore,
    SpeedTarget,
    model_candidate,
    needs,
    outcomes,
    shape_candidate,
)
from evolute.sw.deploy.simulate import require_context
from evolute.sw.deploy.unweighted import DEFAULT_WEIGHTS, parse_format
from evolute.sw.language_model.kv import NAMES, parse_kv
from evolute.sw.language_model.shape import model_shape
from evolute.sw.tensors.weights import parse_weights

LANES, ROWS = 4, 4
"""What a core preset that has no units for vectors and attention is given of them."""

_PLATFORM = Platform()
_NEAREST = 20
"""How many of those that come nearest are shown where none meets the target."""


@click.command(
    epilog="Example: evolute require llama-3.2-1b --tokens-per-s 5 --context 4096 --ttft-s 2"
)
@model_argument
@click.option(
    "--tokens-per-s",
    type=RATE,
    required=True,
    help="Tokens per second of decoding that are wanted, of all sequences together.",
)
@click.option(
    "--context",
    type=Whole(0, 1 << 24),
    help="Tokens in the cache when a token is decoded. Default: the prompt's.",
)
@click.option("--ttft-s", type=RATE, help="Seconds that the prompt may take at most.")
@click.option("--prefill", type=COUNT, default=128, show_default=True, help="Prompt tokens.")
@click.option(
    "--extend-context",
    "extended",
    is_flag=True,
    help="Allow more tokens than the model was made for; its accuracy there is unknown.",
)
@click.option("--batch", type=COUNT, default=1, show_default=True, help="Sequences at once.")
@click.option("--weights", metavar="CHOICE", help="As of `evolute sim`.")
@click.option("--head", metavar="CHOICE", help="As of `evolute sim`, for a model without weights.")
@click.option(
    "--kv",
    "kv_name",
    metavar="FORMAT",
    default="int8",
    show_default=True,
    help=f"What the cache holds keys and values in: {NAMES}. Attention units take 8 bits or fewer.",
)
@click.option(
    "--frequency-mhz",
    type=FREQUENCY_MHZ,
    help="The clock. Default: of MACs per cycle "
    f"{_PLATFORM.frequency_hz / 1e6:g}, of each core its own.",
)
@click.option(
    "--latency",
    type=LATENCY,
    default=_PLATFORM.latency_cycles,
    show_default=True,
    help="Cycles from a memory's address to its data.",
)
@click.option(
    "--accel", "accels", multiple=True, metavar="CORE", help="Price this core only; repeatable."
)
@click.option(
    "--memory",
    "memory_names",
    multiple=True,
    metavar="NAME",
    help="Price with this memory or board only; repeatable.",
)
@click.option(
    "--energy-per-token-j", type=RATE, help="Not to be had yet: nothing has an energy so far."
)
@json_option
def require(
    model: str | None,
    tokens_per_s: float,
    context: int | None,
    ttft_s: float | None,
    prefill: int,
    extended: bool,
    batch: int,
    weights: str | None,
    head: str | None,
    kv_name: str,
    frequency_mhz: float | None,
    latency: int,
    accels: tuple[str, ...],
    memory_names: tuple[str, ...],
    energy_per_token_j: float | None,
    as_json: bool,
) -> None:
    """Say what a speed asks for, and which cores with which memories reach it.

    First the least bandwidth, multiply-accumulates per cycle, buffer and capacity: lower bounds
    from the bytes and multiply-accumulates of a pass, which no design can do without. Then every
    core preset, with units for vectors and attention, is priced with every named memory, as
    `evolute sim` prices it; its figures are bounds where steps depend on weights and there are
    none. Where no core reaches the target, those that come nearest are listed, with what they are
    short of.
    """
    if energy_per_token_j is not None:
        raise RefusedError(
            "--energy-per-token-j: must be left out, since there are no energies to compare with "
            f"yet; got {energy_per_token_j:g}"
        )
    cached = prefill if context is None else context
    serving = Serving(prefill, 1, (cached,), batch, parse_kv(kv_name).cache)
    target = SpeedTarget(tokens_per_s, ttft_s)
    cores = {name: _with_units(_core(name)) for name in accels or CORES}
    memories = [memory(name) for name in memory_names or MEMORIES]
    shape = without_weights(model)
    refused: list[RequiredRefusal] = []
    candidates: list[CoreCandidate] = []
    if shape is not None:
        require_context(shape, serving, extended=extended)
        weights_name = DEFAULT_WEIGHTS if weights is None else weights
        chosen = parse_format("weights", weights_name)

        def candidate(name: str, core: CoreSpec) -> CoreCandidate:
            candidate = shape_candidate(name, core, shape, chosen, head)
            candidate.workload_of(
                serving.prefill
            )  # refused where the engine does not run the format
            return candidate
    else:
        if head is not None:
            raise RefusedError("--head: only for a model without weights; a checkpoint has its own")
        choice = None if weights is None else parse_weights(weights)
        loaded = load_model(model)
        shape = model_shape(loaded)
        weights_name = (choice or default_weights(loaded)).name
        require_context(shape, serving, extended=extended)

        def candidate(name: str, core: CoreSpec) -> CoreCandidate:
            return model_candidate(name, core, loaded, choice)

    for name, core in cores.items():
        try:
            candidates.append(candidate(name, core))
        except RefusedError as error:
            refused.append(RequiredRefusal(name, None, str(error)))
    if not candidates:
        raise RefusedError(f"no core can be priced: {refused[0].accelerator}: {refused[0].reason}")

    def platform_of(core: CoreSpec, named: Memory) -> Platform:
        frequency_hz = (frequency_mhz or core.clock_mhz) * 1e6
        return Platform(frequency_hz, named.bandwidth_bytes_per_s, latency_cycles=latency)

    frequency_hz = _PLATFORM.frequency_hz if frequency_mhz is None else frequency_mhz * 1e6
    least = needs(shape, candidates, serving, target, latency / frequency_hz)
    outcomes_so_far: list[PricedCore] = []
    with shown("pricing cores with memories", len(candidates) * len(memories)) as done:
        for outcome in outcomes(candidates, memories, serving, target, platform_of, least, done):
            if isinstance(outcome, PricedCore):
                outcomes_so_far.append(outcome)
            else:
                refused.append(outcome)
    document = _document(
        shape.name, weights_name, serving, target, least, frequency_hz, outcomes_so_far, refused
    )
    show(as_json, document, lambda console: _render(console, document))


def _core(name: str) -> CoreSpec:
    """The core preset `name`. Raises `RefusedError` for an engine or an unknown name."""
    if name in CORES:
        return CORES[name]
    if name in PRESETS:
        raise RefusedError(f"--accel: must be a core, {name} is none; choose {', '.join(CORES)}")
    raise UnknownNameError("core", name, list(CORES))


def _with_units(core: CoreSpec) -> CoreSpec:
    """The core with the units that it needs to compute whole tokens."""
    return core.evolve(
        vector_lanes=core.vector_lanes or LANES, attention_rows=core.attention_rows or ROWS
    )


def _document(
    model: str,
    weights: str,
    serving: Serving,
    target: SpeedTarget,
    least: Needs,
    frequency_hz: float,
    priced: Sequence[PricedCore],
    refused: Sequence[RequiredRefusal],
) -> dict[str, Any]:
    meets = sorted(
        (outcome for outcome in priced if not outcome.missing),
        key=lambda outcome_met: -outcome_met.tokens_per_s,
    )
    short = sorted(
        (outcome for outcome in priced if outcome.missing),
        key=lambda outcome: max(lack.factor for lack in outcome.missing),
    )
    bounds = "bandwidth_gbs", "macs_per_cycle", "buffer_bytes", "capacity_bytes"
    return to_record(
        Requirement(
            model=model,
            weights=weights,
            target=asdict(target),
            serving={
                "prefill_tokens": serving.prefill_tokens,
                "context": serving.contexts[0],
                "batch": serving.batch,
                "kv": serving.cache.name,
            },
            bandwidth_gbs=least.bandwidth_bytes_per_s / 1e9,
            bandwidth_from=least.bandwidth_from,
            macs_per_cycle=least.macs_per_cycle(frequency_hz),
            macs_from=least.macs_from,
            frequency_mhz=frequency_hz / 1e6,
            buffer_bytes=least.buffer_bytes,
            capacity_bytes=least.capacity_bytes,
            decode={"bytes": least.decode_bytes, "macs": least.decode_macs},
            prefill={"bytes": least.prefill_bytes, "macs": least.prefill_macs},
            labels=dict.fromkeys(bounds, "lower bound"),
            meets=[outcome.record() for outcome in meets],
            short=[outcome.record() for outcome in short],
            refused=list(refused),
            provenance=provenance(
                "bounds from bytes and MACs of the operations; cores by cycles of their programs, "
                "attention and vector operations modelled",
                ("numpy",),
            ),
        )
    )


def _render(console: Console, document: dict[str, Any]) -> None:
    serving, target = document["serving"], document["target"]
    sequences = f" for {serving['batch']} sequences at once" if serving["batch"] > 1 else ""
    target_text = f"{target['tokens_per_s']:g} tokens/s"
    if target["ttft_s"] is not None:
        target_text += (
            f", a prompt of {serving['prefill_tokens']:,} tokens in {target['ttft_s']:g} s"
        )
    console.print(
        f"{document['model']}, {document['weights']} weights: {target_text}{sequences}\n"
        f"with {serving['context']:,} tokens in the cache, keys and values in {serving['kv']}\n",
        soft_wrap=True,
    )
    console.print(
        "At least (lower bounds: every byte moved once a pass, every MAC done once)", soft_wrap=True
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    clock = f"at {document['frequency_mhz']:g} MHz"
    table.add_row("bandwidth", f"{document['bandwidth_gbs']:.4g} GB/s", document["bandwidth_from"])
    table.add_row(
        "MACs per cycle", f"{document['macs_per_cycle']:.4g} {clock}", document["macs_from"]
    )
    table.add_row("buffer", f"{document['buffer_bytes']:,} bytes", "bandwidth times latency")
    table.add_row(
        "memory", f"{document['capacity_bytes'] / 1e6:,.1f} MB", "weights, embedding and cache"
    )
    console.print(table)
    units = f"cores with {LANES} vector lanes and {ROWS} attention rows, where they have none"
    if document["meets"]:
        console.print(f"\nMeets it (modelled; {units})", soft_wrap=True)
        console.print(_outcomes(document["meets"]))
    else:
        console.print(f"\nNone meets it; nearest are (modelled; {units})", soft_wrap=True)
        console.print(_outcomes(document["short"][:_NEAREST]))
        if len(document["short"]) > _NEAREST:
            console.print(f"and {len(document['short']) - _NEAREST} more, see --json")
    if refused := document["refused"]:
        console.print("\nNot priced")
        memories_of: dict[tuple[str, str], list[str]] = {}
        for refusal in refused:
            of_core = memories_of.setdefault((refusal["accelerator"], refusal["reason"]), [])
            of_core += [refusal["memory"]] if refusal["memory"] else []
        for (name, reason), memories in memories_of.items():
            behind = f" with {', '.join(memories)}" if memories else ""
            console.print(f"{name}{behind}: {reason}", soft_wrap=True)


def _outcomes(rows: Sequence[dict[str, Any]]) -> Table:
    """A table with one row for each core and speed, and all memories with which the core has that
    speed."""
    together: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        lacks = [f"{lack['what']} by {lack['factor']:.3g}x" for lack in row.get("short_of", ())]
        speeds = f"{row['tokens_per_s']:.4g}", f"{row['ttft_s']:.4g}"
        key = row["accelerator"], *speeds, row["label"], ", ".join(lacks)
        together.setdefault(key, []).append(row["memory"])
    table = Table(box=None, pad_edge=False)
    numbers = "tokens/s", "prompt, s"
    lacking = any("short_of" in row for row in rows)
    for title in ("core", *numbers, "number is", *(["short of"] if lacking else []), "memory"):
        is_number = title in numbers
        table.add_column(
            title, justify="right" if is_number else "left", no_wrap=is_number or title == "core"
        )
    for (core, speed, prompt, label, lacks), memories in together.items():
        lack = [lacks] if lacking else []
        table.add_row(core, speed, prompt, label, *lack, ", ".join(memories))
    return table
