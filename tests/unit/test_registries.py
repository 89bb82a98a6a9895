"""Every engine has every role: one dict literal each, keyed by spec class."""

import importlib
import inspect
from pathlib import Path

import pytest

import evolute
from dse.space import SPACE
from hw.export import STREAMS
from hw.rtl import BUILD
from hw.spec import ENGINES
from sim.golden import GOLDEN
from sim.schedule import SCHEDULE
from verif.cases import DRIVERS

ROOT = Path(evolute.__file__).parent
ROLES = {
    "BUILD": BUILD,
    "DRIVERS": DRIVERS,
    "GOLDEN": GOLDEN,
    "SCHEDULE": SCHEDULE,
    "SPACE": SPACE,
    "STREAMS": STREAMS,
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_knows_every_engine_and_no_other(role):
    assert set(ROLES[role]) == set(ENGINES.values())


@pytest.mark.parametrize("stem", ENGINES)
@pytest.mark.parametrize("folder", ["hw/spec", "hw/rtl", "sim/golden", "sim/schedule", "verif"])
def test_an_engine_has_one_file_stem_in_every_role(stem, folder):
    assert (ROOT / folder / f"{stem}.py").is_file()


@pytest.mark.parametrize("command", evolute.COMMANDS)
def test_every_command_loads_and_shows_an_example(command):
    found = getattr(importlib.import_module(evolute.COMMANDS[command]), command)
    commands = [found, *getattr(found, "commands", {}).values()]
    assert any("Example: evolute" in (each.epilog or "") for each in commands)
    assert inspect.cleandoc(found.help)
