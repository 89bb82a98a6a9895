"""The engine of docs/adding_an_engine.md, made from the document's own text in a copy of the
project, through the batteries that every engine passes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from evolute import front

ROOT = Path(front.__file__).parents[1]
DOCUMENT = ROOT / "docs" / "adding_an_engine.md"
FOLDERS = ("evolute", "hw", "sim", "sw", "verif", "dse", "reports", "tests")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT_S = 600


def blocks(language: str) -> list[tuple[str, str]]:
    """The document's blocks in a language: the file that their first line names, and the rest."""
    found = []
    for kind, text in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")):
        if kind == language:
            first, _, rest = text.partition("\n")
            found.append((first.removeprefix("# "), rest))
    return found


def apply(text: str, change: str) -> str:
    """`text` with the lines that a change marks with + after those before them, which are there
    once; the document's changes take no line away."""
    lines = change.splitlines()
    assert all(line[0] in " +" for line in lines)
    before = "".join(f"{line[1:]}\n" for line in lines if line[0] == " ")
    after = "".join(f"{line[1:]}\n" for line in lines)
    assert text.count(before) == 1, change
    return text.replace(before, after)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the engine."""
    root = tmp_path_factory.mktemp("project")
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=ignored)
    shutil.copyfile(ROOT / "pyproject.toml", root / "pyproject.toml")
    for name, text in blocks("python"):
        assert "ternary_adder" in name and not (root / name).exists()
        (root / name).write_text(text, encoding="utf-8")
    for name, change in blocks("diff"):
        path = root / name
        path.write_text(apply(path.read_text(encoding="utf-8"), change), encoding="utf-8")
    return root


def run(project: Path, *arguments: str) -> str:
    """What Python prints in the copy of the project."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def passed(project: Path, tests: Sequence[str], names: str, *more: str) -> int:
    """How many tests of the copy passed, all of those that were chosen."""
    options = ("-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-k", names, *more)
    shown = run(project, "-m", "pytest", *options, *tests)
    assert "failed" not in shown and "error" not in shown
    counted = re.search(r"(\d+) passed", shown)
    assert counted is not None, shown
    return int(counted[1])


def test_the_document_names_files_of_its_stem_and_entries_alone() -> None:
    """All of an engine is its own files and lines added to registries."""
    files = [name for name, _ in blocks("python")]
    assert len(set(files)) == len(files) == 6
    for name, change in blocks("diff"):
        assert (ROOT / name).is_file() and "\n+" in f"\n{change}"


def test_roles_golden_packing_and_columns(project: Path) -> None:
    columns = "tests/sim/cost/test_columns.py"
    tests = ("tests/front/test_registries.py", "tests/sim/golden", columns)
    names = "ternary_adder or TernaryAdder or role"
    assert passed(project, tests, names, "--ignore", "tests/front/test_adding_an_engine.py") > 20


def test_rtl_equals_golden_and_cycle_model(project: Path) -> None:
    report = json.loads(run(project, "-m", "evolute.front", "verify", "adder-ternary", "--json"))
    assert report["mismatches"] == 0 and report["elements"] > 0
    assert report["cycles"]["rtl"] == report["cycles"]["model"] > 0


def test_a_language_model_is_priced_on_it(project: Path) -> None:
    arguments = ("sim", "evolute-tiny", "--accel", "adder-ternary", "--weights", "tg32", "--json")
    shown = json.loads(run(project, "-m", "evolute.front", *arguments))
    assert shown["decode"]["cycles"] > 0 and shown["decode"]["tokens_per_s"] > 0


@pytest.mark.slow
def test_random_specs_through_the_contract(project: Path) -> None:
    assert passed(project, ["tests/verif/engines/test_engines.py"], "ternary_adder") > 5
