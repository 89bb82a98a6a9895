"""C++ code beside Python, compiled on first use on the machine that runs it.

Each C++ file has a reference in Python that gives the same results more slowly. So without a
compiler, everything still works; a line tells the user that it takes longer.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from evolute.support.files import FileError, cache_directory, replacing

_COMPILERS = ("g++", "clang++", "c++")
"""The first of these that is there compiles."""


@functools.cache
def library(source: Path, work: str) -> ctypes.CDLL | None:
    """The compiled C++ file `source`. It is built at the first call on a machine and kept in the
    cache.

    None if there is no compiler or it fails. A line on stderr then says that `work` (in the plural)
    takes longer, and why.
    """
    compiler = next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        return _absent(work, f"none of {', '.join(_COMPILERS)} is on the path")
    command = [compiler, "-O3", "-std=c++17", "-shared", "-fPIC"]
    key = "\0".join([*command, source.read_text(encoding="utf-8")])
    path = cache_directory() / "native" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"
    try:
        if not path.exists():
            with replacing(path) as product:
                subprocess.run(
                    [*command, "-o", product, source], check=True, capture_output=True, text=True
                )
        return ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line]
        reason = " ".join([*lines, f"exit code {error.returncode}"][0].split())
        return _absent(work, f"{compiler}: {reason}")
    except (FileError, OSError) as error:
        return _absent(work, " ".join(str(error).split()))


def _absent(work: str, reason: str) -> None:
    """Say in one line that there is no compiled code for this work, and why."""
    print(f"evolute: {work} take longer, as they cannot be compiled: {reason}", file=sys.stderr)
