"""`evolute compare --power` on real netlists: every engine's energy on the layer."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from evolute.hw.synthesis import libraries
from evolute.support.files import FileError

ENGINES = "mac,lut_tensor_core"


def test_energy_stands_beside_area(command: Callable) -> None:
    try:
        libraries.text_of(libraries.NANGATE45)
    except FileError as error:
        pytest.skip(f"no cell library: {error}")
    arguments = ("compare", "evolute-tiny", "--bits", "2", "--layer", "0.q", "--shape", "1,2,4")
    arguments += ("--engines", ENGINES, "--workers", "1")
    code, out, err = command(*arguments, "--power", "--json")
    assert code == 0, err
    measured = {row["name"]: row["dynamic_fj_per_mac"] for row in json.loads(out)}
    assert len(measured) > 3 and all(energy > 0 for energy in measured.values())
    code, out, err = command(*arguments, "--power")
    assert code == 0, err
    least = min(measured, key=lambda name: measured[name])
    assert f"Least energy: {least}; next is" in " ".join(out.split())
    assert f"{measured[least]:.1f}" in out
    code, out, err = command(*arguments, "--json")
    assert {row["dynamic_fj_per_mac"] for row in json.loads(out)} == {None}
