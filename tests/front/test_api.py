"""The Python API: what `import evolute` offers, how fast, and that docs/api.md tells the truth."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import evolute
from evolute import front

ROOT = Path(front.__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"


def _sections() -> dict[str, str]:
    """The page's sections with examples, by their headings."""
    parts = re.split(r"^## (.*)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {name: text for name, text in zip(parts[::2], parts[1::2], strict=True) if ">>>" in text}


SECTIONS = _sections()


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_examples_of_the_page_run(heading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"^```.*$", "", SECTIONS[heading], flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, heading, str(PAGE), 0)
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert test.examples and not said, "".join(said)


@pytest.mark.parametrize("name", evolute.PLACES)
def test_a_name_is_where_the_table_says(name):
    module, _, attribute = evolute.PLACES[name].partition(":")
    assert getattr(evolute, name) is getattr(importlib.import_module(module), attribute)
    assert name in dir(evolute)


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="module 'evolute' has no attribute 'nonsense'"):
        _ = evolute.nonsense  # pyright: ignore[reportAttributeAccessIssue]


def test_types_say_the_same_as_the_table():
    stub = ast.parse((ROOT / "evolute" / "__init__.pyi").read_text(encoding="utf-8"))
    places = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    (listed,) = (
        ast.literal_eval(node.value)
        for node in stub.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert places == evolute.PLACES
    assert listed == sorted(evolute.PLACES)


def test_the_page_names_all_functions():
    page = PAGE.read_text(encoding="utf-8")
    functions = [name for name in evolute.PLACES if name[0].islower()]
    assert [name for name in functions if f"`{name}`" not in page.replace("`evolute.", "`")] == []


def test_importing_it_imports_no_library():
    """It takes milliseconds because it imports nothing; a time would depend on the machine."""
    code = "import sys; old = set(sys.modules); import evolute; print(*set(sys.modules) - old)"
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    packages = {name.partition(".")[0] for name in run.stdout.split()}
    assert packages <= {"evolute", "__future__", "importlib", "warnings"}


def test_a_spec_needs_no_library():
    code = "import sys, evolute; evolute.CoreSpec; evolute.preset; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert {"numpy", "amaranth", "click"}.isdisjoint(run.stdout.split())
