"""Results of synthesis on disk, each under everything that it depends on: the Verilog, the revision
of this flow, the cell library and the versions of the tools."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evolute.hw import revisions
from evolute.hw.synthesis import nextpnr, yosys
from evolute.hw.synthesis.libraries import CellLibrary
from evolute.support import files
from evolute.support.identity import digest


def place(kind: str, inputs: tuple[str, ...], library: CellLibrary | None) -> Path:
    """Where the cache keeps what follows from inputs, flow, cell library and tools."""
    of_library = () if library is None else (library.requirement, *library.members)
    of_library += () if library is None or library.requirement else (library.wheel_sha256,)
    facts = (*inputs, revisions.SYNTHESIS, *of_library, yosys.version(), nextpnr.version())
    return files.cache_directory() / "synth" / f"{kind}-{digest(facts)}.json"


def remembered(
    kind: str,
    inputs: tuple[str, ...],
    measure: Callable[[], dict[str, Any]],
    library: CellLibrary | None = None,
    *,
    anew: bool = False,
) -> dict[str, Any]:
    """`measure()`, or, unless it shall be done `anew`, what it gave before for the same facts."""
    path = place(kind, inputs, library)
    if not anew:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return json.loads(path.read_text(encoding="utf-8"))
    measured = measure()
    files.write_text(path, json.dumps(measured, indent=2) + "\n")
    return measured
