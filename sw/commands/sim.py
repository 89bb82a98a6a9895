"""`evolute sim`, the main job: a language model on an accelerator."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from evolute.hw.commands.specs import set_option
from evolute.hw.spec import CoreSpec
from evolute.hw.spec.base import SpecError
from evolute.hw.spec.platform import REFRESH_INTERVAL_S, REFRESH_S, Platform, decimal
from evolute.sim.timing.memory import memory_timing
from evolute.support import schema
from evolute.support.errors import RefusedError
from evolute.support.files import RECORDS, append_record, provenance, read_records
from evolute.support.options import (
    BANDWIDTH_GBS,
    COUNT,
    FREQUENCY_MHZ,
    KIB,
    LATENCY,
    json_option,
    out_option,
    show,
)
from evolute.sw.commands.eval import (
    accel_option,
    accelerator_from,
    chosen_text,
    chosen_weights,
    context_option,
    default_tokens,
    load_model,
    model_argument,
    progress,
    scope_summary,
    shipped_model,
    text_option,
    tokens_option,
    weights_option,
)
from evolute.sw.deploy.assignment import Accelerator, assign
from evolute.sw.deploy.simulate import require_room, simulate
from evolute.sw.language_model.perplexity import default_context, strided
from evolute.sw.tensors.weights import parse_weights

_PLATFORM = Platform()


def last_verification(records: Path, digest: str) -> dict[str, Any] | None:
    """The newest record of `evolute verify` for a spec, or None."""
    if not records.exists():
        return None
    found = [
        record
        for record in read_records(records)
        if record.get("kind") == "verify" and record.get("digest") == digest
    ]
    return found[-1] if found else None


@click.command(epilog="Example: evolute sim smollm2-135m --accel core-decode --latency 100 --json")
@model_argument
@accel_option
@set_option
@weights_option
@click.option("--prefill", type=COUNT, default=128, show_default=True, help="Prompt tokens.")
@click.option("--decode", type=COUNT, default=32, show_default=True, help="Tokens generated.")
@click.option(
    "--frequency-mhz",
    type=FREQUENCY_MHZ,
    help=f"The clock. Default: a core's own; {_PLATFORM.frequency_hz / 1e6:g} for an engine.",
)
@click.option(
    "--bandwidth-gbs",
    type=BANDWIDTH_GBS,
    default=_PLATFORM.bandwidth_bytes_per_s / 1e9,
    show_default=True,
    help="Memory bandwidth in GB/s (1e9 bytes); a core's is kept exactly, not in whole bytes.",
)
@click.option(
    "--latency",
    type=LATENCY,
    help=f"A core's memory: cycles from address to data. Default: {_PLATFORM.latency_cycles}.",
)
@click.option(
    "--refresh/--no-refresh",
    default=None,
    help=f"A core's memory: pause {REFRESH_S * 1e9:g} ns every {REFRESH_INTERVAL_S * 1e6:g} us. "
    "Default: no.",
)
@click.option(
    "--weight-buffer-kib",
    type=KIB,
    help="An engine's buffer that lets several row tiles share one read of the weights. "
    f"Default: {_PLATFORM.weight_buffer_bytes // 1024}.",
)
@text_option
@tokens_option
@context_option
@out_option
@json_option
def sim(
    model: str | None,
    accel: str,
    assignments: tuple[str, ...],
    weights: str | None,
    prefill: int,
    decode: int,
    frequency_mhz: float | None,
    bandwidth_gbs: float,
    latency: int | None,
    refresh: bool | None,
    weight_buffer_kib: int | None,
    text_path: Path | None,
    tokens: int | None,
    context: int | None,
    out: Path,
    as_json: bool,
) -> None:
    """Run a language model on an accelerator: cycles, traffic, tokens/s and perplexity.

    For a core, cycles are those of its compiled programs with the stated memory, as its RTL takes
    them. For an engine alone they are the engine's, on streams that keep up, and memory time is
    modelled: transfers overlap computation, at the stated bandwidth. Linear layers only.
    """
    spec = accelerator_from(accel, assignments)
    platform = _platform(spec, frequency_mhz, bandwidth_gbs, latency, refresh, weight_buffer_kib)
    if weights is not None:
        parse_weights(weights)  # refuse a slip before a model is fetched for it
    verified = last_verification(out / RECORDS, spec.digest)
    loaded = load_model(model)
    require_room(loaded, prefill, decode)
    choice, text = chosen_weights(weights, loaded), chosen_text(text_path, model or loaded.name)
    measured, window = tokens or default_tokens(spec), context or default_context(loaded)
    strided(loaded, text, measured, window, None)  # refuse windows before weights are read
    assignment = assign(loaded, choice, spec)
    original = shipped_model(loaded, None)
    with progress("predicting") as done:
        result = simulate(
            assignment, platform, prefill, decode, text, measured, window, done, original
        )
    how = (
        "cycles of compiled programs with the stated memory"
        if isinstance(spec, CoreSpec)
        else "cycles exact, memory modelled"
    )
    record = schema.to_record(
        schema.Run(
            accelerator=accel,
            **result.to_dict(),
            method=assignment.method,
            verified=verified
            and {
                name: verified[name]
                for name in ("simulator", "seed", "transactions", "mismatches", "provenance")
            },
            provenance=provenance(f"{how}, perplexity measured on golden integers", ("numpy",)),
        )
    )
    append_record(out / RECORDS, record)
    scope = scope_summary(assignment)
    show(as_json, record, lambda console: _render(console, record, scope))


def _platform(
    spec: Accelerator,
    frequency_mhz: float | None,
    bandwidth_gbs: float,
    latency: int | None,
    refresh: bool | None,
    weight_buffer_kib: int | None,
) -> Platform:
    """What the options say surrounds `spec`. Raises `RefusedError` for those of the other kind."""
    bandwidth = _scaled(bandwidth_gbs, 10**9)

    def refuse(what: str, **options: object) -> None:
        for name, value in options.items():
            if value is not None:
                raise RefusedError(f"--{name.replace('_', '-')}: only for {what}")

    if isinstance(spec, CoreSpec):
        refuse("an engine alone", weight_buffer_kib=weight_buffer_kib)
        frequency = spec.clock_mhz if frequency_mhz is None else frequency_mhz
        try:
            found = Platform(
                _scaled(frequency, 10**6),
                bandwidth,
                latency_cycles=_PLATFORM.latency_cycles if latency is None else latency,
                refresh=bool(refresh),
            )
            memory_timing(found)  # refuses a rate that cannot be kept exactly
        except SpecError as error:
            options = f"--bandwidth-gbs {bandwidth_gbs:g} at --frequency-mhz {frequency:g}"
            raise RefusedError(f"{options}: {error}") from None
        return found
    refuse("a core", latency=latency, refresh=refresh)
    frequency_hz = (
        _PLATFORM.frequency_hz if frequency_mhz is None else _scaled(frequency_mhz, 10**6)
    )
    kib = _PLATFORM.weight_buffer_bytes // 1024 if weight_buffer_kib is None else weight_buffer_kib
    return Platform(frequency_hz, bandwidth, kib * 1024)


def _scaled(value: float, factor: int) -> float:
    """`value` times `factor` as decimal numbers: 1.1 GB are 1,100,000,000 bytes, nothing less."""
    return float(decimal(value) * factor) if math.isfinite(value) else value


_ENDING_ROWS = (
    ("memory bytes", "dram_bytes", ",", ""),
    ("seconds", "seconds", ".4g", "without the host"),
    ("tokens/s", "tokens_per_s", ".4g", "of linear layers"),
    ("share of MACs", "mac_share", ".1%", "the rest: the host"),
)
_ENGINE_ROWS = (
    ("engine cycles", "cycles", ",", "as the RTL"),
    ("engine utilization", "utilization", ".1%", ""),
    *_ENDING_ROWS,
    ("bound by", "bound", "", "what takes longer"),
)
_CORE_ROWS = (
    ("core cycles", "cycles", ",", "for this memory, as the RTL"),
    ("engine utilization", "engine_utilization", ".1%", "for this memory"),
    ("bus utilization", "bus_utilization", ".1%", "for this memory"),
    *_ENDING_ROWS,
    ("bound by", "bound", "", "or by waiting: latency"),
)
"""What each figure is called, its name in the record, its form, and a word on it;
`evolute.support.labels` says what kind of number it is."""


def _render(console: Console, record: dict[str, Any], scope: str) -> None:
    platform, perplexity = record["platform"], record["perplexity"]
    console.print(
        f"{record['model']}, {record['weights']} weights "
        f"({record['bits_total']:.3g} bits stored per weight) on {record['accelerator']}"
    )
    console.print(scope, soft_wrap=True)
    memory = platform.get("memory")
    rate = f" ({memory['bytes_per_cycle']} bytes per cycle)" if memory else ""
    console.print(
        f"at {platform['frequency_hz'] / 1e6:.10g} MHz "
        f"and {platform['bandwidth_bytes_per_s'] / 1e9:.10g} GB/s{rate}\n"
    )
    layers = Table(box=None, pad_edge=False)
    for title in ("layer", "x", "N x K", "codes", "prefill cycles", "bound", "decode cycles",
                  "bound"):  # fmt: skip
        layers.add_column(title, justify="right" if "cycles" in title or title == "x" else "left")
    both = zip(record["prefill"]["layers"], record["decode"]["layers"], strict=True)
    for prefill, decode in both:
        layers.add_row(
            prefill["name"],
            str(prefill["count"]),
            f"{prefill['n']} x {prefill['k']}",
            prefill["weights"],
            f"{prefill['cycles']:,}",
            prefill["bound"],
            f"{decode['cycles']:,}",
            decode["bound"],
        )
    console.print(layers)
    totals = Table(box=None, pad_edge=False)
    for title in ("", "prefill", "decode", "number is"):
        totals.add_column(title, justify="right" if title in ("prefill", "decode") else "left")
    phases = record["prefill"], record["decode"]
    rows = _CORE_ROWS if "bus_utilization" in record["decode"] else _ENGINE_ROWS
    totals.add_row("tokens", *(format(phase["tokens"], ",") for phase in phases), "asked for")
    for title, name, form, note in rows:
        label = ": ".join(filter(None, (record["labels"][name], note)))
        totals.add_row(title, *(format(phase[name], form) for phase in phases), label)
    console.print()
    console.print(totals)
    shipped = "of the model as shipped nothing is known"
    if perplexity["float"] is not None:
        shipped = f"{perplexity['float']:.4g} as shipped"
    console.print(
        f"\nperplexity {perplexity['quantized']:.4g} on the engine, {shipped} "
        f"(measured: {perplexity['tokens']} tokens of {perplexity['text']})"
    )
    if perplexity["tables_equal"] is not None:
        equal = "equal" if perplexity["tables_equal"] else "DIFFER from"
        console.print(f"logits of the golden model {equal} those of integer products")
    verified = record["verified"]
    console.print(
        f"RTL verified: {verified['mismatches']} mismatches in {verified['transactions']} "
        f"transactions ({verified['simulator']}, seed {verified['seed']})"
        if verified
        else f"RTL not verified here yet: evolute verify {record['accelerator']}"
    )
