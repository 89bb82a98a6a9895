"""Measures perplexity against bits for the quantizers, on models with a name: `python -m
evolute.sw.commands.accuracy`.

Only weights are quantized here; activations stay in float32, so that a row describes its quantizer
and not an accelerator. Each model is measured on text of its own kind, a part of which is also used
for calibration, and on text of another kind, which is not. Finished models stay in the output
folder and are not quantized again.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from evolute.support import schema
from evolute.support.files import RECORDS, append_record, provenance
from evolute.support.options import json_option, out_option, show
from evolute.sw.checkpoints import zoo
from evolute.sw.commands.eval import COUNT, progress
from evolute.sw.language_model.linear import host_linears
from evolute.sw.language_model.perplexity import default_context, measure
from evolute.sw.language_model.text_kinds import calibration_texts, check_text, mixed_windows
from evolute.sw.quantizers.hessian import calibrate, default_tokens
from evolute.sw.quantizers.methods import parse_method
from evolute.sw.quantizers.whole_model import quantize_model

OTHER_TOKENS = 2046
"""Predicted tokens of text of another kind."""


@dataclass(frozen=True)
class Subject:
    """A model, and the methods by which it is quantized."""

    methods: tuple[str, ...]
    tokens: int
    """Predicted tokens; the text's second half, which helps to calibrate, begins after them."""
    text_of: str | None = None
    """The model whose text is predicted; None for its own."""


_GRIDS = (
    *("rtn-w2g32", "rtn-w3g32", "rtn-w4g32", "rtn-b3g32", "rtn-b4g32"),
    *("gptq-w2g32c", "gptq-w3g32c", "gptq-w4g32c", "gptq-b3g32", "gptq-tg32c"),
    *("awq-w3g32", "awq+gptq-w2g32c", "smooth-w3g32", "gptq-w2g32co2", "mixed-2.5", "mixed-3"),
)

SUBJECTS = {
    # Codebooks must be small where a model is.
    "evolute-tiny": Subject(
        (
            *_GRIDS,
            *("rtn-w2g32c", "vptq-v4k16", "vptq-v4k64", "vptq-v4k256", "vptq-v3k256"),
            *("vptq-v4k256n", "vptq-v4k256nr"),
        ),
        tokens=4088,
    ),
    # Its own samples at temperature 1: no other text of its kind is to be had.
    "stories15m": Subject(
        (
            *_GRIDS,
            *("vptq-v4k64", "vptq-v4k256", "vptq-v8k256r256"),
            *("vptq-v8k256r256n", "vptq-v8k256r256nr"),
        ),
        tokens=3570,
        text_of="evolute-tiny",
    ),
    # As shipped it has 4-bit weights: what is lost is lost a second time.
    "smollm2-135m": Subject(
        (
            *("rtn-w2g64", "rtn-w3g64", "rtn-w4g64", "rtn-b3g64"),
            *("gptq-w2g64c", "gptq-w3g64c", "gptq-w4g64c", "awq+gptq-w2g64c", "mixed-2.5"),
            *("vptq-v8k256r256", "vptq-v4k256"),
        ),
        tokens=1023,
    ),
    # Most of its weights are shipped in 5 bits. Its head, as large as all layers, stays as it is.
    "gemma-3-270m": Subject(
        (
            *("rtn-w2g64", "rtn-w3g64", "rtn-w4g64", "rtn-b3g64"),
            *("gptq-w2g64c", "gptq-w3g64c", "gptq-w4g64c", "vptq-v8k256r256"),
        ),
        tokens=1023,
    ),
}


@click.command(
    epilog="Example: python -m evolute.sw.commands.accuracy --model evolute-tiny --out out/accuracy"
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(list(SUBJECTS)),
    help="May be repeated. Default: all.",
)
@click.option(
    "--method", "only", multiple=True, help="One of those listed; may be repeated. Default: all."
)
@click.option("--workers", type=COUNT, default=2, show_default=True)
@out_option
@json_option
def main(
    models: tuple[str, ...], only: tuple[str, ...], workers: int, out: Path, as_json: bool
) -> None:
    """Quantize models by every listed method, and measure each."""
    records = [
        record for name in models or SUBJECTS for record in _measure(name, only, workers, out)
    ]
    show(as_json, records, lambda console: console.print(f"{len(records)} records in {out}"))


def _measure(name: str, only: tuple[str, ...], workers: int, out: Path) -> list[dict[str, object]]:
    model, subject = zoo.load(name), SUBJECTS[name]
    text = zoo.default_text(subject.text_of or name)
    if subject.text_of is not None:  # what sets texts apart is a token of that model alone
        text = replace(text, content=text.content.replace("<|story|>", ""))
    reference, context = host_linears(model), default_context(model)
    texts, other_text = calibration_texts(text), check_text()
    methods = {
        method_name: parse_method(method_name)
        for method_name in subject.methods
        if not only or method_name in only
    }
    calibration = None
    if any(method.calibrates for method in methods.values()):
        with progress(f"calibrating {name}") as done:
            parts = mixed_windows(model, texts, default_tokens(model), context)
            calibration = calibrate(model, parts, done)
    with progress(f"predicting other text, {name}") as done:
        shipped = measure(model, reference, reference, other_text, OTHER_TOKENS, context, done)
    records = []
    for method_name, method in methods.items():
        folder, began = out / name / method_name, time.perf_counter()
        used_calibration = calibration if method.calibrates else None
        with progress(f"{name}, {method_name}") as done:
            quantized, document = quantize_model(
                model, method, used_calibration, folder, workers=workers, progress=done
            )
        seconds = time.perf_counter() - began
        linear = host_linears(quantized)
        with progress(f"{name}, {method_name}, predicting") as done:
            accuracy = measure(
                quantized, linear, reference, text, subject.tokens, context, done, model
            )
        with progress(f"{name}, {method_name}, predicting other text") as done:
            elsewhere = measure(quantized, linear, None, other_text, OTHER_TOKENS, context, done)
        record = schema.to_record(
            schema.Accuracy(
                model=name,
                weights=method_name,
                method=method.words,
                activations="float32",
                bits_index=document["bits_index"],
                bits_total=document["bits_total"],
                proxy_error=document["proxy_error"],
                calibration_tokens=used_calibration and used_calibration.tokens,
                calibration_text=used_calibration and ", ".join(text.name for text in texts),
                **asdict(accuracy),
                other_text=elsewhere.text,
                other_tokens=elsewhere.tokens,
                other_perplexity=elsewhere.perplexity,
                other_reference_perplexity=shipped.perplexity,
                seconds=seconds,
                provenance=provenance("weights quantized, run in float32", ("numpy",), seed=0),
            )
        )
        append_record(out / RECORDS, record)
        records.append(record)
    return records


if __name__ == "__main__":
    main()
