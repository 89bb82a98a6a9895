"""What an engine's netlist does with data: whether it is right, and the energy that it takes.

The standard cells of the netlist are simulated with operands as they would come, 64 tiles at once.
Every result is compared with the golden model and every transfer with the cycle model, so that an
energy is that of an engine that worked. The data are a layer of a real model with the activations
that a text causes, and beside them random ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from evolute.hw.emit.export import module_name
from evolute.hw.spec import Engine
from evolute.hw.spec.floating import FloatEngine
from evolute.hw.synthesis import libraries, power, synth, timing
from evolute.hw.synthesis.liberty import Library
from evolute.hw.synthesis.libraries import CellLibrary
from evolute.hw.synthesis.netlist import Netlist
from evolute.hw.synthesis.power import Power
from evolute.hw.synthesis.timing import Timing
from evolute.sim.golden import ROW_SHIFTS
from evolute.sim.weights import Book, Codebook
from evolute.sim.workload.linear import LayerName
from evolute.support.errors import RefusedError
from evolute.sw.deploy.assignment import assign, recoding_for
from evolute.sw.language_model.layer_inputs import layer_inputs
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.language_model.perplexity import python_prose, windows
from evolute.sw.tensors.activations import QuantActivations, quantize_activations
from evolute.sw.tensors.tensor import QuantTensor
from evolute.sw.tensors.weights import Weights
from evolute.verif.engines import stream_engine
from evolute.verif.engines.stream_engine import Case
from evolute.verif.harness import driver, gates
from evolute.verif.harness.vectors import Matmul, MatmulShape, random_matmul

RUNS = 64
"""Tiles that are simulated side by side."""

_RANDOM_GROUPS = 4
"""Scale groups of a tile of random data."""

_TOKENS = 256
"""Tokens of the text whose activations are taken."""


@dataclass(frozen=True)
class Operand:
    """What an engine is given: a name for it, and one tile per run."""

    name: str
    weights: str
    """The weights' format."""
    matmuls: tuple[Matmul, ...]


@dataclass(frozen=True)
class Energy:
    """What an engine's cells took for some data, at the library's corner, before layout."""

    data: str
    weights: str
    macs: int
    """Products of weights and activations, in all runs."""
    cycles: int
    """Clock cycles of all runs, from the command to the last result."""
    compared: int
    """Results that were compared with the golden model, all of them equal."""
    per_cycle: Power
    blocks: Mapping[str, Power]
    """The same by the engine's parts, each mapped on its own: a little more in sum."""
    clock_mhz: float
    """The clock at which leakage is counted."""

    @property
    def dynamic_fj_per_mac(self) -> float:
        """Energy of a product, without leakage."""
        return self.per_cycle.dynamic_fj * self.cycles / self.macs

    @property
    def leakage_fj_per_mac(self) -> float:
        """What leaks while a product is made."""
        return self.per_cycle.leakage_fj(self.clock_mhz) * self.cycles / self.macs

    @property
    def fj_per_mac(self) -> float:
        """Energy of a product, with leakage."""
        return self.dynamic_fj_per_mac + self.leakage_fj_per_mac


def random_operand(spec: Engine, rng: np.random.Generator, like: Operand | None = None) -> Operand:
    """Uniform activations and weight codes, in tiles of `like`'s shape and format.

    Without it they are of the engine's format with the most bits.
    """
    if like is None:
        weight_format = max(spec.formats, key=lambda codes: codes.bits)
        shape = MatmulShape(spec.m, spec.n, _RANDOM_GROUPS * spec.group_size, spec.group_size)
    else:
        weight_format, shape = like.matmuls[0].weight_format, like.matmuls[0].shape
    matmuls = []
    for _ in range(RUNS):
        matmul = random_matmul(rng, spec.activations, weight_format, shape)
        matmuls.append(driver.completed(spec, matmul, rng))
    return Operand(
        "random codes", weight_format.name if like is None else like.weights, tuple(matmuls)
    )


def layer_operand(
    spec: Engine,
    model: LanguageModel,
    name: LayerName,
    weights: Weights | None,
    rng: np.random.Generator,
) -> Operand:
    """Tiles of a model's layer, in the codes of `weights`, and the inputs that it sees.

    The inputs are those of Python's own prose, in float32 up to the layer. Each run has other rows
    and other columns. Raises `RefusedError` for an engine without a driver of real data, a layer
    that the model does not have or that the engine does not run.
    """
    if isinstance(spec, FloatEngine):
        raise RefusedError("--model: the floating-point baselines are measured with random data")
    chosen = weights or recoding_for(spec)
    if chosen is None:
        raise RefusedError(f"--model: no weights are known that {type(spec).__name__} runs")
    assignment = assign(model, chosen, spec)
    if name.whole not in assignment.layers:
        names = ", ".join(str(layer) for layer in list(assignment.layers)[:8])
        raise RefusedError(f"--layer: {model.name} has no layer {name}; it has {names}, ...")
    if assignment.layers[name.whole].on_host:
        raise RefusedError(f"--layer: the engine does not run {name}, which is left to the host")
    tensor = assignment.codes(name.whole)
    tokens = windows(model, python_prose(), _TOKENS - 1, _TOKENS)[0]
    inputs = quantize_activations(layer_inputs(model, str(name.whole), tokens), spec.activations)
    inputs = inputs.columns(tensor.columns[name.part or 0])
    title = f"{model.name} {name}"
    return tiles(spec, title, chosen.name, tensor.parts[name.part or 0], inputs, rng)


def tiles(
    spec: Engine,
    name: str,
    weights: str,
    tensor: QuantTensor,
    inputs: QuantActivations,
    rng: np.random.Generator,
) -> Operand:
    """Tiles of a layer that `tensor` holds the codes of, each with other rows of `inputs` and other
    columns. `name` and `weights` are what the operand is called by."""
    matmuls = []
    for _ in range(RUNS):
        rows = rng.choice(len(inputs.x), spec.m, replace=False)
        start = spec.n * int(rng.integers(0, max(1, tensor.shape[0] // spec.n)))
        exponent = None
        if inputs.exponent is not None:
            groups = -(-tensor.shape[1] // tensor.group)
            exponent = np.repeat(inputs.exponent[rows][:, None], groups, axis=1)
        shift = None
        if spec.row_shift_bits:
            shift = ROW_SHIFTS[type(spec)].table_shift(spec, inputs.x[rows], tensor.group)
        form = tensor.form.of_outputs(slice(start, start + spec.n))
        fill = isinstance(form, Codebook)
        if isinstance(form, Codebook):
            books = (Book(*(numbers.astype(np.int64) for numbers in book)) for book in form.books)
            form = replace(form, books=tuple(books))
        matmuls.append(Matmul(inputs.codes[rows], form, shift, exponent, fill))
    return Operand(name, weights, tuple(matmuls))


def measure(
    spec: Engine,
    operand: Operand,
    library: CellLibrary = libraries.NANGATE45,
    clock_mhz: float | None = None,
    seed: int = 0,
    *,
    by_block: bool = True,
) -> Energy:
    """The energy of an engine for some data, from its netlist; with `by_block` also by its parts.

    Without `clock_mhz` leakage is that at the clock of the netlist's longest path. Raises
    `AssertionError` where the netlist gives another result than the golden model, or in another
    cycle than the cycle model says: then no energy of it counts.
    """
    flat = _Timed.of(spec, library, by_block=False)
    fastest_mhz = 1e3 / flat.timing.delay_ns
    if clock_mhz is not None and clock_mhz > fastest_mhz:
        raise RefusedError(
            f"--clock-mhz: the longest path allows {fastest_mhz:.0f} MHz, got {clock_mhz:g}"
        )
    whole = _played(spec, operand, flat, seed)
    split: tuple[power.CellPower, ...] = ()
    if by_block:
        split = _played(spec, operand, _Timed.of(spec, library, by_block=True), seed).cells
    shapes = [matmul.shape for matmul in operand.matmuls]
    names = sorted({_block(name) for kind in split for name in kind.names})
    return Energy(
        data=operand.name,
        weights=operand.weights,
        macs=sum(shape.m * shape.n * shape.k for shape in shapes),
        cycles=whole.cycles,
        compared=whole.compared,
        per_cycle=power.total(whole.cells),
        blocks={
            name or module_name(spec).removeprefix("evolute_"): power.total(
                split, lambda cell, name=name: _block(cell) == name
            )
            for name in names
        },
        clock_mhz=clock_mhz or fastest_mhz,
    )


@dataclass(frozen=True)
class _Timed:
    """A netlist with its cells and its timing."""

    design: Netlist
    cells: Library
    timing: Timing

    @staticmethod
    def of(spec: Engine, library: CellLibrary, *, by_block: bool) -> _Timed:
        """That of a whole engine, or of its parts mapped one by one."""
        design = synth.mapped(spec, library, by_block=by_block)
        cells = libraries.cells_of(library, design)
        return _Timed(design, cells, timing.analyze(design, cells, library))


@dataclass(frozen=True)
class _Played:
    """What the cells of a netlist took in how many cycles, and how many results were compared."""

    cells: tuple[power.CellPower, ...]
    cycles: int
    compared: int


def _played(spec: Engine, operand: Operand, mapped: _Timed, seed: int) -> _Played:
    """Simulates a netlist, and compares it with the models."""
    cases = [Case(operand.name, (matmul,)) for matmul in operand.matmuls]
    models = [stream_engine.model_of(spec, case) for case in cases]
    rng = np.random.default_rng(seed)
    played = gates.play(
        mapped.design,
        mapped.cells,
        [
            stream_engine.stimulus(spec, case, model, rng)
            for case, model in zip(cases, models, strict=True)
        ],
        rng,
        hold=True,
        count_from=[int(model.command[-1]) for model in models],
    )
    compared = 0
    for case, model, recording in zip(cases, models, played.recordings, strict=True):
        elements, differences = stream_engine.compare(spec, case, model, recording)
        assert not differences, f"the netlist differs: {differences[0]}"
        compared += elements
    cells = power.cell_power(mapped.design, mapped.cells, mapped.timing, played.activity)
    return _Played(cells, played.activity.cycles, compared)


def _block(cell: str) -> str:
    """The part of the engine that a cell is in, from its hierarchical name; '' for none."""
    path = cell.removeprefix("$flatten\\")
    return "" if path.startswith("$") else path.partition(".")[0]
