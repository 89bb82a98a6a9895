"""Runs Yosys from its Python wheel.

The wheel has no command line, and an error in a pass ends the interpreter. So every script runs in
a Python process of its own and writes its results to files. `python -m evolute.hw.synthesis.yosys`
is a substitute for the missing command line.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolute.hw.synthesis.tools import ToolError, run_tool

_MAIN = "from pyosys import libyosys as y; y.run_pass('script run.ys', y.Design())"


def version() -> str:
    """Name and version of the synthesis tool, as results state them."""
    return f"Yosys {importlib.metadata.version('pyosys')}"


@dataclass(frozen=True)
class ScriptResult:
    """What a script printed, and the files that it wrote as name to text."""

    log: str
    files: dict[str, str]


def run(
    script: Iterable[str], inputs: Mapping[str, str], outputs: Iterable[str], timeout_s: float
) -> ScriptResult:
    """Run the passes of a script in an empty folder that holds the files `inputs` (name to text).

    Raises `ToolError` if a pass fails, a file in `outputs` is missing or the script runs longer
    than `timeout_s` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="evolute-") as name:
        folder = Path(name)
        for file, text in inputs.items():
            (folder / file).write_text(text, encoding="utf-8")
        (folder / "run.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
        log = run_tool("yosys", [sys.executable, "-c", _MAIN], folder, timeout_s)
        try:
            files = {file: (folder / file).read_text(encoding="utf-8") for file in outputs}
        except FileNotFoundError as error:
            raise ToolError(f"yosys: wrote no {Path(error.filename).name}") from None
    return ScriptResult(log, files)


def cell_counts(stat_json: str) -> dict[str, int]:
    """The number of cells of each type in the whole design, from the output of `stat -json`."""
    design: dict[str, Any] = json.loads(stat_json)["design"]
    return dict(sorted(design["num_cells_by_type"].items()))


def main(arguments: Sequence[str]) -> None:
    """Run Yosys commands from the file after `-s` or the text after `-p`, as Yosys' own program
    does."""
    if len(arguments) != 2 or arguments[0] not in ("-s", "-p"):
        sys.exit("usage: python -m evolute.hw.synthesis.yosys -s FILE | -p COMMANDS")
    option, script = arguments
    if option == "-s" and not Path(script).is_file():
        sys.exit(f"evolute.hw.synthesis.yosys: no file {script}")
    from pyosys import libyosys  # pyright: ignore[reportAttributeAccessIssue] made when built

    libyosys.run_pass(f"script {script}" if option == "-s" else script, libyosys.Design())


if __name__ == "__main__":
    main(sys.argv[1:])
