"""A public name means one thing: no two modules have a class of the same name."""

import ast
import collections
from collections.abc import Iterator
from pathlib import Path

from evolute import front

ROOT = Path(front.__file__).parents[1]
ROOMS = ("evolute", "hw", "sim", "sw", "verif", "dse", "reports")


def modules() -> Iterator[Path]:
    """The source files of the package, each under one of its paths."""
    for room in ROOMS:
        # `evolute` links to the other rooms, which are gone through on their own.
        yield from (path for path in (ROOT / room).rglob("*.py") if path.resolve() == path)


def public_classes(source: str) -> list[str]:
    """The classes that a module has for others."""
    return [
        statement.name
        for statement in ast.parse(source).body
        if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_")
    ]


def test_no_two_modules_have_a_public_class_of_one_name() -> None:
    places = collections.defaultdict(list)
    for path in modules():
        for name in public_classes(path.read_text(encoding="utf-8")):
            places[name].append(str(path.relative_to(ROOT)))
    assert len(places) > 300 and places["Run"] == ["sim/timing/schedule.py"]
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}
