"""`evolute quantize`: a checkpoint in codes, by name of the method."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from hw.cli import json_option, show
from hw.options import COUNT, SEED, WORKERS
from sw import quantized_file
from sw.cli import (
    chosen_text,
    context_option,
    load_model,
    model_argument,
    progress,
)
from sw.perplexity import default_context, windows
from sw.quantize import (
    quantize_model,
    require_fits,
    require_training,
    unfinished_layers,
    write_tables,
)
from sw.quantizers import lut_dla
from sw.quantizers.hessian import TOKENS, calibrate, default_calibration
from sw.quantizers.lut_dla import SAMPLES, parse_tables
from sw.quantizers.methods import EXAMPLES, GRAMMAR, parse_method


@click.command(
    epilog=f"\b\nMethods:\n{GRAMMAR}{lut_dla.GRAMMAR}\n\n"
    "Example: evolute quantize evolute-tiny --method gptq-w3g64 -o out/tiny-w3; "
    "evolute eval out/tiny-w3"
)
@model_argument
@click.option(
    "--method", "name", required=True, metavar="NAME", help=f"See below; such as {EXAMPLES}."
)
@click.option(
    "-o",
    "--out",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the quantized model; an interrupted run goes on from there.",
)
@click.option(
    "--text",
    "text_path",
    type=click.Path(path_type=Path),
    help="UTF-8 text to calibrate with. "
    "Default: the second half of the text that `evolute eval` predicts the beginning of.",
)
@click.option(
    "--tokens", type=COUNT, default=TOKENS, show_default=True, help="Tokens to calibrate with."
)
@context_option
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option(
    "--workers", type=WORKERS, default=2, show_default=True, help="Processes; results are the same."
)
@click.option("--force", is_flag=True, help="Allow codebooks larger than what they encode.")
@json_option
def quantize(
    model: str | None,
    name: str,
    folder: Path,
    text_path: Path | None,
    tokens: int,
    context: int | None,
    seed: int,
    workers: int,
    force: bool,
    as_json: bool,
) -> None:
    """Quantize a model's linear layers, and say what each costs in bits and in accuracy."""
    tables = parse_tables(name)  # refuse a slip before a model is fetched for it
    method = None if tables else parse_method(name)
    if tables is not None and tables.steps:
        require_training()
    loaded = load_model(model)
    text = chosen_text(text_path, model or loaded.name)
    if text_path is None:
        text = default_calibration(text)
    window = context or default_context(loaded)
    if method is not None:
        require_fits(loaded, method, force)
    elif tables is not None and tables.steps:
        from sw.quantizers.lut_boost import require_trainable  # PyTorch is an extra

        require_trainable(loaded)
    began = time.perf_counter()
    try:
        if method is None:
            assert tables is not None
            most = tokens if tables.steps else min(tokens, SAMPLES)
            parts = windows(loaded, text, most, window)
            count = sum(map(len, parts))
            with progress("making tables") as done:
                document = write_tables(loaded, name, tables, parts, folder, seed, done)
        else:
            with progress("calibrating") as done:
                calibration = calibrate(loaded, text, tokens, window, done)
            count, began = calibration.tokens, time.perf_counter()
            with progress("quantizing") as done:
                _, document = quantize_model(
                    loaded, method, calibration, folder, seed, workers, force, done
                )
    except KeyboardInterrupt:
        finished = unfinished_layers(folder)
        click.echo(
            f"evolute: {finished} groups of layers are done and kept in {folder}; "
            "the same command goes on from there"
            if finished
            else "evolute: no layer is done yet; the same command begins again",
            err=True,
        )
        raise
    record = {
        **document,
        "calibration": {"text": text.name, "tokens": count, "context": window},
        "files": [str(folder / each) for each in quantized_file.FILES],
        "seconds": time.perf_counter() - began,
    }
    show(as_json, record, lambda console: _render(console, record))


def _render(console: Console, record: dict[str, Any]) -> None:
    layers = Table("layer", "bits", "proxy error", "stages", box=None, pad_edge=False)
    for layer in record["layers"]:
        stages = ", ".join(f"{name} {error:.3g}" for name, error in layer["stages"].items())
        bits = f"{layer['bits_total']:.3f}"
        layers.add_row(layer["name"], bits, f"{layer['proxy_error']:.3g}", stages)
    console.print(layers)
    calibration = record["calibration"]
    console.print(
        f"{record['model']}, {record['method']}: {record['bits_total']:.3f} bits per weight, "
        f"mean proxy error {record['proxy_error']:.3g}, {record['seconds']:.1f} s"
    )
    console.print(f"calibrated with {calibration['tokens']} tokens of {calibration['text']}")
    console.print(f"wrote {', '.join(record['files'])}", soft_wrap=True)
