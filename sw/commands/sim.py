"""The command `evolute sim`, the main one: it runs a language model on an accelerator."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from evolute.hw.commands.specs import set_option
from evolute.hw.spec import CoreSpec
from evolute.hw.spec.base import SpecError
from evolute.hw.spec.memories import MEMORIES, Memory, memory
from evolute.hw.spec.platform import REFRESH_INTERVAL_S, REFRESH_S, Platform, decimal
from evolute.sim.cost.flash import ExpertCache
from evolute.sim.cost.token import Host
from evolute.sim.timing.memory import memory_timing
from evolute.sim.workload.pruned_shape import PrunedShape
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import ModelShape, NetworkShape
from evolute.support import schema
from evolute.support.errors import RefusedError
from evolute.support.files import RECORDS, append_record, provenance, read_records
from evolute.support.options import (
    BANDWIDTH_GBS,
    CONTEXT,
    CONTEXTS,
    COUNT,
    FREQUENCY_MHZ,
    KIB,
    LATENCY,
    RATE,
    Real,
    json_option,
    out_option,
    show,
)
from evolute.sw.checkpoints.sizes import beyond_context, without_tokens, without_weights
from evolute.sw.commands import reading
from evolute.sw.commands.eval import (
    accel_option,
    accelerator_from,
    chosen_text,
    chosen_weights,
    default_tokens,
    kv_option,
    load_model,
    model_argument,
    progress,
    scope_summary,
    shipped_model,
    summary,
    text_option,
    tokens_option,
    weights_option,
)
from evolute.sw.commands.profile_option import (
    parse_profile,
    profile_option,
    profile_record,
    told,
)
from evolute.sw.commands.prune_option import (
    parse_pruning,
    prune_option,
    pruning_record,
    resized,
    sizes_record,
    tokens_record,
    with_schedule,
)
from evolute.sw.commands.sim_pass import pass_record, render_pass
from evolute.sw.commands.sim_text import render
from evolute.sw.deploy.assignment import Accelerator, assign, engine_in
from evolute.sw.deploy.profiles import Evidence, serve
from evolute.sw.deploy.simulate import (
    AccuracyTrial,
    Request,
    Simulation,
    require_context,
    simulate,
    simulate_shape,
)
from evolute.sw.deploy.unweighted import DEFAULT_WEIGHTS, head_format, parse_format
from evolute.sw.language_model.kv import parse_kv
from evolute.sw.language_model.model import LanguageModel, ModelConfig
from evolute.sw.language_model.perplexity import default_context, strided
from evolute.sw.language_model.shape import model_shape
from evolute.sw.tensors.weights import parse_weights

DECODE_TOKENS = 32
"""Tokens that are generated where none are asked for."""

_PLATFORM = Platform()


def last_verification(records: Path, digest: str) -> dict[str, Any] | None:
    """The newest record of `evolute verify` for the spec with this digest; None if there is
    none."""
    if not records.exists():
        return None
    matching = [
        record
        for record in read_records(records)
        if record.get("kind") == "verify" and record.get("digest") == digest
    ]
    return matching[-1] if matching else None


@click.command(
    epilog="\b\nExamples:\n"
    "evolute sim smollm2-135m --accel core-decode --latency 100 --json\n"
    "evolute sim phi-3-mini-128k --context 1024,4096,16384 --kv int8 --memory kv260 \\\n"
    "    --set vector_lanes=4 --set attention_rows=4\n"
    "evolute sim llama-3.2-3b --profile speculative:gamma=4,acceptance=0.7,draft=llama-3.2-1b \\\n"
    "    --kv int8 --set vector_lanes=4 --set attention_rows=4\n"
    "evolute sim phi-3-mini-4k --memory kv260 --profile sampling:k=16,shortest=8,a=-1.2,b=-0.5\n"
    "evolute sim evolute-tiny --accel core-decode --weights w4g32 --prune tile-group:0.5/64\n"
    "evolute sim minitron-8b --prune hidden:0.25,heads:0.5,ffn:9216\n"
    "evolute sim llama-3.2-1b --prefill 2048 --prune tokens:0.5@4/0.75@10"
)
@model_argument
@accel_option
@set_option
@weights_option
@click.option(
    "--head",
    metavar="CHOICE",
    help="Of a model without weights: what its output head is in, as --weights, or host. "
    "Default: the widest integers that the engine runs.",
)
@prune_option(sizes=True)
@click.option("--prefill", type=COUNT, default=128, show_default=True, help="Prompt tokens.")
@click.option("--decode", type=COUNT, help="Tokens generated. Default: 32.")
@click.option(
    "--context",
    "contexts",
    type=CONTEXTS,
    metavar="N[,N...]",
    help="Tokens in the cache when one token is decoded; several give a curve. Default: the "
    "prompt's, and one more for each token.",
)
@click.option(
    "--extend-context",
    "extended",
    is_flag=True,
    help="Allow more tokens than the model was made for; its accuracy there is unknown. A --window "
    "beyond it takes the model's own long factors (LongRoPE), where its config.json states them.",
)
@click.option("--batch", type=COUNT, default=1, show_default=True, help="Sequences at once.")
@kv_option
@click.option(
    "--frequency-mhz",
    type=FREQUENCY_MHZ,
    help=f"The clock. Default: a core's own; {_PLATFORM.frequency_hz / 1e6:g} for an engine.",
)
@click.option(
    "--bandwidth-gbs",
    type=BANDWIDTH_GBS,
    help="Memory bandwidth in GB/s (1e9 bytes); a core's is kept exactly, not in whole bytes. "
    f"Default: {_PLATFORM.bandwidth_bytes_per_s / 1e9:g}.",
)
@click.option(
    "--memory",
    "memory_name",
    metavar="NAME",
    help=f"A memory or a board in place of a bandwidth: {', '.join(MEMORIES)}.",
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
@click.option(
    "--host-gmacs",
    type=RATE,
    help="The host's speed, 1e9 multiply-accumulates per second, for what is left to it.",
)
@click.option("--host-gbs", type=RATE, help="The host's memory bandwidth in GB/s.")
@click.option(
    "--expert-slots",
    type=COUNT,
    help="Of a model with routed experts: how many of each layer are in memory, the last ones "
    "used; the others are read from flash. Default: all.",
)
@click.option("--flash-gbs", type=RATE, help="The bandwidth of that flash in GB/s.")
@click.option(
    "--idle-rows",
    type=Real(0, 1),
    help="Of a model with ReLUs: which share of the rows behind them is idle for a token. Counts "
    "what a machine that skips them would be spared; no time is taken off.",
)
@profile_option
@click.option(
    "--perplexity/--no-perplexity",
    "wants_perplexity",
    default=None,
    help="Measure it, which takes a model with weights. Default: where there are weights.",
)
@text_option
@tokens_option
@click.option(
    "--window", type=CONTEXT, help="Perplexity's window. Default: 1024 or the model's context."
)
@click.option(
    "--what-would-help",
    "asks_what_helps",
    is_flag=True,
    help="Price decoding again with more bandwidth, clock, lanes, rows and buffer, one at a time.",
)
@click.option(
    "--trace",
    "trace_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write one decoded token of a core as a timeline that Chrome and Perfetto show. Takes "
    "about a second for 20,000 instructions.",
)
@out_option
@json_option
def sim(
    model: str | None,
    accel: str,
    assignments: tuple[str, ...],
    weights: str | None,
    head: str | None,
    prune_text: str | None,
    prefill: int,
    decode: int | None,
    contexts: tuple[int, ...] | None,
    extended: bool,
    batch: int,
    kv_name: str,
    frequency_mhz: float | None,
    bandwidth_gbs: float | None,
    memory_name: str | None,
    latency: int | None,
    refresh: bool | None,
    weight_buffer_kib: int | None,
    host_gmacs: float | None,
    host_gbs: float | None,
    expert_slots: int | None,
    flash_gbs: float | None,
    idle_rows: float | None,
    profile_text: str | None,
    wants_perplexity: bool | None,
    text_path: Path | None,
    tokens: int | None,
    window: int | None,
    asks_what_helps: bool,
    trace_path: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Run a language model on an accelerator: cycles, traffic, tokens/s and perplexity.

    MODEL is a model with weights, or one that is known by its sizes alone: a name of `evolute
    models`, a folder with a config.json, or a JSON file of sizes. Such a model's --weights may also
    be vptq-v8k256r256 or dla-v2c16 and the like, as in `evolute quantize --help`. Of an encoder one
    pass over --prefill tokens is priced, of a network of convolutions one over --batch images.

    For a core, cycles of the linear layers are those of its compiled programs with the stated
    memory, as its RTL takes them. For an engine alone they are the engine's, on streams that keep
    up, and memory time is modelled: transfers overlap computation, at the stated bandwidth. All
    that a token needs beside linear layers is listed; tokens/s are of whole tokens where all of it
    has a time, and of the linear layers alone elsewhere, as the output says.
    """
    spec = accelerator_from(accel, assignments)
    profile = None if profile_text is None else parse_profile(profile_text)
    pruning = parse_pruning(prune_text)
    request = Request(
        _serving(prefill, decode, contexts, batch, kv_name),
        *_platform(
            spec, frequency_mhz, bandwidth_gbs, memory_name, latency, refresh, weight_buffer_kib
        ),
        _host(host_gmacs, host_gbs),
        _experts(expert_slots, flash_gbs),
        idle_rows,
    )
    if trace_path is not None and not isinstance(spec, CoreSpec):
        raise RefusedError(f"--trace: must be of a core, {accel} is an engine alone")
    if (one_pass := without_tokens(model)) is not None:
        _require_one_pass(one_pass)
        chosen = parse_format("weights", DEFAULT_WEIGHTS if weights is None else weights)
        record = pass_record(one_pass, accel, spec, chosen, request)
        append_record(out / RECORDS, record)
        show(as_json, record, lambda console: render_pass(console, record))
        return
    verified = last_verification(out / RECORDS, spec.digest)
    shape, beyond = without_weights(model), beyond_context(model)
    smaller: PrunedShape | None = None
    chosen = evidence = None  # what other models of a profile are in, or are compared on
    if shape is not None:
        if wants_perplexity:
            raise RefusedError(f"--perplexity: {shape.name} has no weights to measure it with")
        for option, value in (("text", text_path), ("tokens", tokens), ("window", window)):
            if value is not None:
                raise RefusedError(f"--{option}: only with weights, which {shape.name} has not")
        require_context(shape, request.serving, extended=extended)
        first_context = shape.context
        chosen = parse_format("weights", DEFAULT_WEIGHTS if weights is None else weights)
        smaller = resized(shape, pruning, chosen.factors(engine_in(spec)))
        sized, sparsity = shape if smaller is None else smaller.shape, pruning.sparsity
        sized = with_schedule(sized, pruning, request.serving)
        if pruning.tokens is not None and profile is not None:
            raise RefusedError(f"--prune {pruning.tokens.name}: must be without --profile")
        formats = chosen, head_format(head, spec)
        result = simulate_shape(sized, *formats, spec, request, sparsity)

        def again(changed: Accelerator, request: Request) -> Simulation:
            return simulate_shape(sized, *formats, changed, request, sparsity)

        method = "sizes alone, no weights"
        scope = _sizes_scope(result)
    else:
        if head is not None:
            raise RefusedError("--head: only for a model without weights; a checkpoint has its own")
        sparsity = pruning.of_weights()
        if weights is not None:
            parse_weights(weights)  # refuse a slip before a model is fetched for it
        loaded = load_model(model)
        first_context = loaded.config.context
        if extended and window is not None and window > first_context:
            loaded = _stretched(loaded, beyond, window)
        require_context(model_shape(loaded), request.serving, extended=extended)
        choice = chosen_weights(weights, loaded)
        trial = text = None
        measured, width = tokens or default_tokens(spec), window or default_context(loaded)
        if wants_perplexity is not False or profile is not None:
            text = chosen_text(text_path, model or loaded.name)
        if wants_perplexity is not False and text is not None:
            strided(loaded, text, measured, width, None)  # refuse before weights are read
            original = shipped_model(loaded, None)
            trial = AccuracyTrial(text, measured, width, parse_kv(kv_name), original)
        assignment = assign(loaded, choice, spec, sparsity)
        with progress("predicting") as done:
            result = simulate(assignment, request, trial, done)
        method, scope = assignment.method, scope_summary(assignment)
        if text is not None:
            evidence = Evidence(assignment, text, measured, width)

        def again(changed: Accelerator, request: Request) -> Simulation:
            return simulate(replace(assignment, spec=changed), request, None)

    served = None
    if profile is not None:
        served = told(
            profile.name,
            lambda: serve(profile, result, spec, chosen, evidence, extended=extended),
        )

    how = (
        "cycles of compiled programs with the stated memory"
        if isinstance(spec, CoreSpec)
        else "cycles exact, memory modelled"
    )
    if result.measured is not None:
        how += ", perplexity measured on golden integers"
    record = schema.to_record(
        schema.SimRun(
            accelerator=accel,
            **result.to_dict(),
            method=method,
            extended_context=extended and request.serving.longest > first_context,
            long_factors_reach=beyond and beyond.context,
            pruning=pruning_record(result.sparsity),
            pruned_sizes=sizes_record(smaller),
            pruned_tokens=tokens_record(pruning.tokens, result.shape, request.serving),
            profile=served and profile_record(served),
            what_would_help=(
                [asdict(gain) for gain in reading.gains(spec, request, result, again)]
                if asks_what_helps
                else None
            ),
            verified=verified
            and {
                name: verified[name]
                for name in ("simulator", "seed", "transactions", "mismatches", "provenance")
            },
            provenance=provenance(how, ("numpy",)),
        )
    )
    if trace_path is not None and isinstance(spec, CoreSpec):
        reading.write_trace(trace_path, spec, request, result)
    append_record(out / RECORDS, record)
    show(as_json, record, lambda console: render(console, record, scope))


_OF_TOKENS = (
    *("head", "decode", "contexts", "extended", "expert_slots", "idle_rows", "profile_text"),
    *("wants_perplexity", "text_path", "tokens", "window", "asks_what_helps", "trace_path"),
)
"""Parameters that say something of tokens after a pass, or of what comes of weights."""
_OF_SEQUENCES = ("prefill", "kv_name", "host_gmacs", "host_gbs")
"""Parameters that say something of tokens."""


def _require_one_pass(shape: ModelShape | NetworkShape) -> None:
    """Raise `RefusedError` where an option is given that one pass of `shape` has no use for."""
    context, is_network = click.get_current_context(), isinstance(shape, NetworkShape)
    what = "a network of convolutions" if is_network else "an encoder"
    for name in (*_OF_TOKENS, *(_OF_SEQUENCES if is_network else ())):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            (parameter,) = (one for one in context.command.params if one.name == name)
            rule = f"not for {what}, and {shape.name} is one"
            raise RefusedError(f"{parameter.opts[0]}: {rule}")


def _stretched(model: LanguageModel, beyond: ModelConfig | None, window: int) -> LanguageModel:
    """The model with its own long factors (LongRoPE), which hold for all tokens of a window that is
    longer than its first context. Raises `RefusedError` where none are known that reach so far."""
    first = model.config.context
    if beyond is None or model.parent is not None:
        rule = f"must be at most {first:,} tokens, the context of {model.name}"
        known = "no long factors that reach further are stated by its config.json"
        raise RefusedError(f"--window: {rule}, got {window:,}; {known}")
    if window > beyond.context:
        rule = f"must be at most {beyond.context:,} tokens, as far as long factors reach"
        raise RefusedError(f"--window: {rule}, got {window:,}")
    return replace(model, config=beyond)


def _serving(
    prefill: int, decode: int | None, contexts: tuple[int, ...] | None, batch: int, kv_name: str
) -> Serving:
    """What the options ask of a model. Raises `RefusedError` for options that exclude each
    other."""
    if decode is not None and contexts is not None:
        raise RefusedError("--decode: only without --context, which decodes one token")
    kv = parse_kv(kv_name)
    return Serving(prefill, decode or DECODE_TOKENS, contexts or (), batch, kv.cache)


def _host(gmacs: float | None, gbs: float | None) -> Host | None:
    """The speed of the host; None if it is not stated. Raises `RefusedError` if only a part of it
    is."""
    if (gmacs is None) != (gbs is None):
        raise RefusedError("--host-gmacs and --host-gbs: only together")
    return None if gmacs is None or gbs is None else Host(gmacs * 1e9, gbs * 1e9)


def _experts(slots: int | None, gbs: float | None) -> ExpertCache | None:
    """How many experts are in memory; None where all are. Raises `RefusedError` for half of it."""
    if (slots is None) != (gbs is None):
        raise RefusedError("--expert-slots and --flash-gbs: only together")
    return None if slots is None or gbs is None else ExpertCache(slots, gbs * 1e9)


def _sizes_scope(result: Simulation) -> str:
    """A description of which linear layers of a model without weights are on the accelerator."""
    if not (left := result.workload.host):
        return "all linear layers on the accelerator, in formats by choice: no weights were read"
    share = result.workload.mac_share()
    return (
        f"WITHOUT {summary(left)}, left to the host ({1 - share:.1%} of the linear layers' MACs); "
        "no weights were read"
    )


def _platform(
    spec: Accelerator,
    frequency_mhz: float | None,
    bandwidth_gbs: float | None,
    memory_name: str | None,
    latency: int | None,
    refresh: bool | None,
    weight_buffer_kib: int | None,
) -> tuple[Platform, Memory | None]:
    """The platform around `spec` that the options describe. Raises `RefusedError` for options that
    do not apply to it."""
    if memory_name is not None and bandwidth_gbs is not None:
        raise RefusedError("--memory and --bandwidth-gbs: only one of them says the bandwidth")
    named = None if memory_name is None else memory(memory_name)
    option = f"--memory {memory_name}"
    if named is not None:
        bandwidth = named.bandwidth_bytes_per_s
    elif bandwidth_gbs is not None:
        bandwidth, option = _scaled(bandwidth_gbs, 10**9), f"--bandwidth-gbs {bandwidth_gbs:g}"
    else:
        bandwidth, option = _PLATFORM.bandwidth_bytes_per_s, "the default bandwidth"

    def refuse(kind: str, **options: object) -> None:
        for name, value in options.items():
            if value is not None:
                raise RefusedError(f"--{name.replace('_', '-')}: only for {kind}")

    if isinstance(spec, CoreSpec):
        refuse("an engine alone", weight_buffer_kib=weight_buffer_kib)
        frequency = spec.clock_mhz if frequency_mhz is None else frequency_mhz
        try:
            platform = Platform(
                _scaled(frequency, 10**6),
                bandwidth,
                latency_cycles=_PLATFORM.latency_cycles if latency is None else latency,
                refresh=bool(refresh),
            )
            memory_timing(platform)  # refuses a rate that cannot be kept exactly
        except SpecError as error:
            raise RefusedError(f"{option} at --frequency-mhz {frequency:g}: {error}") from None
        return platform, named
    refuse("a core", latency=latency, refresh=refresh)
    frequency_hz = (
        _PLATFORM.frequency_hz if frequency_mhz is None else _scaled(frequency_mhz, 10**6)
    )
    kib = _PLATFORM.weight_buffer_bytes // 1024 if weight_buffer_kib is None else weight_buffer_kib
    return Platform(frequency_hz, bandwidth, kib * 1024), named


def _scaled(value: float, factor: int) -> float:
    """`value` times `factor`, computed with decimal numbers: 1.1 GB are exactly 1,100,000,000
    bytes."""
    return float(decimal(value) * factor) if math.isfinite(value) else value
