"""Faults put into the source of the RTL, in order to test the verification."""

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
    """A fault: a piece of RTL source, and the text that replaces it."""

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
    """Make specs of the class `kind` build from sources of which one has the fault.

    `modules` are the modules that are loaded anew, each after those that it imports; the last one
    has the class for `BUILD`. Fails if the source does not contain the text that the fault
    replaces.
    """
    for module in modules:
        source = inspect.getsource(module)
        if module is mutant.module:
            assert source.count(mutant.old) == 1, f"{mutant.name}: update the mutant to the RTL"
            source = source.replace(mutant.old, mutant.new)
        loaded = ModuleType(module.__name__)
        exec(compile(source, mutant.name, "exec"), vars(loaded))
        monkeypatch.setitem(sys.modules, module.__name__, loaded)
    name = BUILD[kind].__name__
    monkeypatch.setitem(BUILD, kind, getattr(sys.modules[modules[-1].__name__], name))
