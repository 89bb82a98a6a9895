"""The example of docs/integration.md: the exported core in a system, running a program."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evolute import front
from evolute.hw.emit.export import to_verilog
from evolute.hw.isa.docs import EXAMPLE_PRESET
from evolute.hw.spec.presets import preset
from evolute.verif.harness.simulators import available, build_native

EXAMPLE = Path(front.__file__).parents[1] / "docs" / "example"

# What `simulate.v` does, for a simulator whose clock comes from outside.
_BENCH = """
module bench (input aclk, input aresetn, output done, output failed);
  example example (.aclk(aclk), .aresetn(aresetn), .done(done), .failed(failed));
  always @(posedge aclk) if (done) $writememh("after.hex", example.memory.words);
endmodule
"""
_MAIN = """
#include "Vtop.h"
int main() {
    VerilatedContext context;
    Vtop top{&context};
    for (int cycle = 0; cycle < 5000; ++cycle) {
        top.aresetn = cycle >= 4;
        top.aclk = 0;
        top.eval();
        bool done = top.done;
        top.aclk = 1;
        top.eval();
        if (done) return top.failed;
    }
    return 2;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the exported core, the example and its memory image, as a user has it."""
    folder = tmp_path_factory.mktemp("example")
    command = [sys.executable, EXAMPLE / "image.py", folder]
    subprocess.run(command, check=True, cwd=EXAMPLE.parents[1])
    (folder / "evolute_core.v").write_text(to_verilog(preset(EXAMPLE_PRESET).spec))
    for name in ("example.v", "simulate.v"):
        shutil.copy(EXAMPLE / name, folder)
    return folder


def check_memory(folder: Path) -> None:
    """The simulated memory is the golden model's, and the program changed it."""
    words = {}
    for name in ("memory", "expected", "after"):
        lines = (folder / f"{name}.hex").read_text().splitlines()
        words[name] = [line for line in lines if not line.startswith("//")]
    assert words["after"] == words["expected"]
    changed = sum(a != b for a, b in zip(words["memory"], words["after"], strict=True))
    assert changed == 4  # bus words of one result tile


@pytest.mark.skipif(not available("verilator"), reason="no C++ compiler")
def test_example_computes_under_verilator(folder: Path) -> None:
    text = (folder / "evolute_core.v").read_text() + (folder / "example.v").read_text() + _BENCH
    program = build_native(text, "bench", {"main.cpp": _MAIN})
    subprocess.run([program], cwd=folder, check=True, timeout=60)
    check_memory(folder)


@pytest.mark.skipif(not shutil.which("iverilog"), reason="Icarus Verilog is not installed")
def test_example_computes_under_icarus(folder: Path) -> None:
    command = "iverilog -g2005 -o simulate simulate.v example.v evolute_core.v && ./simulate"
    assert command in (EXAMPLE / "simulate.v").read_text()
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("done after ")
    check_memory(folder)
