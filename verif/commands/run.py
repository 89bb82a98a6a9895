"""The command `evolute run`, which generates text with the layers computed down to the RTL."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import click
import numpy as np
from click.core import ParameterSource
from numpy.typing import NDArray
from rich.console import Console

import evolute.sw.language_model.decoder
from evolute.hw.commands.specs import set_option
from evolute.hw.spec import CoreSpec
from evolute.sim.timing.memory import MemoryTiming
from evolute.support.errors import RefusedError
from evolute.support.options import COUNT, LATENCY, SEED, TEMPERATURE, json_option, show
from evolute.sw.commands.eval import (
    accel_option,
    accelerator_from,
    chosen_weights,
    kv_option,
    load_model,
    model_argument,
    progress,
    require_core,
    scope_summary,
    weights_option,
    working,
)
from evolute.sw.commands.prune_option import parse_pruning, prune_option
from evolute.sw.deploy.assignment import Assignment, assign, engine_in
from evolute.sw.deploy.image import phases
from evolute.sw.deploy.on_core import core_linears, core_model, golden_stage, integer_stage
from evolute.sw.deploy.on_engine import engine_linears, require_product
from evolute.sw.language_model.kv import KvFormat, parse_kv
from evolute.sw.language_model.linear import Linears, host_linears, linear_names
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.tensors.weights import FLOAT, Weights, parse_weights
from evolute.verif.core.run import Account, on_rtl
from evolute.verif.core.session import build

Backend = Literal["integer", "golden", "rtl", "float"]


@dataclass(frozen=True)
class Continuation:
    """A text to continue, and how."""

    model: LanguageModel
    weights: Weights
    prompt: Sequence[int]
    tokens: int
    choose: Callable[[NDArray[np.float32]], int]
    timing: MemoryTiming
    kv: KvFormat
    began: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Continued:
    """The new tokens, what was measured, and lines of text about it."""

    tokens: list[int]
    measured: dict[str, Any] = field(default_factory=dict)
    lines: Sequence[str] = ()


def _generate(job: Continuation, linear: Linears) -> list[int]:
    tokens: list[int] = []
    with progress("generating") as done:
        for token in evolute.sw.language_model.decoder.generate(
            job.model, linear, job.prompt, job.tokens, job.choose, job.kv
        ):
            tokens.append(token)
            done(len(tokens) / job.tokens)
    return tokens


def _on_core(
    job: Continuation, core: CoreSpec, backend: Backend, assignment: Assignment
) -> Continued:
    with working("preparing the weights"):
        placed = core_model(assignment)
        prompt, decode = phases(placed, len(job.prompt), job.timing)

    def cycles(tokens: int) -> int:
        """The cycles that the model gives for `tokens` passes."""
        return sum(phase.model.cycles for phase in prompt) + (tokens - 1) * decode.model.cycles

    if backend != "rtl":
        stage = {"integer": integer_stage, "golden": golden_stage}[backend](placed)
        tokens = _generate(job, core_linears(placed, stage))
        passes = min(len(tokens) + 1, job.tokens)  # a stop token is not among those found
        return Continued(
            tokens, {"digest": core.digest, "cycles": {"rtl": None, "model": cycles(passes)}}
        )
    with working("building the core"):
        native = build(core)
    with contextlib.ExitStack() as stack:
        done = stack.enter_context(progress("simulating"))
        total = cycles(job.tokens)
        on_core = on_rtl(placed, native, prompt, decode, job.timing, lambda now: done(now / total))
        run_stage, account = stack.enter_context(on_core)
        linear = core_linears(placed, run_stage)
        tokens = list(
            evolute.sw.language_model.decoder.generate(
                job.model, linear, job.prompt, job.tokens, job.choose, job.kv
            )
        )
    return Continued(tokens, _measured(core, account), _lines(core, account, assignment))


def _measured(core: CoreSpec, account: Account) -> dict[str, Any]:
    return {
        "digest": core.digest,
        "cycles": {"rtl": account.rtl_cycles, "model": account.model_cycles},
        "phases": {
            name: {
                **asdict(totals),
                "bus_utilization": totals.bus_utilization,
                "engine_utilization": totals.engine_utilization,
            }
            for name, totals in account.phases.items()
        },
        "layers": account.layers,
        "mismatches": len(account.differences),
        "differences": account.differences,
        "simulated_cycles_per_s": account.cycles_per_s,
    }


def _lines(core: CoreSpec, account: Account, assignment: Assignment) -> list[str]:
    seconds = account.rtl_cycles / (core.clock_mhz * 1e6)
    return [
        f"{account.rtl_cycles:,} cycles of RTL, the model says {account.model_cycles:,}: "
        f"{seconds:.3g} s at {core.clock_mhz} MHz, {scope_summary(assignment)}",
        *(
            f"{name}: {totals.programs} programs, {totals.cycles:,} cycles, "
            f"bus busy {totals.bus_utilization:.1%}, engine {totals.engine_utilization:.1%}"
            for name, totals in account.phases.items()
        ),
        *(account.differences or [f"{account.layers:,} layers equal plain integers bit for bit"]),
        f"simulated {account.cycles_per_s:,.0f} cycles per second",
    ]


def _backend(stated: Backend | None, weights: str | None) -> Backend:
    """The backend that `--backend` and `--weights` together mean. Raises `RefusedError` for a
    contradiction."""
    if weights == FLOAT.name:
        if stated not in (None, "float"):
            raise RefusedError(f"backend: must be float with --weights float, got {stated}")
        return "float"
    if stated == "float" and weights is not None:
        raise RefusedError(f"weights: must be float with --backend float, got {weights}")
    return stated or "golden"


@click.command(
    epilog="\b\nExamples:\n"
    'evolute run --prompt "The capital of France is" --tokens 16\n'
    'evolute run evolute-tiny --prompt "One day" --tokens 3 --accel core-fpga --backend rtl \\\n'
    "    --prune tile-group:0.5/64"
)
@model_argument
@click.option("--prompt", required=True, help="Text to continue.")
@click.option("--tokens", type=COUNT, default=32, show_default=True, help="Tokens at most.")
@weights_option
@prune_option(sizes=False)
@accel_option
@set_option
@click.option(
    "--backend",
    type=click.Choice(["integer", "golden", "rtl", "float"]),
    default="golden",
    show_default="golden; float with --weights float",
    help="The golden model, the equal plain integer product, which is faster, or a core's RTL; or "
    "the model as shipped in float32, without an accelerator, as with --weights float.",
)
@kv_option
@click.option(
    "--temperature",
    type=TEMPERATURE,
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token.",
)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Of the draws above temperature 0."
)
@click.option(
    "--latency",
    type=LATENCY,
    default=MemoryTiming().latency_cycles,
    show_default=True,
    help="A core's memory: cycles from address to data.",
)
@json_option
@click.pass_context
def run(
    context: click.Context,
    model: str | None,
    prompt: str,
    tokens: int,
    weights: str | None,
    prune_text: str | None,
    accel: str,
    assignments: tuple[str, ...],
    backend: Backend,
    kv_name: str,
    temperature: float,
    seed: int,
    latency: int,
    as_json: bool,
) -> None:
    """Generate text, every linear layer computed as the accelerator computes it.

    With the backend `rtl`, a Verilated core computes every layer of every token, compared bit for
    bit with plain integers, and cycle by cycle with the cycle model; exit code 1 if they differ.
    The backend `float` gives the reference: the text of the model as shipped, on no accelerator.
    """
    spec = accelerator_from(accel, assignments)
    sparsity = parse_pruning(prune_text).of_weights()
    if weights is not None:
        parse_weights(weights)
    stated = context.get_parameter_source("backend") is not ParameterSource.DEFAULT
    backend = _backend(backend if stated else None, weights)
    if backend == "float" and sparsity is not None:
        raise RefusedError(f"--prune: must be of weights in codes, got {sparsity.name} of floats")
    if backend == "rtl":
        require_core("backend rtl", accel, spec)
    if backend == "integer":
        require_product(engine_in(spec))
    kv = parse_kv(kv_name)
    loaded = load_model(model)
    choice = FLOAT if backend == "float" else chosen_weights(weights, loaded)
    assignment = None if backend == "float" else assign(loaded, choice, spec, sparsity)
    ids = [*loaded.tokenizer.prefix, *loaded.tokenizer.encode(prompt)]
    evolute.sw.language_model.decoder.require_room(loaded.config, ids, tokens)
    choose = evolute.sw.language_model.decoder.greedy
    if temperature > 0:
        choose = evolute.sw.language_model.decoder.sampler(temperature, np.random.default_rng(seed))
    job = Continuation(
        loaded, choice, ids, tokens, choose, MemoryTiming(latency_cycles=latency), kv
    )
    if assignment is None:
        with working("preparing the weights"):
            linear = host_linears(loaded)
        outcome = Continued(_generate(job, linear))
    elif isinstance(spec, CoreSpec):
        outcome = _on_core(job, spec, backend, assignment)
    else:
        assert backend in ("integer", "golden")
        with working("preparing the weights"):
            linear = engine_linears(assignment, backend)
        outcome = Continued(_generate(job, linear))
    record: dict[str, Any] = {
        "model": loaded.name,
        "accelerator": None if backend == "float" else accel,
        "weights": choice.name,
        "pruned": sparsity and sparsity.name,
        "backend": backend,
        "kv": kv.name,
        "prompt": prompt,
        "tokens": outcome.tokens,
        "text": loaded.tokenizer.decode(outcome.tokens),
        "host": linear_names(loaded) if assignment is None else list(assignment.workload.host),
        "mac_share": 0.0 if assignment is None else assignment.workload.mac_share(),
        "recoded": None if assignment is None else assignment.recoding_record(),
        **outcome.measured,
        "seconds": time.perf_counter() - job.began,
    }

    def render(console: Console) -> None:
        console.print(prompt + record["text"], markup=False, soft_wrap=True)
        for line in outcome.lines:
            console.print(line, markup=False)

    show(as_json, record, render)
    context.exit(1 if outcome.measured.get("mismatches") else 0)
