"""Worker processes: their results, and how they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evolute.support.processes import executor

SCRIPT = """
import os, sys, time
from evolute.support.processes import processes

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


STUBBORN = """
import os, sys, time
from evolute.support.processes import processes

def work(path):
    for _ in range(2):  # what is told once to end goes on
        try:
            open(path, "w").close()
            time.sleep(60)
        except SystemExit:
            pass

if __name__ == "__main__":
    with processes(1) as pool:
        pool.submit(work, sys.argv[1])
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.05)
        raise ValueError("enough")
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


def test_workers_are_told_to_end_until_they_do(tmp_path: Path) -> None:
    """As one must that waits for a lock that it took while it was told."""
    script = tmp_path / "script.py"
    script.write_text(STUBBORN)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, script, tmp_path / "mark"]
    ended = subprocess.run(command, env=environment, timeout=50, capture_output=True, text=True)
    assert ended.returncode == 1 and "ValueError: enough" in ended.stderr


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


@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_that_forgets_main_breaks_its_pool_and_nothing_else_is_said(
    guarded: bool, tmp_path: Path
) -> None:
    guard = 'if __name__ == "__main__":' if guarded else "if True:"
    script = tmp_path / "script.py"
    script.write_text(
        "from evolute.support.processes import processes\n"
        f"{guard}\n"
        "    with processes(1) as pool:\n"
        "        print(pool.submit(abs, -3).result())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    if guarded:
        assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
    else:
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.count("Traceback") == 1
        assert "DeadWorkerError: a worker process died: too little memory" in done.stderr
        assert "freeze_support" not in done.stderr
