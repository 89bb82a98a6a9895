"""Runs external tools as child processes, each in its own process group, with a time limit and
errors of one line."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from evolute.support.errors import RefusedError


class ToolError(RefusedError):
    """An external tool failed, ran too long or gave no result."""


def run_tool(name: str, command: Sequence[str], folder: Path, timeout_s: float) -> str:
    """Run `command` in `folder` and return what it printed.

    Raises `ToolError` with the tool's last error line if it fails, or with the limit if it runs
    longer than `timeout_s` seconds. A tool that is stopped is ended together with all processes
    that it started.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout_s)
        except BaseException as stopped:
            # Tools start tools (Yosys starts ABC): end the whole group, also on an interrupt.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if isinstance(stopped, subprocess.TimeoutExpired):
                raise ToolError(f"{name}: took longer than {timeout_s:g} s") from None
            raise
    text = log.read_text(encoding="utf-8", errors="replace")
    if code:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if "error:" in line.lower()]
        reason = (errors or lines or ["no message"])[-1]
        raise ToolError(f"{name}: stopped with code {code}: {reason[:300]}")
    return text
