"""RTL of a whole core: the harness with its memory, monitor and host, against a bare C++ loop.

Both run the same compiled stage on the same Verilated core; the bare loop answers every request in
the next cycle, looks at nothing and keeps no results.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import report
from evolute.hw.emit.export import module_name, to_verilog
from evolute.hw.isa.registers import REGISTERS, Control
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.presets import CORES
from evolute.sim.program.build import Program, compile_stages
from evolute.sim.program.placement import stage
from evolute.sim.timing.core import program_cycles
from evolute.sim.timing.memory import MemoryTiming
from evolute.sim.weights import Grid
from evolute.sim.workload.linear import LayerName, Linear
from evolute.sw.deploy.pack import images, pack_input
from evolute.sw.tensors.rescale import ScaledTensor
from evolute.verif.core import session as core_session
from evolute.verif.harness import simulators

PRESET = "core-decode"
LAYER = LayerName(None, "layer")
SHAPE = (3072, 576)
"""N, K of the gate and up projections of a SmolLM2-135M block."""
RUNS = 8
REPEATS = 5

MAIN = """
#include "Vtop.h"
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <iterator>
#include <vector>
int main(int, char** argv) {
    std::ifstream file(argv[1], std::ios::binary);
    const std::vector<char> image{std::istreambuf_iterator<char>(file), {}};
    const long runs = std::atol(argv[2]);
    Vtop top;
    auto cycle = [&] { top.aclk = 0; top.eval(); top.aclk = 1; top.eval(); };
    top.m_axi_arready = top.m_axi_awready = top.m_axi_wready = 1;
    top.s_axi_bready = 1; top.s_axi_wstrb = 15;
    top.aresetn = 0; cycle(); top.aresetn = 1;
    auto write = [&](unsigned offset, unsigned value) {
        top.s_axi_awaddr = offset; top.s_axi_wdata = value;
        top.s_axi_awvalid = top.s_axi_wvalid = 1; cycle();
        top.s_axi_awvalid = top.s_axi_wvalid = 0; cycle();
    };
    long cycles = 0;
    double seconds = 0;
    struct Burst { std::size_t address; unsigned beats; };
    for (long run = 0; run < runs; ++run) {
        for (int i = 3; i + 1 < 9; i += 2) write(std::atol(argv[i]), std::atol(argv[i + 1]));
        const auto start = std::chrono::steady_clock::now();
        write(std::atol(argv[9]), std::atol(argv[10]));
        std::deque<Burst> bursts;
        unsigned answers = 0;
        while (top.busy) {
            top.m_axi_rvalid = !bursts.empty();
            if (top.m_axi_rvalid) {
                std::memcpy(&top.m_axi_rdata, &image[bursts.front().address], BYTES);
                top.m_axi_rlast = bursts.front().beats == 1;
                bursts.front().address += BYTES;
                if (!--bursts.front().beats) bursts.pop_front();
            }
            top.m_axi_bvalid = answers > 0;
            answers -= top.m_axi_bvalid;
            if (top.m_axi_arvalid) bursts.push_back({top.m_axi_araddr, top.m_axi_arlen + 1u});
            answers += top.m_axi_wvalid && top.m_axi_wlast;
            cycle();
            ++cycles;
        }
        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
        seconds += passed.count();
    }
    std::printf("%f\\n", cycles / seconds);
}
"""


def compiled(core: CoreSpec) -> tuple[Program, np.ndarray]:
    """A layer of random four-bit weights for one row, and the memory that it needs."""
    rng, codes, (n, k), group = np.random.default_rng(0), WeightCodes(4), SHAPE, 32
    tensor = ScaledTensor(
        form=Grid.plain(rng.integers(0, codes.levels, (n, k), np.uint8), codes, group),
        coding=core.engine.coding_of(codes),
        scale=rng.integers(0, 1 << core.scale_bits, (n, k // group)).astype(np.uint16),
        offset=rng.integers(-9, 9, (n, k // group)).astype(np.int16),
        offset_shift=0,
        unit=np.ones(n, np.float32),
    )
    placed = stage(core, "layer", [Linear(LAYER, n, k, codes, group, 0)], 0)
    program = compile_stages(core, [placed], 1, placed.end)
    memory = np.zeros(-(-program.end // 4096) * 4096, np.uint8)
    (batch,) = program.batches
    maximum = core.engine.activations.maximum
    x = pack_input(batch, rng.integers(-maximum, maximum + 1, (1, k)))
    parts = [*images(core, placed, {LAYER: tensor}), (batch.input_address, x)]
    for address, data in (*parts, (program.address, np.frombuffer(program.code, np.uint8))):
        memory[address : address + len(data)] = data
    return program, memory


def bare_cycles_per_s(core: CoreSpec, program: Program, memory: np.ndarray) -> float:
    main = MAIN.replace("BYTES", str(core.bus_bytes))
    native = simulators.build_native(to_verilog(core), module_name(core), {"main.cpp": main})
    writes = {
        "program_low": program.address,
        "instructions": len(program.instructions),
        "interrupt_enable": 0,
        "control": int(Control.START),
    }
    words = [
        str(word) for name, value in writes.items() for word in (REGISTERS[name].offset, value)
    ]
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "memory"
        memory.tofile(image)
        command = [str(native), str(image), str(RUNS), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def harness_cycles_per_s(core: CoreSpec, program: Program, memory: np.ndarray) -> float:
    timing = MemoryTiming()
    model = program_cycles(core, program.instructions, timing, program.address)
    with core_session.Session(core_session.build(core), len(memory), timing) as session:
        session.memory[:] = memory
        start = time.perf_counter()
        for _ in range(RUNS):
            event = session.run(program.address, len(program.instructions))
            if event.cycle != model.cycles or session.violations():
                raise SystemExit(f"{event}, the model says {model.cycles}: {session.violations()}")
        return RUNS * model.cycles / (time.perf_counter() - start)


def main() -> None:
    core = CORES[PRESET]
    assert isinstance(core, CoreSpec)
    program, memory = compiled(core)
    # In turns, so that whatever else the machine does meets both.
    speeds = [
        (harness_cycles_per_s(core, program, memory), bare_cycles_per_s(core, program, memory))
        for _ in range(REPEATS)
    ]
    harness, bare = (statistics.median(rates) for rates in zip(*speeds, strict=True))
    report(
        {
            "harness_cycles_per_s": harness,
            "bare_cycles_per_s": bare,
            "ratio": harness / bare,
        },
        {
            "harness_cycles_per_s": f"{PRESET} with memory, monitor and host, a stage at a time",
            "bare_cycles_per_s": "limit: the Verilated core and the least that answers it",
            "ratio": "harness / limit",
        },
    )


if __name__ == "__main__":
    main()
