"""Every engine has every role: one dict literal each, keyed by spec class."""

import importlib
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from evolute import front
from evolute.dse.compare.contenders import CONTENDERS
from evolute.dse.compare.own_forms import OWN_FORMS
from evolute.dse.space import SPACE
from evolute.hw.rtl import BUILD
from evolute.hw.spec import BASELINES, ENGINES, UNITS, CoreSpec, Engine, LutDla, VqCodebook
from evolute.hw.spec.formats import Kind
from evolute.hw.spec.presets import DEFAULT, PRESETS
from evolute.hw.spec.scaling import FloatScaling, IntegerScaling
from evolute.sim.golden import GOLDEN, MEMORIES, ROW_SHIFTS
from evolute.sw.deploy.packers import FILLS, INDICES, PACKERS, STEPS
from evolute.verif.harness.driver import BASELINE_DRIVERS, DRIVERS, OPERANDS
from evolute.verif.verification import VERIFY

ROOT = Path(front.__file__).parents[1]
ROLES = {
    "BUILD": BUILD,
    "CONTENDERS": {**CONTENDERS, **OWN_FORMS},
    "DRIVERS": DRIVERS,
    "GOLDEN": GOLDEN,
    "PACKERS": PACKERS,
    "SPACE": SPACE,
    "VERIFY": VERIFY,
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_knows_every_engine_and_no_other(role):
    # No rounding makes codebooks or tables, so that there are no weights to search over.
    absent = {VqCodebook, LutDla} if role == "SPACE" else set()
    baselines = set(BASELINES.values()) if role in ("BUILD", "VERIFY") else set()
    units = set(UNITS.values()) if role in ("BUILD", "VERIFY") else set()
    parts = {CoreSpec, IntegerScaling, FloatScaling}
    assert set(ROLES[role]) - parts == set(ENGINES.values()) - absent | baselines | units


SOME: dict[str, tuple[set[type[Engine]], Callable[[Engine], object]]] = {
    "FILLS": (set(FILLS), lambda spec: spec.fills),
    "INDICES": (
        set(INDICES),
        lambda spec: {each.kind for each in spec.formats} & {Kind.VECTOR, Kind.SHORT},
    ),
    "MEMORIES": (set(MEMORIES), lambda spec: spec.fills),
    "ROW_SHIFTS": (set(ROW_SHIFTS), lambda spec: spec.row_shift_bits),
    "STEPS": (set(STEPS), lambda spec: not spec.steps_are_fixed),
}
"""Roles that some engines have: of which specs."""


@pytest.mark.parametrize("role", SOME)
def test_a_role_that_some_engines_have_knows_those_and_no_other(role):
    known, has = SOME[role]
    rng = np.random.default_rng(1)
    specs = [driver.random_spec(rng) for driver in DRIVERS.values() for _ in range(40)]
    assert {type(spec) for spec in specs if has(spec)} == known


def test_operands_are_of_engines_and_of_all_baselines():
    assert set(BASELINE_DRIVERS) == set(BASELINES.values()) <= set(OPERANDS)
    assert set(OPERANDS) <= set(ENGINES.values()) | set(BASELINES.values())


def test_every_preset_can_be_built():
    assert {type(each.spec) for each in PRESETS.values()} <= set(BUILD)
    assert CoreSpec in BUILD


@pytest.mark.parametrize("stem", ENGINES)
@pytest.mark.parametrize(
    "folder",
    [
        *("hw/spec", "hw/rtl/engines", "sim/golden", "sw/deploy/packers", "verif/engines"),
        "tests/sim/golden",
    ],
)
def test_an_engine_has_one_file_stem_in_every_role(stem, folder):
    name = f"test_{stem}.py" if folder.startswith("tests") else f"{stem}.py"
    assert (ROOT / folder / name).is_file()


@pytest.mark.parametrize("stem", UNITS)
@pytest.mark.parametrize(
    "folder",
    [
        *("hw/spec", "hw/rtl/units", "sim/golden", "sim/timing", "verif/units"),
        *("tests/sim/golden", "tests/verif/units"),
    ],
)
def test_a_unit_has_one_file_stem_in_every_role(stem, folder):
    name = f"test_{stem}.py" if folder.startswith("tests") else f"{stem}.py"
    assert (ROOT / folder / name).is_file()


@pytest.mark.parametrize("folder", ["hw/spec", "hw/rtl/core", "sim/golden", "sim/timing"])
def test_the_core_has_one_file_stem_in_every_role(folder):
    assert (ROOT / folder / "core.py").is_file()


@pytest.mark.parametrize("command", front.COMMANDS)
def test_every_command_loads_and_shows_an_example(command):
    found = getattr(importlib.import_module(front.COMMANDS[command]), command)
    commands = [found, *getattr(found, "commands", {}).values()]
    epilogs = " ".join(each.epilog or "" for each in commands)
    assert re.search(r"Examples?:\s+evolute", epilogs)
    assert inspect.cleandoc(found.help)


def test_accels_lists_the_default_first_and_says_what_is_a_core():
    done = CliRunner().invoke(front.cli, ["accels", "--json"], catch_exceptions=False)
    rows = json.loads(done.stdout)
    assert rows[0]["name"] == DEFAULT and [row["name"] for row in rows] == list(PRESETS)
    for row in rows:
        spec = PRESETS[row["name"]].spec
        kinds = {**dict.fromkeys(UNITS.values(), "unit"), CoreSpec: "core"}
        assert row["kind"] == kinds.get(type(spec), "engine")
        assert row["engine"] in {**ENGINES, **UNITS}
        assert row["digest"] == spec.digest
    shown = CliRunner().invoke(front.cli, ["accels"], catch_exceptions=False).stdout
    assert f"{DEFAULT} (default)" in shown
