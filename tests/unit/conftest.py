"""What tests of commands share."""

import sys

import pytest

import evolute


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the front door in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evolute", *arguments])
        with pytest.raises(SystemExit) as done:
            evolute.main()
        out, err = capsys.readouterr()
        return int(done.value.code or 0), out, err

    return run
