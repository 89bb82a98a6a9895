"""RTL simulation: the cocotb bench against the same design driven by a C++ loop."""

from __future__ import annotations

import subprocess
import time

import numpy as np

from benchmarks.timing import report
from evolute.hw.emit.export import module_name, to_verilog
from evolute.hw.spec import layout
from evolute.hw.spec.presets import ENGINE_PRESETS
from evolute.sim.timing.engine import run_cycles
from evolute.sim.timing.schedule import Run
from evolute.verif.harness import bench, simulators
from evolute.verif.harness.driver import command_word

PRESET = "lut-fpga"
RUN = Run(tiles=25, slices=100, group_slices=4, planes=4)
NATIVE_CYCLES = 2_000_000

# Every source offers a new random word each cycle and the sink takes every result.
MAIN = """
#include "Vtop.h"
#include <chrono>
#include <cstdio>
#include <cstdlib>
static uint32_t state = 1;
static uint32_t random_word() {
    state ^= state << 13; state ^= state >> 17; return state ^= state << 5;
}
template <std::size_t N> static void fill(VlWide<N>& word) {
    for (std::size_t i = 0; i < N; ++i) word[i] = random_word();
}
static void fill(QData& word) { word = (QData(random_word()) << 32) | random_word(); }
static void fill(IData& word) { word = random_word(); }
int main(int, char** argv) {
    Vtop top;
    const QData command = std::strtoull(argv[1], nullptr, 10);
    const long cycles = std::atol(argv[2]);
    auto cycle = [&] { top.clk = 0; top.eval(); top.clk = 1; top.eval(); };
    top.rst = 1; cycle(); top.rst = 0;
    top.command___05Fvalid = top.activation___05Fvalid = top.weight___05Fvalid = 1;
    top.result___05Fready = 1;
    top.command___05Fpayload = command;
    const auto start = std::chrono::steady_clock::now();
    for (long i = 0; i < cycles; ++i) {
        fill(top.activation___05Fpayload); fill(top.weight___05Fpayload); cycle();
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%f\\n", cycles / seconds.count());
}
"""


def main() -> None:
    spec = ENGINE_PRESETS[PRESET]
    verilog, top, streams = to_verilog(spec), module_name(spec), layout.streams(spec)
    command = command_word(spec, RUN)
    rng = np.random.default_rng(0)

    def noise(beats: int, bits: int) -> np.ndarray:
        return rng.integers(0, 256, (beats, -(-bits // 8)), dtype=np.uint8)

    free = np.zeros(0, bool)
    stimulus = bench.Stimulus(
        command=command,
        activation=noise(RUN.tiles * RUN.slices, streams.activation.bits),
        weight=noise(RUN.beats, streams.weight.bits),
        pause_command=free,
        pause_activation=free,
        pause_weight=free,
        pause_result=free,
        results=RUN.results,
        limit_cycles=2 * RUN.steps,
    )
    build = simulators.build(verilog, top)
    start = time.perf_counter()
    (recording,) = bench.play(build, [stimulus])
    bench_s = time.perf_counter() - start
    if recording.cycles != run_cycles(spec, [RUN]):
        raise SystemExit(f"{recording.cycles} cycles, the model says {run_cycles(spec, [RUN])}")

    program = simulators.build_native(verilog, top, {"main.cpp": MAIN})
    word = str(int.from_bytes(command[0].tobytes(), "little"))
    arguments = [str(program), word, str(NATIVE_CYCLES)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    bench_cycles_per_s, native_cycles_per_s = recording.cycles / bench_s, float(done.stdout)
    report(
        {
            "bench_cycles_per_s": bench_cycles_per_s,
            "native_cycles_per_s": native_cycles_per_s,
            "ratio": bench_cycles_per_s / native_cycles_per_s,
        },
        {
            "bench_cycles_per_s": f"cocotb bench on {PRESET}, start-up and every check included",
            "native_cycles_per_s": "limit: the Verilated design driven by C++",
            "ratio": "bench / limit",
        },
    )


if __name__ == "__main__":
    main()
