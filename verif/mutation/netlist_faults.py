"""Mutation coverage: random faults in the netlists of small designs, and how many of them the
verification finds.

A fault inverts one bit of one port of one cell, holds it at 0 or 1, or combines it with another bit
of the port (Yosys' pass `mutate`). It is killed only if the project's own verification of the
design (`verif.harness.verify`, `verif.core.kinds`) reports a difference or does not come to an end.
All faults of a design are in one netlist, so that it is built only once; a number at the start of
the simulation switches one of them on. `verif.mutation.equivalence` tries to prove of each fault
that is left that it changes nothing.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolute.hw.emit import sidecar
from evolute.hw.emit.export import module_name
from evolute.hw.spec import (
    BitSerial,
    CoreSpec,
    FloatMac,
    LutDla,
    LutStationary,
    LutTensorCore,
    Mac,
    Spec,
    VqCodebook,
)
from evolute.hw.spec.scaling import FloatScaling
from evolute.hw.spec.unit import RESET_CYCLES
from evolute.hw.synthesis import yosys
from evolute.support.schema import Mutant
from evolute.verif.core import kinds as core
from evolute.verif.core.session import ADVANCEABLE
from evolute.verif.engines import floating
from evolute.verif.engines.stream_engine import SETTABLE
from evolute.verif.harness.simulators import SimulatorError
from evolute.verif.harness.verify import Report, verify
from evolute.verif.mutation.equivalence import Reset, proof

RTL = "hw/rtl"
"""The folder of the RTL."""

_LUT = LutTensorCore(m=2, n=3, k=3, kg=2, activation_bits=5, weight_bits=3, group_size=13)
_MAC = Mac(m=2, n=3, k=5, activation_bits=5, weight_bits=5, group_size=13)
_VQ = VqCodebook(n=4, k=2, v=2, entries=4, activation_bits=5, weight_bits=5, group_size=13)
_SERIAL = BitSerial(
    m=2, n=3, k=5, terms="planes", activation_bits=5, weight_bits=4, group_size=13
)  # fmt: skip
_DLA = LutDla(m=2, n=3, v=3, centroids=8, lanes=4, activation_bits=4, weight_bits=4, group_size=13)
_STATIONARY = LutStationary(
    m=6, n=4, v=3, centroids=8, lanes=8, subspaces=5, tiles=4, activation_bits=5, weight_bits=4,
    beat_entries=2, queue=8,
)  # fmt: skip
_CORE = CoreSpec(
    engine=LutTensorCore(m=2, n=4, k=2, kg=1, activation_bits=5, weight_bits=3, group_size=6),
    bus_bits=128,
    burst_beats=8,
    outstanding_reads=3,
    weight_buffer_bytes=32768,
    activation_buffer_bytes=32768,
    scale_buffer_bytes=16384,
    accumulators=4096,
    scale_lanes=4,
    sum_bits=40,
)

DESIGNS: dict[str, Spec] = {
    "lut": _LUT,
    "lut-subsets": _LUT.evolve(mirrored=False, planes_per_step=2, weight_bits=4),
    "lut-digits": _LUT.evolve(base=3, weight_bits=2),
    "lut-rounded": _LUT.evolve(table_bits=4),
    "lut-fp16": _LUT.evolve(activation_format="fp16", activation_bits=7),
    "mac": _MAC,
    "mac-systolic": _MAC.evolve(k=1, arrangement="systolic"),
    "mac-shift-add": _MAC.evolve(multiplier="shift_add"),
    "serial-planes": _SERIAL,
    "serial-bitmod": _SERIAL.evolve(terms="bitmod", weight_bits=5),
    "serial-pairs": _SERIAL.evolve(terms="and"),
    "serial-skips": _SERIAL.evolve(terms="booth", skips=True, weight_bits=6),
    "codebook": _VQ.evolve(short_v=1),
    "codebook-table": _VQ.evolve(form="table", along="inputs"),
    "centroids": _DLA.evolve(overflow="saturate", accumulator_bits=5),
    "centroids-l2": _DLA.evolve(metric="l2"),
    "centroids-chebyshev": _DLA.evolve(metric="chebyshev", lanes=8),
    **floating.SMALL,
    "float-mac-fp16": FloatMac(m=1, n=1, k=2, weights="fp16", weight_bits=3, group_size=13),
    "scaling-fp16": FloatScaling(
        engine=FloatMac(m=2, n=2, k=2, weight_bits=3, group_size=13), scale_lanes=1
    ),
    "stationary": _STATIONARY,
    "stationary-tree": _STATIONARY.evolve(encoder="tree", lanes=2, metric="l2", keeps_indices=True),
    "stationary-gather": _STATIONARY.evolve(tables="gather", dedup=True),
    "core": _CORE,
    "core-serial": _CORE.evolve(scale_multiplier="serial", scale_bits=5, offset_bits=7),
    "core-skips": _CORE.evolve(
        engine=_SERIAL.evolve(terms="booth", skips=True, weight_bits=6, n=4, group_size=6),
        bus_bits=64,
        address_bits=28,
        outstanding_reads=1,
        burst_beats=4,
    ),
    "core-codebook": _CORE.evolve(engine=_VQ, scale_lanes=2),
    "core-fp16": _CORE.evolve(
        engine=_CORE.engine.evolve(activation_format="fp16", activation_bits=7),
        bus_bits=256,
    ),
}
"""What is made faulty, by name: every engine in each of its forms, the floating baselines, the
units and some complete cores, as small as shows what they do."""

PATIENCE_S = 300
"""Seconds after which a run of the bench counts as one without an end."""

_SWITCH, _SWITCH_BITS = "mutant", 16
_CLOCKS = ("CLK", "RD_CLK", "WR_CLK")
_KEPT = tuple(f"{part}.{name}" for name, part in {**ADVANCEABLE, **SETTABLE}.items())
"""Registers that the bench sets, whose outputs must stay as they are."""

_FLAT = (
    *("proc -norom", "flatten", "opt_expr", "opt_clean", "wreduce", "opt -full", "opt_clean"),
    *("splitcells", "opt_clean"),
)
"""What synthesis does in any case, unused bits of registers included: a fault in what it takes
away is none."""


@dataclass(frozen=True)
class Mutation:
    """A fault in a netlist: its design, the line of RTL source that it belongs to, and the
    arguments of Yosys' pass `mutate`."""

    design: str
    file: str
    """Name of the file in `hw/rtl`."""
    line: int
    change: str
    """Arguments of the pass `mutate`."""

    @property
    def name(self) -> str:
        """Design, line of source and change as one text."""
        return f"{self.design} {self.file}:{self.line}: {self.change}"


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation.

    `verdict` is `killed`, `equivalent` or `survived`. `reason` is the first message of the
    verification, or how equivalence was proved. `cpu_seconds` is the CPU time that this took.
    """

    mutation: Mutation
    verdict: str
    reason: str
    cpu_seconds: float

    @property
    def recorded(self) -> Mutant:
        """The outcome as it is stored in records."""
        mutation = self.mutation
        facts = (
            mutation.design,
            mutation.file,
            mutation.line,
            mutation.change,
            self.verdict,
            self.reason,
        )
        return Mutant(*facts, cpu_seconds=round(self.cpu_seconds, 2))


def netlist(spec: Spec) -> str:
    """The design as one flat module in RTLIL, whose cells name their lines of source."""
    from amaranth.back import (
        rtlil,  # pyright: ignore[reportAttributeAccessIssue] not in its stubs
    )

    from evolute.hw.rtl import BUILD

    text = rtlil.convert(BUILD[type(spec)](spec), name=module_name(spec), emit_src=True)
    script = ["read_rtlil top.il", *_FLAT, "write_rtlil flat.il"]
    return yosys.run(script, {"top.il": text}, ["flat.il"], timeout_s=300).files["flat.il"]


def points(design: str, flat: str, seed: int) -> dict[tuple[str, int], list[Mutation]]:
    """Every mutation of a flat netlist, by file and line of source. `seed` chooses the other bits
    that inverting mutations depend on."""
    script = [
        "read_rtlil flat.il",
        "select -set logic t:* t:$meminit* %d t:$scopeinfo %d",
        f"mutate -list 100000000 -seed {seed} -o list.txt @logic",
        "select -none",
        *(f"select -add w:{name} %ci2 t:*dff* %i" for name in _KEPT),
        "select -write kept.txt",
    ]
    files = yosys.run(script, {"flat.il": flat}, ["list.txt", "kept.txt"], timeout_s=300).files
    kept_cells = {line.partition("/")[2] for line in files["kept.txt"].splitlines()}
    mutations: dict[tuple[str, int], list[Mutation]] = {}
    inside = re.compile(rf"-src \S*/{RTL}/((?:\w+/)*\w+\.py):(\d+)")
    for text in files["list.txt"].splitlines():
        place = inside.search(text)
        change = re.sub(r" -(?:wire|wirebit|src|module) \S+", "", text.removeprefix("mutate "))
        port = re.search(r"-port (\S+)", change)
        cell = re.search(r"-cell (\S+)", change)
        if place is None or port is None or cell is None or port[1] in _CLOCKS:
            continue
        if port[1] == "Q" and cell[1] in kept_cells:
            continue
        line = place[1], int(place[2])
        mutations.setdefault(line, []).append(Mutation(design, *line, change))
    return mutations


def some_points(design: str, seed: int) -> dict[tuple[str, int], list[Mutation]]:
    """Up to eight random mutations for every line of source that the design's netlist comes
    from."""
    rng = np.random.default_rng((seed, *design.encode()))
    mutations = points(design, netlist(DESIGNS[design]), seed)
    return {
        line: [of_line[i] for i in rng.permutation(len(of_line))[:8]]
        for line, of_line in sorted(mutations.items())
    }


def draw(
    points_by_design: dict[str, dict[tuple[str, int], list[Mutation]]], count: int, seed: int
) -> list[Mutation]:
    """Choose `count` different mutations from those of several designs (`some_points` by design).

    First a line of source is drawn, each line once before any comes again; then a design that
    contains it; then a mutation there.
    """
    rng = np.random.default_rng(seed)
    remaining = {
        (line, design): list(mutations)
        for design, lines in points_by_design.items()
        for line, mutations in lines.items()
    }
    chosen: list[Mutation] = []
    while remaining and len(chosen) < count:
        lines = sorted({line for line, _ in remaining})
        for i in rng.permutation(len(lines))[: count - len(chosen)]:
            designs = sorted(design for line, design in remaining if line == lines[i])
            place = lines[i], designs[rng.integers(len(designs))]
            chosen.append(remaining[place].pop())
            if not remaining[place]:
                del remaining[place]
    return sorted(
        chosen, key=lambda mutation: (list(DESIGNS).index(mutation.design), mutation.name)
    )


def planted(spec: Spec, flat: str, mutations: list[Mutation]) -> str:
    """Verilog of a design in which a simulation with the arguments `switched(i)` has the i-th
    mutation, counted from 1."""
    top = module_name(spec)
    script = ["read_rtlil flat.il"]
    script += [
        f"mutate -module {top} {mutation.change} -ctrl {_SWITCH} {_SWITCH_BITS} {i}"
        for i, mutation in enumerate(mutations, 1)
    ]
    script += ["write_verilog -noattr top.v"]
    text = yosys.run(script, {"flat.il": flat}, ["top.v"], timeout_s=300).files["top.v"]
    declared = re.compile(rf"^  input \[\d+:0\] {_SWITCH};\n  wire (\[\d+:0\] {_SWITCH});", re.M)
    start = f'initial if (!$value$plusargs("{_SWITCH}=%d", {_SWITCH})) {_SWITCH} = 0;'
    text, replaced = declared.subn(rf"  reg \1;\n  {start}", text)
    text, removed = re.subn(rf"(^module [^;]*?), {_SWITCH}\b", r"\1", text, count=1, flags=re.M)
    if mutations and (replaced, removed) != (1, 1):
        raise AssertionError(f"{top}: Yosys declares the switch in another way")
    return text


def switched(number: int) -> tuple[str, ...]:
    """Arguments of a simulation of `planted` that switch one mutation on; 0 is none."""
    return (f"+{_SWITCH}={number}",)


class _EndlessError(Exception):
    """The verification does not come to an end."""


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _EndlessError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def first_difference(spec: Spec, verilog: str, number: int, seed: int = 1) -> str | None:
    """The first difference that the project's verification of a design reports with one mutation;
    None if it passes."""
    check: Callable[..., Report] = verify
    options: dict[str, Any] = {}
    if isinstance(spec, CoreSpec):
        check, options = core.verify, {"most_differences": 1}
    try:
        with _limited(PATIENCE_S):
            report = check(spec, seed=seed, verilog=verilog, plusargs=switched(number), **options)
    except _EndlessError:
        return f"the bench comes to no end in {PATIENCE_S} s"
    except (SimulatorError, ValueError) as error:
        # A simulation that ends, no answer from a register, a register with an unknown code.
        return f"the bench breaks down: {error}"
    return report.differences[0] if report.differences else None


def equivalence_proof(spec: Spec, flat: str, mutation: Mutation) -> str | None:
    """How it is proved that a mutation changes nothing, or None; see
    `verif.mutation.equivalence`."""
    around = sidecar.ports(spec)
    resets = (around.reset, *(reset for _, reset in around.more_clocks))
    cycles = RESET_CYCLES if around.more_clocks else 1
    reset = Reset(resets, around.reset_level, cycles)
    return proof(flat, module_name(spec), mutation.change, reset)
