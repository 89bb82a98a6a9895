"""The command `evolute eval`, and functions that several commands about models share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from evolute.hw.commands.specs import set_option, spec_from
from evolute.hw.spec import CoreSpec, Engine, presets
from evolute.hw.spec.base import require
from evolute.support import schema
from evolute.support.errors import RefusedError
from evolute.support.files import RECORDS, append_record, provenance
from evolute.support.options import CONTEXT, COUNT, json_option, out_option, show
from evolute.support.waiting import shown
from evolute.sw.checkpoints import zoo
from evolute.sw.deploy.assignment import Accelerator, Assignment, assign, default_weights
from evolute.sw.deploy.on_core import on_accelerator
from evolute.sw.deploy.on_engine import Backend, fast_backend
from evolute.sw.language_model.kv import FLOAT32, NAMES, parse_kv, token_bytes
from evolute.sw.language_model.linear import host_linears
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.language_model.perplexity import Text, default_context, measure, read_text, strided
from evolute.sw.tensors.bits import model_bits
from evolute.sw.tensors.weights import FLOAT, GRAMMAR, Weights, parse_weights

TOKENS: dict[Backend, int] = {"integer": 1023, "golden": 127}
"""Predicted tokens of a measurement: one window of 1,024, or of 128 where it must go through the
lookup tables, entry by entry, because they are rounded."""

model_argument = click.argument("model", required=False)
accel_option = click.option(
    "--accel", default=presets.DEFAULT, show_default=True, metavar="PRESET", help="The accelerator."
)
weights_option = click.option(
    "--weights",
    metavar="CHOICE",
    help=f"{GRAMMAR}. Default: native, or w4g32 for a checkpoint without codes.",
)
text_option = click.option(
    "--text",
    "text_path",
    type=click.Path(path_type=Path),
    help="UTF-8 text to predict. Default: the model's held-out text, or Python's pydoc_data prose.",
)

tokens_option = click.option(
    "--tokens",
    type=COUNT,
    help="Tokens to predict. "
    f"Default: {TOKENS['integer']}; {TOKENS['golden']} where tables are rounded.",
)
context_option = click.option(
    "--context", type=CONTEXT, help="Window. Default: 1024 or the model's context."
)
kv_option = click.option(
    "--kv",
    "kv_name",
    metavar="FORMAT",
    default=FLOAT32.name,
    show_default=True,
    help=f"What the cache holds keys and values in: {NAMES}.",
)


def working(what: str) -> contextlib.AbstractContextManager[object]:
    """Show on stderr that something is in progress whose end is not known."""
    return shown(what)


def load_model(name: str | None) -> LanguageModel:
    """The named model, or the default one; fetched if necessary."""
    with working("loading the model"):
        if name is not None:
            return zoo.load(name)
        return zoo.load_default(lambda line: click.echo(f"evolute: {line}", err=True))


def chosen_weights(text: str | None, model: LanguageModel) -> Weights:
    """The weights that `--weights` names, or the default for `model`."""
    return default_weights(model) if text is None else parse_weights(text)


def accelerator_from(name: str, assignments: tuple[str, ...]) -> Accelerator:
    """The engine or core `name`, with changes of the form `field=value`.

    Raises `RefusedError` for a unit, because a model's programs do not feed its streams.
    """
    spec = spec_from(name, assignments)
    if not isinstance(spec, Engine | CoreSpec):
        raise RefusedError(f"{name} is a unit: it can be exported, synthesized and verified alone")
    return spec


def require_core(what: str, name: str, spec: Accelerator) -> CoreSpec:
    """Returns `spec`, which must be a core. Raises `RefusedError` naming `what` (which needs a
    core) and `name` otherwise."""
    if not isinstance(spec, CoreSpec):
        raise RefusedError(
            f"{what} needs a core, {name} is an engine; choose {', '.join(presets.CORES)}"
        )
    return spec


def default_tokens(spec: Accelerator) -> int:
    """The default number of tokens to predict."""
    return TOKENS[fast_backend(spec)]


def shipped_model(model: LanguageModel, against: str | None) -> LanguageModel | None:
    """The model to compare `model` with: the one that `--against` names, else the one from which it
    was made, else `model` itself.

    None, with a line on stderr, if the model from which it was made is not available. For
    `--against`, raises `SpecError` if the vocabularies differ, and the errors of `load`.
    """
    vocab = model.config.vocab
    if against is not None:
        original = zoo.load(against)
        rule = f"a model of the same {vocab} tokens"
        require(original.config.vocab == vocab, "against", rule, against)
        return original
    if model.parent is None:
        return model
    try:
        with working("loading the model that it was made of"):
            original = zoo.load_parent(model.parent)
        if original.config.vocab != vocab:
            raise RefusedError(f"it has {original.config.vocab} tokens, not {vocab}")
        return original
    except RefusedError as error:
        click.echo(
            f"evolute: nothing to compare {model.name} with, which was made of "
            f"{model.parent.name}: {error}; --against names another model",
            err=True,
        )
        return None


def chosen_text(path: Path | None, model: str) -> Text:
    """The text that `--text` names, or the default for the model with that name or path."""
    return zoo.default_text(model) if path is None else told(read_text(path))


def told(text: Text) -> Text:
    """Returns `text`, after telling the user on stderr if it differs from the content of its
    file."""
    if text.changes:
        click.echo(f"evolute: {text.name} is read {text.changes}", err=True)
    return text


def progress(what: str) -> contextlib.AbstractContextManager[Callable[[float], None]]:
    """Show on stderr how much work is done. The result is called with the share that is done, 0 to
    1."""
    return shown(what, 1.0)


@click.command(epilog="Example: evolute eval smollm2-135m --weights native --json")
@model_argument
@weights_option
@accel_option
@set_option
@text_option
@tokens_option
@context_option
@click.option(
    "--stride",
    type=COUNT,
    help="Tokens from one window to the next, which then overlap; what two predict counts once. "
    "Default: the window.",
)
@kv_option
@click.option(
    "--against",
    metavar="MODEL",
    help="The model to compare with. Default: the one that MODEL was made of by `quantize` or "
    "`convert`; MODEL itself in float32, where it was not.",
)
@out_option
@json_option
def eval(  # the front door finds a command by its name
    model: str | None,
    weights: str | None,
    accel: str,
    assignments: tuple[str, ...],
    text_path: Path | None,
    tokens: int | None,
    context: int | None,
    stride: int | None,
    kv_name: str,
    against: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Measure perplexity on an accelerator, next to the model as shipped.

    A model that `quantize` or `convert` wrote is compared with the one that it was made of.
    """
    spec = accelerator_from(accel, assignments)
    if weights is not None:
        parse_weights(weights)  # refuse a slip before a model is fetched for it
    kv = parse_kv(kv_name)
    loaded = load_model(model)
    choice, text = chosen_weights(weights, loaded), chosen_text(text_path, model or loaded.name)
    assignment, tokens = assign(loaded, choice, spec), tokens or default_tokens(spec)
    work = assignment.workload
    window, kv_bytes = context or default_context(loaded), token_bytes(kv, loaded.config)
    strided(loaded, text, tokens, window, stride)  # refuse windows before weights are read
    original, reference = shipped_model(loaded, against), None
    with working("preparing the weights"):
        linear = host_linears(loaded)
        if original is not None:
            reference = linear if original is loaded else host_linears(original)
        if choice != FLOAT:
            linear = on_accelerator(assignment)(fast_backend(spec))
    began = time.perf_counter()
    with progress("predicting") as done:
        accuracy = measure(
            loaded, linear, reference, text, tokens, window, done, original, stride, kv
        )
    record = schema.to_record(
        schema.Accuracy(
            model=loaded.name,
            accelerator=accel,
            spec=spec.to_dict(),
            digest=spec.digest,
            weights=choice.name,
            method=assignment.method,
            **asdict(model_bits(loaded, choice)),
            bits_held=work.bits_held,
            **asdict(accuracy),
            kv_bytes_per_token=kv_bytes,
            against=original and original.name,
            host=list(work.host),
            recoded=assignment.recoding_record(),
            seconds=time.perf_counter() - began,
            provenance=provenance("SLM run on the golden model's integers", ("numpy",)),
        )
    )
    append_record(out / RECORDS, record)

    def render(console: Console) -> None:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_row("perplexity", f"{accuracy.perplexity:.4g}")
        if original is not None:
            title = "as shipped" if original is loaded else f"of {original.name}"
            table.add_row(title, f"{accuracy.reference_perplexity:.4g}")
            table.add_row("divergence", f"{accuracy.kl:.4g} nats per token")
            table.add_row("same best token", f"{accuracy.top1:.1%}")
        table.add_row("stored", f"{record['bits_total']:.4g} bits per weight")
        console.print(f"{loaded.name}, {choice.name} ({assignment.method}) on {accel}")
        console.print(table)
        strides = f" every {accuracy.stride}" if stride is not None else ""
        console.print(f"{accuracy.tokens} tokens of {text.name}, windows of {window}{strides}")
        console.print(f"attention in float32, keys and values as {kv.name}: {kv_bytes:,} B a token")
        if recoding := record["recoded"]:
            console.print(recoding_summary(recoding), soft_wrap=True)
        if work.host:
            console.print(f"on the host in float32: {summary(work.host)}")

    show(as_json, record, render)


def scope_summary(assignment: Assignment) -> str:
    """A description of which linear layers are on the accelerator, which of them are coded again
    and with what loss, and which share of each token the host computes."""
    work, recoding = assignment.workload, assignment.recoding_record()
    recoded = "" if recoding is None else f"; {recoding_summary(recoding)}"
    if not work.left:
        return f"all linear layers on the accelerator{recoded}"
    return (
        f"WITHOUT {summary(work.host)}, left to the host in float32: {work.host_macs():,} MACs "
        f"({1 - work.mac_share():.1%} of the linear layers') and {work.host_bytes:,} bytes of "
        f"weights per token{recoded}"
    )


def recoding_summary(recoding: Mapping[str, Any]) -> str:
    """A description of a record that `Assignment.recoding_record` made."""
    count = len(recoding["layers"])
    return (
        f"{count} linear layer{'s' if count > 1 else ''} ({recoding['mac_share']:.1%} of the "
        f"MACs) without codes that the engine runs coded to {recoding['weights']}, relative "
        f"error of their weights {recoding['relative_error']:.2g}"
    )


def summary(names: Sequence[str]) -> str:
    """The name of a single layer, else the number of layers."""
    return names[0] if len(names) == 1 else f"{len(names)} linear layers"
