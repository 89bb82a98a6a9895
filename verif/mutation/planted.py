"""Faults put into the RTL's source, for a check of the checks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import pytest

from evolute.hw.rtl import BUILD
from evolute.hw.spec import Spec


@dataclass(frozen=True)
class PlantedFault:
    """A fault: a piece of RTL source and what takes its place."""

    name: str
    module: ModuleType
    old: str
    new: str
    found_in: str
    """Words that the account of some difference must contain."""


def put_in(
    mutant: PlantedFault,
    kind: type[Spec],
    modules: Sequence[ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Build specs of `kind` from sources of which one has the fault.

    `modules` are what is made anew, each after those that it imports from; the last has the class
    of `BUILD`. Fails if the RTL no longer has the place that the fault is for.
    """
    for module in modules:
        source = inspect.getsource(module)
        if module is mutant.module:
            assert source.count(mutant.old) == 1, f"{mutant.name}: update the mutant to the RTL"
            source = source.replace(mutant.old, mutant.new)
        made = ModuleType(module.__name__)
        exec(compile(source, mutant.name, "exec"), vars(made))
        monkeypatch.setitem(sys.modules, module.__name__, made)
    name = BUILD[kind].__name__
    monkeypatch.setitem(BUILD, kind, getattr(sys.modules[modules[-1].__name__], name))
