"""`evolute sim`, the main job: a language model on an accelerator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from hw.cli import json_option, out_option, set_option, show, spec_from
from hw.files import RECORDS, append_record, provenance, read_records
from sim.memory import Platform
from sw.cli import (
    COUNT,
    accel_option,
    chosen_text,
    chosen_weights,
    context_option,
    default_tokens,
    load_model,
    model_argument,
    progress,
    summary,
    text_option,
    tokens_option,
    weights_option,
)
from sw.perplexity import default_context
from sw.quant import parse_weights
from sw.simulate import simulate

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


@click.command(epilog="Example: evolute sim smollm2-135m --accel lut-decode --weights w4g32 --json")
@model_argument
@accel_option
@set_option
@weights_option
@click.option("--prefill", type=COUNT, default=128, show_default=True, help="Prompt tokens.")
@click.option("--decode", type=COUNT, default=32, show_default=True, help="Tokens generated.")
@click.option(
    "--frequency-mhz",
    type=float,
    default=_PLATFORM.frequency_hz / 1e6,
    show_default=True,
    help="The engine's clock.",
)
@click.option(
    "--bandwidth-gbs",
    type=float,
    default=_PLATFORM.bandwidth_bytes_per_s / 1e9,
    show_default=True,
    help="Memory bandwidth in GB/s (1e9 bytes).",
)
@click.option(
    "--weight-buffer-kib",
    type=click.IntRange(min=0),
    default=_PLATFORM.weight_buffer_bytes // 1024,
    show_default=True,
    help="On-chip buffer that lets several row tiles share one read of the weights.",
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
    frequency_mhz: float,
    bandwidth_gbs: float,
    weight_buffer_kib: int,
    text_path: Path | None,
    tokens: int | None,
    context: int | None,
    out: Path,
    as_json: bool,
) -> None:
    """Run a language model on an accelerator: cycles, traffic, tokens/s and perplexity.

    Cycles are the engine's, equal to its RTL's on streams that keep up. Memory time is modelled:
    transfers overlap computation, at the stated bandwidth. Linear layers only.
    """
    spec = spec_from(accel, assignments)
    platform = Platform(frequency_mhz * 1e6, bandwidth_gbs * 1e9, weight_buffer_kib * 1024)
    if weights is not None:
        parse_weights(weights)  # refuse a slip before a model is fetched for it
    verified = last_verification(out / RECORDS, spec.digest)
    loaded = load_model(model)
    choice, text = chosen_weights(weights, loaded), chosen_text(text_path, model or loaded.name)
    measured, window = tokens or default_tokens(spec), context or default_context(loaded)
    with progress("predicting") as done:
        result = simulate(
            loaded, choice, spec, platform, prefill, decode, text, measured, window, done
        )
    record = {
        "kind": "sim",
        "accelerator": accel,
        **result.to_dict(),
        "method": choice.method,
        "verified": verified
        and {
            name: verified[name]
            for name in ("simulator", "seed", "transactions", "mismatches", "provenance")
        },
        "provenance": provenance(
            "cycles exact, memory modelled, perplexity measured on golden integers", ("numpy",)
        ),
    }
    append_record(out / RECORDS, record)
    show(as_json, record, lambda console: _render(console, record))


def _render(console: Console, record: dict[str, Any]) -> None:
    platform, perplexity = record["platform"], record["perplexity"]
    console.print(
        f"{record['model']}, {record['weights']} weights "
        f"({record['bits_total']:.3g} bits stored per weight) on {record['accelerator']}"
    )
    console.print(
        f"at {platform['frequency_hz'] / 1e6:g} MHz "
        f"and {platform['bandwidth_bytes_per_s'] / 1e9:g} GB/s\n"
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
    rows = (
        ("tokens", "tokens", ",", "asked for"),
        ("engine cycles", "cycles", ",", "exact, as the RTL"),
        ("engine utilization", "utilization", ".1%", "exact"),
        ("memory bytes", "dram_bytes", ",", "modelled"),
        ("seconds", "seconds", ".4g", "modelled"),
        ("tokens/s", "tokens_per_s", ".4g", "modelled, linear layers"),
        ("bound by", "bound", "", "modelled"),
    )
    for title, name, form, label in rows:
        totals.add_row(title, *(format(phase[name], form) for phase in phases), label)
    console.print()
    console.print(totals)
    console.print(
        f"\nperplexity {perplexity['quantized']:.4g} on the engine, {perplexity['float']:.4g} as "
        f"shipped (measured: {perplexity['tokens']} tokens of {perplexity['text']})"
    )
    if perplexity["tables_equal"] is not None:
        equal = "equal" if perplexity["tables_equal"] else "DIFFER from"
        console.print(f"logits through the lookup tables {equal} those of integer products")
    if record["host_layers"]:
        console.print(f"on the host in float32: {summary(record['host_layers'])}")
    verified = record["verified"]
    console.print(
        f"RTL verified: {verified['mismatches']} mismatches in {verified['transactions']} "
        f"transactions ({verified['simulator']}, seed {verified['seed']})"
        if verified
        else f"RTL not verified here yet: evolute verify {record['accelerator']}"
    )
