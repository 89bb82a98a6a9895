"""The command `evolute dse`, which searches for engines and picks one."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from evolute.dse.metrics import METRICS
from evolute.hw.spec import ENGINES
from evolute.hw.spec.base import require
from evolute.hw.spec.presets import PRESETS
from evolute.support import schema
from evolute.support.errors import RefusedError, UnknownNameError
from evolute.support.files import RECORDS, append_record, write_text
from evolute.support.identity import digest
from evolute.support.options import (
    BANDWIDTH_GBS,
    CONTEXT,
    COUNT,
    FREQUENCY_MHZ,
    SEED,
    WORKERS,
    json_option,
    out_option,
    show,
)
from evolute.support.waiting import shown

# What searches, and its libraries, is imported in the commands: help is shown without them.
if TYPE_CHECKING:
    import optuna

STORAGE = Path("out/dse.db")

storage_option = click.option(
    "--storage",
    type=click.Path(path_type=Path, dir_okay=False),
    default=STORAGE,
    show_default=True,
    help="SQLite file that keeps the studies.",
)


class DefaultGroup(click.Group):
    """A group whose first command runs if none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


@click.group(cls=DefaultGroup)
def dse() -> None:
    """Search for good engines; `dse pick` chooses one."""


@dse.command(
    epilog="Example: evolute dse --trials 24 --workers 2 --constraint 'area_ge<=100000'  "
    "Then: evolute dse pick"
)
@click.argument("space", default=next(iter(ENGINES)))
@click.option("--trials", type=COUNT, default=24, show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--study", "name", help="Name of the study. Default: made from all that defines it.")
@storage_option
@click.option("--resume", is_flag=True, help="Continue the study if it exists.")
@click.option("--workers", type=WORKERS, default=1, show_default=True)
@click.option(
    "--objectives",
    default="area_ge,tokens_per_s,perplexity",
    show_default=True,
    help=f"Two or more of {', '.join(METRICS)}.",
)
@click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="METRIC<=NUMBER",
    help="Bound on a metric, also with >=; may be repeated.",
)
@click.option("--model", "model_name", default="evolute-tiny", show_default=True)
@click.option(
    "--frequency-mhz",
    "frequencies_mhz",
    type=FREQUENCY_MHZ,
    multiple=True,
    default=(200.0,),
    show_default=True,
    help="Clock asked for; several are searched. A slower netlist runs at its own speed.",
)
@click.option(
    "--bandwidth-gbs",
    "bandwidths_gbs",
    type=BANDWIDTH_GBS,
    multiple=True,
    default=(6.4,),
    show_default=True,
    help="Memory bandwidth in GB/s; several are searched.",
)
@click.option(
    "--text",
    "text_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Text for perplexity. Default: the model's own.",
)
@click.option("--tokens", type=COUNT, default=1023, show_default=True)
@click.option("--context", type=CONTEXT, help="Window. Default: 1024 or the model's context.")
@out_option
@json_option
def search(
    space: str,
    trials: int,
    seed: int,
    name: str | None,
    storage: Path,
    resume: bool,
    workers: int,
    objectives: str,
    constraints: tuple[str, ...],
    model_name: str,
    frequencies_mhz: tuple[float, ...],
    bandwidths_gbs: tuple[float, ...],
    text_path: Path | None,
    tokens: int,
    context: int | None,
    out: Path,
    as_json: bool,
) -> None:
    """Search engine shapes and weights for the best trade-offs.

    Every candidate is synthesized, its cycles are counted on the model's layers, and the model's
    perplexity is measured in its weights. A trial is a measured candidate; illegal ones are free.
    """
    from evolute.dse.objectives import (
        REVISIONS,
        TOOLS,
        Benchmark,
        digest_of_model,
        measure,
        model,
        scope_in_words,
        text,
    )
    from evolute.dse.space import SPACE, choose, codes_to_try
    from evolute.dse.study import (
        Constraint,
        Strategy,
        explore,
        only_search,
        open_storage,
        open_study,
    )
    from evolute.dse.study_record import measured_trials, summary
    from evolute.hw.spec.platform import Platform
    from evolute.sw.commands.eval import told
    from evolute.sw.language_model.perplexity import default_context, windows

    spaces = [stem for stem, kind in ENGINES.items() if kind in SPACE]
    if space not in spaces:
        raise UnknownNameError("space", space, spaces)
    names = _metric_names(objectives)
    bounds = tuple(Constraint.parse(text) for text in constraints)
    choices = SPACE[ENGINES[space]]
    loaded = model(model_name)
    codes = codes_to_try(choices, loaded)
    frequencies_hz = tuple(1e6 * mhz for mhz in frequencies_mhz)
    bandwidths = tuple(1e9 * gbs for gbs in bandwidths_gbs)
    window = context or default_context(loaded)
    benchmark = Benchmark(model_name, text_path, tokens, window)
    content = told(text(benchmark))
    windows(loaded, content, tokens, window)  # refuses what no candidate could be measured with
    for frequency_hz, bandwidth in itertools.product(frequencies_hz, bandwidths):
        Platform(frequency_hz, bandwidth)
    metric_names = frozenset((*names, *(bound.name for bound in bounds)))
    setup: dict[str, Any] = {
        "engine": space,
        "fields": {field: list(of) for field, of in choices.fields.items()},
        "weights": list(codes),
        "limits": {limit.formula: limit.most for limit in choices.limits},
        "model": model_name,
        "model_digest": digest_of_model(model_name),
        "scope": scope_in_words(loaded),
        "objectives": list(names),
        "constraints": [bound.text for bound in bounds],
        "frequencies_hz": list(frequencies_hz),
        "bandwidths_bytes_per_s": list(bandwidths),
        "text": content.name,
        "text_digest": hashlib.sha256(content.content.encode()).hexdigest()[:12],
        "tokens": tokens,
        "context": window,
        "seed": seed,
        "revisions": REVISIONS,
        "tools": {tool: importlib.metadata.version(tool) for tool in TOOLS},
    }
    name = name or f"{space}-{model_name}-{digest(setup)[:6]}"
    plan = Strategy(
        choose=functools.partial(choose, choices, codes, frequencies_hz, bandwidths),
        measure=functools.partial(measure, benchmark, metric_names),
        objectives=names,
        constraints=bounds,
        seed=seed,
    )
    with only_search(storage, name):
        study = open_study(
            open_storage(storage),
            name,
            [METRICS[name].direction for name in names],
            setup,
            resume,
        )
        try:
            with shown("measuring candidates", trials) as progress:
                explore(study, plan, trials, workers, progress)
        except (KeyboardInterrupt, RefusedError):
            record = _keep(study, out)
            measured = len(measured_trials(record))
            click.echo(
                f"evolute: measured so far: {measured}, in {storage} and {out / RECORDS}; "
                "the same command with --resume continues"
                if measured
                else "evolute: no candidate is measured yet",
                err=True,
            )
            raise
        result = _keep(study, out)
    document = schema.to_record(summary(result))
    show(as_json, document, functools.partial(_draw_front, result))


def _keep(study: optuna.Study, out: Path) -> schema.Study:
    """Write the study's record, if anything was measured so far."""
    from evolute.dse import study_record as record

    result = record.of_study(study)
    if record.measured_trials(result):
        write_text(out / "front.csv", record.front_csv(result))
        append_record(out / RECORDS, schema.to_record(result))
    return result


@dse.command(epilog="Example: evolute dse pick --weight perplexity=3")
@click.argument("study", required=False)
@storage_option
@click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="OBJECTIVE=NUMBER",
    help="How much an objective counts; 1 unless told.",
)
@json_option
def pick(study: str | None, storage: Path, weights: tuple[str, ...], as_json: bool) -> None:
    """Choose from a study's front the candidate nearest to the best of every objective.

    STUDY is the newest of the storage unless named.
    """
    from evolute.dse import study_record as record
    from evolute.dse.pareto import knee, losses
    from evolute.dse.study import Constraint, StudyError, open_storage, shortfall

    if not storage.exists():
        raise StudyError(f"no study storage at {storage}; evolute dse makes one")
    opened = record.find(open_storage(storage), study)
    summary = record.of_study(opened)
    trials = record.front_trials(summary)
    if not trials:
        bounds = [Constraint.parse(text) for text in summary.constraints]
        raise StudyError(shortfall(opened, bounds))
    names = [objective.name for objective in summary.objectives]
    importance = dict.fromkeys(names, 1.0) | dict(_weight(weight, names) for weight in weights)
    points = losses(
        [[trial.metrics[name] for name in names] for trial in trials],
        [objective.direction for objective in summary.objectives],
    )
    chosen = trials[knee(points, [importance[name] for name in names])]
    accel = _changed_preset(chosen.spec)
    surroundings = f"--frequency-mhz {chosen.metrics['clock_mhz']:.6g}"
    surroundings += f" --bandwidth-gbs {chosen.bandwidth_bytes_per_s / 1e9:g}"
    commands = {
        "export": f"evolute export {accel} -o {chosen.digest}",
        "sim": f"evolute sim {summary.model} --accel {accel} --weights {chosen.weights}"
        f" {surroundings}",
    }
    candidate = schema.to_record(chosen)
    result = {"study": summary.study, "candidate": candidate, "commands": commands}

    def render(console: Console) -> None:
        _draw_table(console, summary.objectives, [chosen])
        console.print(json.dumps(chosen.spec), soft_wrap=True)
        console.print(commands["export"], commands["sim"], sep="\n", soft_wrap=True)

    show(as_json, result, render)


def _metric_names(objectives: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in objectives.split(",")))
    for name in names:
        if name not in METRICS:
            raise UnknownNameError("objective", name, list(METRICS))
    require(len(names) >= 2, "objectives", "two or more, a trade-off needs them", objectives)
    return names


def _changed_preset(spec: dict[str, Any]) -> str:
    """A spec as command-line arguments: a preset of its kind, with the fewest changed fields."""
    bases = {name: preset.spec.to_dict() for name, preset in PRESETS.items()}
    changes = {
        name: [f"{field}={value}" for field, value in spec.items() if value != base[field]]
        for name, base in bases.items()
        if base["kind"] == spec["kind"]
    }
    name = min(changes, key=lambda name: len(changes[name]))
    return name + "".join(f" --set {shlex.quote(change)}" for change in changes[name])


def _weight(text: str, names: list[str]) -> tuple[str, float]:
    from evolute.dse.study import positive

    name, equals, number = text.partition("=")
    require(bool(equals), "weight", "of the form OBJECTIVE=NUMBER", text)
    if name not in names:
        raise UnknownNameError("objective", name, names)
    return name, positive("weight", number)


def _draw_front(result: schema.Study, console: Console) -> None:
    from evolute.dse.study_record import front_trials

    trials = front_trials(result)
    _draw_table(console, result.objectives, trials)
    states = [trial.state for trial in result.trials]
    console.print(
        f"{len(trials)} of {states.count('complete')} measured candidates on the front, "
        f"{states.count('pruned')} refused, hypervolume {result.hypervolume:.4g}, "
        f"study {result.study}; speeds are of {result.scope}",
        soft_wrap=True,
    )


def _draw_table(
    console: Console, objectives: list[schema.Objective], trials: list[schema.Trial]
) -> None:
    table = Table("trial", "weights", "engine", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("clock\nMHz", justify="right")
    for objective in objectives:
        table.add_column(f"{objective.name}\n{objective.how}", justify="right")
    table.add_column("share of\nMACs", justify="right")
    for trial in trials:
        metrics = trial.metrics
        table.add_row(
            str(trial.number),
            trial.weights,
            _shape(trial.spec),
            f"{metrics['clock_mhz']:.0f}",
            *(_readable(metrics[objective.name]) for objective in objectives),
            f"{metrics['mac_share']:.1%}" if "mac_share" in metrics else "not stated",
        )
    console.print(table)


def _shape(spec: dict[str, Any]) -> str:
    shape = f"M{spec['m']} N{spec['n']} K{spec['k']}"
    shape += f"x{spec['kg']}" if "kg" in spec else ""
    return shape + (f", {spec['table_bits']}-bit tables" if spec.get("table_bits") else "")


def _readable(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
