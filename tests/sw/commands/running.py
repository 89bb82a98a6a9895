"""Runs commands in this process, for tests that look at what they print."""

from __future__ import annotations

from click.testing import CliRunner

from evolute import front


def printed(*arguments: object) -> str:
    """What `evolute` prints for the arguments, which must succeed; raises what the command does."""
    result = CliRunner().invoke(front.cli, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout
