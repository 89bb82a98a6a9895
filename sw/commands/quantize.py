"""The command `evolute quantize`, which writes a checkpoint in codes, by the name of a method."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from evolute.support import schema
from evolute.support.options import COUNT, SEED, WORKERS, json_option, show
from evolute.sw.commands.eval import context_option, load_model, model_argument, progress, told
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.language_model.perplexity import read_text
from evolute.sw.quantizers import lut_dla
from evolute.sw.quantizers.check import Check
from evolute.sw.quantizers.finished import unfinished_layers
from evolute.sw.quantizers.hessian import TOKENS, widest_input
from evolute.sw.quantizers.methods import EXAMPLES, GRAMMAR
from evolute.sw.quantizers.quantize import check_quantized, parse_choice
from evolute.sw.quantizers.quantize import quantize as quantize_model


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
    help="UTF-8 text to calibrate with. Default: several kinds in turn, of which the first is the "
    "second half of the text that `evolute eval` predicts the beginning of.",
)
@click.option(
    "--tokens",
    type=COUNT,
    help=f"Tokens to calibrate with. Default: {TOKENS}, or the most inputs that a layer has.",
)
@context_option
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option(
    "--workers", type=WORKERS, default=2, show_default=True, help="Processes; results are the same."
)
@click.option(
    "--proxy-error",
    "wants_error",
    is_flag=True,
    help="Calibrate for rounding too, which does not need it, only to say its proxy error.",
)
@click.option(
    "--check/--no-check",
    "checks",
    default=True,
    show_default=True,
    help="Measure the result, and rounding on the same grids, on another kind of text.",
)
@click.option("--force", is_flag=True, help="Allow codebooks larger than what they encode.")
@json_option
def quantize(
    model: str | None,
    name: str,
    folder: Path,
    text_path: Path | None,
    tokens: int | None,
    context: int | None,
    seed: int,
    workers: int,
    wants_error: bool,
    checks: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Quantize a model's linear layers, and say what each costs in bits and in accuracy."""
    parse_choice(name)  # refuse a slip before a model is fetched for it
    loaded = load_model(model)
    text = None if text_path is None else told(read_text(text_path))
    with _resumable(folder):
        quantized = quantize_model(
            loaded,
            name,
            folder,
            source=model,
            text=text,
            tokens=tokens,
            context=context,
            seed=seed,
            workers=workers,
            proxy_error=wants_error,
            force=force,
            stage=progress,
        )
    check = check_quantized(loaded, quantized, progress) if checks else None
    checked = None
    if check is not None:
        checked = schema.QuantizationCheck(**asdict(check), is_worse=check.is_worse)
    facts = {name: value for name, value in quantized.document.items() if name != "check"}
    record = schema.to_record(
        schema.Quantization(
            **facts,
            calibration=quantized.calibrated_with,
            check=checked,
            files=[str(path) for path in quantized.files],
            seconds=quantized.seconds,
        )
    )
    show(as_json, record, lambda console: _render(console, record))
    _warn(name, loaded, record["calibration"], check)


def _warn(
    method: str, model: LanguageModel, calibration: dict[str, Any] | None, checked: Check | None
) -> None:
    """Warn on stderr if there were few tokens for calibration, or if rounding would be better."""
    inputs = widest_input(model)
    if calibration is not None and calibration["tokens"] < inputs:
        click.echo(
            f"evolute: {calibration['tokens']:,} tokens to calibrate with are fewer than the "
            f"{inputs:,} inputs of the widest layer: what they say of inputs together counts less",
            err=True,
        )
    if checked is not None and checked.is_worse:
        click.echo(
            f"evolute: on text of another kind {method} is worse than rounding to nearest on the "
            f"same grids: perplexity {checked.quantized:.4g} against {checked.rounded:.4g}; "
            "calibrate with more or other text",
            err=True,
        )


@contextlib.contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """If the quantization into `folder` is interrupted in the block, tell on stderr how to
    continue."""
    try:
        yield
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


def _render(console: Console, record: dict[str, Any]) -> None:
    layers = Table("layer", "bits", "proxy error", "stages", box=None, pad_edge=False)
    for layer in record["layers"]:
        stages = ", ".join(f"{name} {error:.3g}" for name, error in layer["stages"].items())
        bits = f"{layer['bits_total']:.3f}"
        error = "" if layer["proxy_error"] is None else f"{layer['proxy_error']:.3g}"
        layers.add_row(layer["name"], bits, error, stages)
    console.print(layers)
    error = record["proxy_error"]
    console.print(
        f"{record['model']}, {record['method']}: {record['bits_total']:.3f} bits per weight, "
        + ("" if error is None else f"mean proxy error {error:.3g}, ")
        + f"{record['seconds']:.1f} s"
    )
    if (calibration := record["calibration"]) is None:
        console.print("rounded without calibration")
    else:
        console.print(f"calibrated with {calibration['tokens']:,} tokens of {calibration['text']}")
    if (checked := record["check"]) is not None:
        plain = checked["rounded"]
        rounded = "" if plain is None else f", {plain:.4g} rounded to nearest on the same grids"
        console.print(
            f"perplexity on {checked['tokens']:,} tokens of {checked['text']}: "
            f"{checked['as_shipped']:.4g} as shipped, {checked['quantized']:.4g} quantized"
            f"{rounded}"
        )
    console.print(f"wrote {', '.join(record['files'])}", soft_wrap=True)
