"""Runs the layers of a language model on a Verilated core and compares every stage of every token.

Weights and programs are written to the simulated memory once. One program per block takes the
prompt through the block, another takes the last token through the head, and one more takes each
further token through all of them. Between two stages of a program the host steps in.
`sim.cost.core` computes the cost of the same programs.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evolute.sim.program.placement import Stage, aligned
from evolute.sim.timing.memory import MemoryTiming
from evolute.sim.workload.linear import LayerName
from evolute.sw.deploy.image import PhaseProgram, contents
from evolute.sw.deploy.on_core import CoreModel, RunStage, fast_stage
from evolute.sw.deploy.pack import pack_input, unpack_results
from evolute.sw.tensors.activations import QuantActivations
from evolute.verif.core.bench import LIMIT_CYCLES, outcome, put
from evolute.verif.core.session import Event, Session
from evolute.verif.harness.differences import SUMS, wrong_values
from evolute.verif.harness.simulators import SimulatorError


@dataclass
class CounterTotals:
    """Sums of the RTL's counters over all programs of a phase."""

    programs: int = 0
    cycles: int = 0
    beats: int = 0
    steps: int = 0

    @property
    def bus_utilization(self) -> float:
        """Share of cycles in which a data word was read or written."""
        return self.beats / self.cycles

    @property
    def engine_utilization(self) -> float:
        """Share of cycles in which the engine took a step."""
        return self.steps / self.cycles


@dataclass
class Account:
    """What a run of a model on the core has counted and compared so far."""

    phases: dict[str, CounterTotals] = field(default_factory=dict)
    model_cycles: int = 0
    layers: int = 0
    """Layers whose results were compared, in all rows."""
    seconds: float = 0.0
    """Wall-clock time of the simulator."""
    differences: list[str] = field(default_factory=list)

    @property
    def rtl_cycles(self) -> int:
        return sum(totals.cycles for totals in self.phases.values())

    @property
    def cycles_per_s(self) -> float:
        """Simulated cycles per second."""
        return self.rtl_cycles / self.seconds if self.seconds else 0.0


class _Runner:
    """Computes stages on a session, in the order in which the model requests them."""

    def __init__(
        self,
        placed: CoreModel,
        session: Session,
        sequence: Iterator[PhaseProgram],
        progress: Callable[[int], None],
    ):
        self.placed, self.session, self.sequence, self.progress = (
            placed,
            session,
            sequence,
            progress,
        )
        self.integers = fast_stage(placed)
        self.account = Account()
        self.phase: PhaseProgram | None = None
        self.place = 0  # of the stage that comes next in the phase's program

    def __call__(self, stage: Stage, a: QuantActivations) -> Mapping[LayerName, NDArray[np.int64]]:
        starts = self.phase is None
        if self.phase is None:
            self.phase, self.place = next(self.sequence), 0
        program = self.phase.program
        batch = program.batches[self.place]
        assert batch.stage is stage and batch.rows == len(a.codes)
        words = pack_input(batch, a.codes, a.exponent)
        put(self.session.memory, batch.input_address, words)
        limit = 2 * self.phase.model.cycles + LIMIT_CYCLES
        began = time.perf_counter()
        if starts:
            event = self.session.run(program.address, len(program.instructions), limit)
        else:
            event = self.session.resume(limit)
        self.account.seconds += time.perf_counter() - began
        self.place += 1
        ends = self.place == len(program.batches)
        if event.kind != ("done" if ends else "sync"):
            end = f"{outcome(event)} in cycle {event.cycle}"
            raise SimulatorError(f"stage {stage.name} of {self.phase.name}: {end}")
        results = unpack_results(batch, self.session.memory)
        self._compare(stage, a, results)
        if ends:
            self._finish(self.phase)
            self.phase = None
        else:
            self._compare_sync(self.phase, event)
        return results

    def _differ(self, difference: str) -> None:
        self.account.differences.append(f"spec {self.placed.core.digest} {difference}")

    def _compare(
        self, stage: Stage, a: QuantActivations, results: Mapping[LayerName, NDArray[np.int64]]
    ) -> None:
        for name, expected in self.integers(stage, a).items():
            self.account.layers += 1
            for wrong in wrong_values(f"layer {name}:", results[name], expected, SUMS):
                self._differ(wrong)

    def _compare_sync(self, phase: PhaseProgram, event: Event) -> None:
        expected_cycle = phase.model.syncs[self.place - 1].raised_cycle
        if event.cycle != expected_cycle:
            self._differ(
                f"{phase.name} sync {self.place - 1} is in cycle {event.cycle}, "
                f"model says {expected_cycle}"
            )
        self.progress(self.account.model_cycles + event.cycle)

    def _finish(self, phase: PhaseProgram) -> None:
        counters, model = self.session.counters(), phase.model
        for name, value in counters.items():
            if value != getattr(model, name):
                self._differ(f"{phase.name} {name} is {value}, model says {getattr(model, name)}")
        totals = self.account.phases.setdefault(phase.name, CounterTotals())
        totals.programs += 1
        totals.cycles += counters["cycles"]
        totals.beats += counters["read_beats"] + counters["write_beats"]
        totals.steps += counters["steps"]
        self.account.model_cycles += model.cycles
        self.progress(self.account.model_cycles)


@contextlib.contextmanager
def on_rtl(
    placed: CoreModel,
    native: Path,
    prompt: Sequence[PhaseProgram],
    decode: PhaseProgram,
    timing: MemoryTiming,
    progress: Callable[[int], None] = lambda cycles: None,
) -> Iterator[tuple[RunStage, Account]]:
    """A context that gives the model's stages, computed on the Verilated core `native`, and a
    running account of them.

    `progress` is called with the number of cycles simulated so far. Raises `SimulatorError` if the
    core does not come to an end.
    """
    core = placed.core
    # The last bus word of instructions may be half a word.
    end = max(phase.program.end for phase in (*prompt, decode))
    size = aligned(end, core.bus_bytes)
    with Session(native, size, timing) as session:
        for address, data in contents(placed, (*prompt, decode)):
            put(session.memory, address, data)
        sequence = itertools.chain(prompt, itertools.repeat(decode))
        runner = _Runner(placed, session, sequence, progress)
        yield runner, runner.account
        runner.account.differences += [
            f"the bus: {violation}" for violation in session.violations()
        ]
