"""What all tests share."""

from __future__ import annotations

import gc
import sys

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the nightly form out unless `-m` asks for it."""
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
