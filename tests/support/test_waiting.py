"""What a user sees while something takes long, on a pipe and as a program."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evolute.support import waiting

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "EVERY_S", 0.05)


@pytest.mark.parametrize(
    ("total", "done", "part"),
    [(None, 0.0, ""), (1.0, 0.25, ", 25%"), (4, 3, ", 3 of 4"), (1, 0, ", 0 of 1")],
)
def test_on_a_pipe_lines_say_what_goes_on_and_how_far_it_is(
    capsys: pytest.CaptureFixture[str], total: float | None, done: float, part: str
) -> None:
    with waiting.shown("working", total) as show:
        show(done)
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert set(lines) == {f"evolute: working{part}, 0 s so far"}
    time.sleep(0.1)
    assert capsys.readouterr().err == ""  # it ends with the work


def test_what_is_over_soon_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting.shown("working"):
        pass
    assert capsys.readouterr().err == ""


def test_lines_go_on_while_a_program_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    code = waiting.main(["installing", sys.executable, "-c", "import time; time.sleep(0.3)"])
    assert code == 0
    assert capsys.readouterr().err.count("evolute: installing, 0 s so far\n") >= 2


def test_as_a_program_it_ends_as_the_command_does_and_needs_no_package() -> None:
    for code in (0, 7):
        command = [sys.executable, "-S", "-I", "-c"]
        run = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); from evolute.support import waiting; "
        )
        run += f"sys.exit(waiting.main(['x', sys.executable, '-c', 'raise SystemExit({code})']))"
        assert subprocess.run([*command, run], check=False).returncode == code


def test_on_a_terminal_a_bar_is_drawn_and_taken_away() -> None:
    code = (
        "import time\nfrom evolute.support.waiting import shown\n"
        "with shown('working', 4) as show:\n    show(3)\n    time.sleep(0.3)\n"
    )
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stderr=theirs, cwd=ROOT, check=True)
    os.close(theirs)
    drawn = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "working" in drawn and "3/4" in drawn and "so far" not in drawn
