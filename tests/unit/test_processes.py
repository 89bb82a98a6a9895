"""Worker processes: their results, and how they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hw.processes import executor

SCRIPT = """
import os, sys, time
from hw.processes import processes

def work(path):
    try:
        open(path, "w").write(str(os.getpid()))
        time.sleep(60)
    finally:
        os.remove(path)

if __name__ == "__main__":
    with processes(1) as pool:
        pool.submit(work, sys.argv[1]).result()
"""


def threads() -> str | None:
    return os.environ.get("OPENBLAS_NUM_THREADS")


@pytest.mark.parametrize("workers", [1, 2])
def test_results_and_errors_come_back(workers: int) -> None:
    before = threads()
    with executor(workers) as pool:
        assert list(pool.map(abs, [-3, 4])) == [3, 4]
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result()
        if workers > 1:
            assert pool.submit(os.getenv, "OPENBLAS_NUM_THREADS").result() == "1"
    assert threads() == before


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(how: signal.Signals, tmp_path: Path) -> None:
    """And clean up, even where the parent had no time to tell them."""
    script, mark = tmp_path / "script.py", tmp_path / "mark"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, script, mark], env=environment)

    def wait(there: bool) -> None:
        end = time.monotonic() + 60
        while mark.exists() != there:
            assert time.monotonic() < end
            time.sleep(0.05)

    wait(True)
    while not (worker := mark.read_text()):
        time.sleep(0.05)
    parent.send_signal(how)
    parent.wait()
    wait(False)
    end = time.monotonic() + 60
    while Path("/proc", worker).exists():
        assert time.monotonic() < end
        time.sleep(0.05)
