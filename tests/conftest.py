"""What all tests share."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

import pytest
from hypothesis import settings

from evolute import front

settings.register_profile("shared", deadline=None)  # machines that run tests have other work, too
settings.load_profile("shared")

pytest.register_assert_rewrite("evolute.verif.harness.contract")


def pytest_collection_finish() -> None:
    """What is there before the first test stays until the last, so that searching it for garbage
    in between would be in vain."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="I/N", help="the I-th, from 0, of N parts of the tests")


def part_of(items: Sequence[pytest.Item], part: str) -> list[pytest.Item]:
    """Every N-th test from the I-th on, for `part` I/N. Tests of one class with the same parameters
    share what is dear, and stay together."""
    i, _, n = part.partition("/")
    if not (i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise pytest.UsageError(f"--part: must be I/N with I in 0..N-1, got {part}")
    places: dict[str, int] = {}
    chosen = []
    for item in items:
        before, _, name = item.nodeid.rpartition("::")
        shared = f"{before}[{name.partition('[')[2]}" if getattr(item, "cls", None) else item.nodeid
        if places.setdefault(shared, len(places)) % int(n) == int(i):
            chosen.append(item)
    return chosen


@pytest.hookimpl(trylast=True)  # of the tests that `-m` and `-k` leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the nightly form out unless `-m` asks for it, and all that is not of the part."""
    if config.option.part:
        chosen = part_of(items, config.option.part)
        kept = set(chosen)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = chosen
    if config.option.markexpr:
        return
    nightly = pytest.mark.skip(reason="nightly; run with -m slow")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(nightly)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the front door in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evolute", *arguments])
        with pytest.raises(SystemExit) as done:
            front.main()
        out, err = capsys.readouterr()
        return int(done.value.code or 0), out, err

    return run
