"""Writes memory.hex for `example.v`: the program of docs/isa.md with random data, and expected.hex,
the same memory after it, from the golden model.

    python docs/example/image.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from evolute.hw.isa.docs import EXAMPLE_PRESET, example_program
from evolute.hw.isa.instructions import to_bytes
from evolute.hw.spec import CoreSpec
from evolute.hw.spec.presets import preset
from evolute.sim.golden.core import execute

MEMORY_BYTES = 1 << 18


def images(core: CoreSpec, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The memory before and after the example program, as bytes."""
    program = example_program()
    rng = np.random.default_rng(seed)
    before = np.zeros(MEMORY_BYTES, np.uint8)
    image = np.frombuffer(to_bytes(program), np.uint8)
    before[: len(image)] = image
    for load in (each for each in program if each.operation.name == "load"):
        place = slice(load["memory"], load["memory"] + load["words"] * core.bus_bytes)
        # No byte of -128: the range of activations is symmetric.
        data = rng.integers(-127, 128, place.stop - place.start).astype(np.int8)
        before[place] = data.view(np.uint8)
    after = before.copy()
    execute(core, after, program_address=0, instructions=len(program))
    return before, after


def to_hex(memory: np.ndarray, core: CoreSpec) -> str:
    """A line per bus word, highest byte first, as `$readmemh` takes it."""
    return "".join(f"{word[::-1].tobytes().hex()}\n" for word in memory.reshape(-1, core.bus_bytes))


def main(folder: Path) -> None:
    core = preset(EXAMPLE_PRESET).spec
    assert isinstance(core, CoreSpec)
    folder.mkdir(parents=True, exist_ok=True)
    for name, memory in zip(("memory.hex", "expected.hex"), images(core), strict=True):
        (folder / name).write_text(to_hex(memory, core))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
