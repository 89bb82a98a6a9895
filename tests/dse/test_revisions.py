"""What studies and caches are tied to: revisions of the models, and no bytes of source files.

`revisions.json` holds, by model and revision, a digest of what a few inputs give. Where results
change, the revision must grow, and the new one gets a line of its own there.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolute.dse.objectives import REVISIONS
from evolute.hw.emit.export import to_verilog
from evolute.hw.isa.instructions import disassemble
from evolute.hw.spec import CoreSpec, LutStationary, LutTensorCore, layout
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import PRESETS
from evolute.hw.synthesis import asic, libraries, nextpnr, synth, yosys
from evolute.hw.synthesis.fpga import FAMILIES
from evolute.sim.cost.evaluate import evaluate
from evolute.sim.golden import lut_stationary
from evolute.sim.timing.core import program_cycles
from evolute.sim.timing.memory import MemoryTiming
from evolute.sim.workload.linear import LayerName, Linear, Workload
from evolute.support import files
from evolute.support.files import FileError
from evolute.support.identity import digest
from evolute.sw.checkpoints.zoo import load
from evolute.sw.language_model.linear import host_linears
from evolute.sw.language_model.model import dequantized
from evolute.sw.language_model.perplexity import Text, measure
from evolute.sw.quantizers.hessian import Moments
from evolute.sw.quantizers.methods import parse_method, quantize_layer
from evolute.verif.core.programs import random_core, random_program
from evolute.verif.harness import driver
from evolute.verif.harness.driver import DRIVERS
from evolute.verif.harness.vectors import MatmulShape, random_matmul

PINS = json.loads(Path(__file__).with_name("revisions.json").read_text(encoding="utf-8"))
ROOT = Path(__file__).parents[2]


class Digest:
    """Of arrays, numbers and texts, one after another."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, *values: Any) -> None:
        for value in values:
            if isinstance(value, np.ndarray):
                text = f"{value.shape}{value.tolist()}"
            else:
                text = json.dumps(value, sort_keys=True)
            self._hash.update(text.encode() + b"\0")

    def __str__(self) -> str:
        return self._hash.hexdigest()[:16]


def golden() -> tuple[str, str]:
    """Group sums of three random specs of every engine in all their formats, and of a machine
    whose tables stay."""
    inputs, results = Digest(), Digest()
    for kind, filler in DRIVERS.items():
        rng = np.random.default_rng(0)
        for spec in itertools.islice((filler.random_spec(rng) for _ in itertools.count()), 3):
            shape = MatmulShape(2, 2 * spec.n, 3 * spec.slice_k, spec.slice_k)
            for weight_format in spec.formats:
                matmul = random_matmul(rng, spec.activations, weight_format, shape)
                matmul = driver.completed(spec, matmul, rng)
                inputs.add(kind.__name__, spec.digest, matmul.x, matmul.codes)
                sums = driver.expected(spec, matmul)
                results.add(sums.psum, sums.row_sum)
    rng = np.random.default_rng(0)
    spec = LutStationary(m=4, n=4, v=2, centroids=4, lanes=4, beat_entries=4, subspaces=4)
    operands = (
        rng.integers(-100, 100, (4, 7)),
        rng.integers(-100, 100, (4, 4, 2)),
        rng.integers(-100, 100, (4, 4, 4)),
    )
    inputs.add(spec.digest, *operands)
    results.add(lut_stationary.sums(spec, lut_stationary.product(spec, *operands)))
    return str(inputs), str(results)


def _layers(spec: Any) -> Workload:
    codes = WeightCodes(4) if spec.accepts(WeightCodes(4)) else spec.formats[-1]
    shapes = ((96, 64), (33, 257), (5, 1024))
    linears = tuple(Linear(LayerName(None, f"{n}x{k}"), n, k, codes, 32, 16) for n, k in shapes)
    return Workload("pinned", codes.name, linears, ())


def _priced() -> list[tuple[str, Any]]:
    """Presets whose steps depend on no weights, with what three layers cost."""
    engines = [each.spec for each in PRESETS.values() if getattr(each.spec, "steps_are_fixed", 0)]
    return [
        (spec.digest, evaluate(spec, _layers(spec), Platform(), 40, 2))  # type: ignore[arg-type]
        for spec in engines
    ]


def cycles() -> tuple[str, str]:
    """Cycles of layers on engines, and of random programs on random cores."""
    inputs, results = Digest(), Digest()
    for identity, metrics in _priced():
        inputs.add(identity)
        results.add([each.cycles for each in (*metrics.prefill.layers, *metrics.decode.layers)])
    rng = np.random.default_rng(0)
    cores = (random_core(rng) for _ in itertools.count())
    for core in itertools.islice((each for each in cores if each.engine.steps_are_fixed), 12):
        program = random_program(core, rng, 0, 40)
        inputs.add(core.digest, [disassemble(instruction) for instruction in program])
        results.add(program_cycles(core, program, MemoryTiming()).cycles)
    return str(inputs), str(results)


def cost() -> tuple[str, str]:
    """Bytes and seconds of layers on engines, to twelve digits."""
    inputs, results = Digest(), Digest()
    for identity, metrics in _priced():
        inputs.add(identity)
        for phase in (metrics.prefill, metrics.decode):
            inputs.add(phase.cycles)
            results.add(phase.tokens, phase.dram_bytes, f"{phase.seconds:.12g}")
    return str(inputs), str(results)


def rtl() -> tuple[str, str]:
    """The Verilog of a small engine of every kind and of a small core."""
    inputs, results = Digest(), Digest()
    inputs.add(importlib.metadata.version("amaranth"))
    rng = np.random.default_rng(0)
    specs = []
    for filler in DRIVERS.values():
        drawn = [filler.random_spec(rng) for _ in range(12)]
        specs.append(min(drawn, key=lambda spec: layout.streams(spec).result.bits * spec.slice_k))
    engine = LutTensorCore(m=1, n=2, k=2, kg=1, activation_bits=4, weight_bits=2, group_size=4)
    core = CoreSpec(engine=engine, bus_bits=64, scale_lanes=2, accumulators=8, sum_bits=16)
    for spec in (*specs, core):
        inputs.add(spec.digest)
        results.add(to_verilog(spec))
    return str(inputs), str(results)


_NETLIST = """
module pinned(input clk, input rst, input [3:0] address, input [7:0] a, input [7:0] b, input write,
  output reg [15:0] sum, output reg [7:0] word);
  reg [7:0] memory [0:15];
  always @(posedge clk) begin
    if (write) memory[address] <= a;
    word <= memory[address];
    if (rst) sum <= 0; else sum <= sum + a * b;
  end
endmodule
"""


def synthesis() -> tuple[str, str]:
    """A multiply-accumulate unit and a memory, in cells of every target that is not placed."""
    inputs, results = Digest(), Digest()
    inputs.add(yosys.version(), nextpnr.version(), _NETLIST)
    found: list[Any] = [asic.map_asic(_NETLIST, "pinned"), asic.split_asic(_NETLIST, "pinned")]
    mapped = (family for family in FAMILIES.values() if family.name != nextpnr.FAMILY)
    found += [synth.map_fpga(_NETLIST, "pinned", family, seed=1) for family in mapped]
    for each in found:
        facts = {name: value for name, value in vars(each).items() if name != "tool"}
        results.add(json.loads(json.dumps(facts, default=vars)))
    return str(inputs), str(results)


METHODS = (
    *("rtn-w3g16", "rtn-w3g16a", "rtn-w3g16f", "rtn-w1g16", "rtn-tg16", "rtn-b4g16", "rtn-w2g16c"),
    *("gptq-w3g16", "gptq-w2g16co5", "vptq-v4k8", "vptq-v4k8i", "vptq-v2k8g2n"),
)
"""One of every kind but residual codebooks: these follow from a nearly singular system, in which
the order of BLAS's sums decides which codewords are chosen."""


def quantizers() -> tuple[str, float]:
    """How far the weights of a small layer move by every kind of method, in all."""
    inputs, moved = Digest(), 0.0
    rng = np.random.default_rng(0)
    w = rng.normal(size=(24, 48)).astype(np.float32)
    x = (rng.normal(size=(200, 48)) @ rng.normal(size=(48, 48))).astype(np.float32)
    moments = Moments((x.T @ x / len(x)).astype(np.float32), np.abs(x).max(axis=0), len(x))
    inputs.add(METHODS)
    for name in METHODS:
        (choice,) = parse_method(name).candidates
        tensor, _ = quantize_layer(choice, w, moments, np.random.default_rng(0), True)
        moved += float(np.linalg.norm(dequantized(tensor) - w))
    return str(inputs), moved


def language_model() -> tuple[str, float]:
    """Perplexity of the model that ships, of a short text."""
    model = load("evolute-tiny")
    text = Text("pinned", "Once upon a time there was a girl who had a red ball. " * 6)
    linears = host_linears(model)
    found = measure(model, linears, linears, text, 60, 32)
    return digest(text.content)[:16], found.perplexity


RESULTS: dict[str, Callable[[], tuple[str, str | float]]] = {
    "rtl": rtl,
    "synthesis": synthesis,
    "golden": golden,
    "cycles": cycles,
    "cost": cost,
    "quantizers": quantizers,
    "language model": language_model,
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_change_of_results_needs_a_new_revision(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "synthesis":
        packed = files.cache_directory() / "liberty"
        try:
            libraries.text_of(libraries.NANGATE45)
        except FileError as error:
            pytest.skip(f"no cell library: {error}")
        (tmp_path / "liberty").symlink_to(packed)
        monkeypatch.setattr(files, "cache_directory", lambda: tmp_path)
    inputs, results = RESULTS[name]()
    revision = str(REVISIONS[name])
    line = json.dumps({"inputs": inputs, "results": results})
    pinned = PINS[name].get(revision)
    assert pinned is not None, f"revisions.json lacks {name!r}, revision {revision}: {line}"
    assert pinned["inputs"] == inputs, f"the inputs of {name!r} are others; pin them anew: {line}"
    wanted = pinned["results"]
    same = wanted == (pytest.approx(results, rel=1e-4) if isinstance(results, float) else results)
    assert same, (
        f"{name!r} gives other results; give it a new revision in its module, and pin that: {line}"
    )


def test_every_revision_of_a_study_is_held_to_results() -> None:
    # How candidates are drawn is held by the tests of searches, step by step.
    assert set(RESULTS) == set(REVISIONS) - {"search"} == set(PINS)


IDENTITIES = """
import json
import evolute.dse.objectives
from click.testing import CliRunner
from evolute.dse.commands.search import dse
from evolute.hw.synthesis import cache
from evolute.support import files
from evolute.verif.harness import simulators

def measured(bench, names, candidate):
    return dict.fromkeys(("area_ge", "delay_ns", "tokens_per_s", "perplexity", "clock_mhz"), 1.0)

evolute.dse.objectives.measure = measured
study = json.loads(CliRunner().invoke(dse, ["--trials", "1", "--json"]).stdout)["study"]
kept = []
files.write_text = lambda path, text: kept.append(path.name)
cache.remembered("asic", ("module identity; endmodule", "identity"), dict)
print(json.dumps([evolute.__file__, study, kept, simulators._tool_versions("verilator")]))
"""


def test_comments_and_checkouts_change_neither_studies_nor_caches(tmp_path: Path) -> None:
    """The same names from this checkout and from a copy of it, every file of which has a comment
    more."""
    copy = tmp_path / "copy"
    skipped = shutil.ignore_patterns("__pycache__", ".*", "out", "tests", "build", "docs")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=skipped)
    for path in copy.rglob("*.py"):
        path.write_text(path.read_text(encoding="utf-8") + "# One comment more.\n", "utf-8")
    found = []
    for number, root in enumerate((ROOT, copy)):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{IDENTITIES}"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        place, *identities = json.loads(done.stdout)
        assert Path(place).is_relative_to(root)
        found.append(identities)
    assert found[0] == found[1]


def test_studies_are_of_one_revision_only() -> None:
    assert digest(REVISIONS) != digest(REVISIONS | {"golden": REVISIONS["golden"] + 1})
