"""Figures of the documentation are what their scripts draw, and the index misses nothing."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from evolute import front

ROOT = Path(front.__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture
def script(monkeypatch):
    """Imports a script of the documentation by its name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize("name", ["hierarchy", "tradeoff"])
def test_a_figure_is_what_its_script_draws(name, script, capsys):
    script(name).main()
    drawn = capsys.readouterr().out
    assert (DOCS / f"{name}.svg").read_text(encoding="utf-8") == drawn, "run `make docs`"


def test_cores_by_context_are_what_the_models_say(script):
    contexts = script("contexts")
    page = (DOCS / "contexts.md").read_text(encoding="utf-8")
    for model, cores in contexts.speeds(("smollm2-360m", "llama-3.2-1b")).items():
        assert contexts.table(model, cores) in page, "run `make docs`"


def test_the_index_lists_every_page_and_every_command():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()
    assert {name for name in front.COMMANDS if f"`evolute {name}" not in index} == set()


def test_the_readme_shows_what_a_run_prints(command):
    """Its run is of the RTL; the golden model says the same, and the cycle model as many cycles."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(
        r"^(Once upon a time.*)\n([\d,]+) cycles of RTL, the model says \2:", page, re.M
    )
    assert shown is not None
    arguments = ("run", "evolute-tiny", "--prompt", "Once upon a time", "--tokens", "8", "--json")
    code, out, _ = command(*arguments)
    result = json.loads(out)
    assert code == 0
    assert shown[1] == "Once upon a time" + result["text"]
    assert int(shown[2].replace(",", "")) == result["cycles"]["model"]
