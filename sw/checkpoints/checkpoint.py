"""Opens a model file or folder according to its content."""

from __future__ import annotations

from pathlib import Path

from evolute.sw.checkpoints.gguf_file import MAGIC, read_gguf
from evolute.sw.checkpoints.hugging_face import CONFIG, read_hugging_face
from evolute.sw.checkpoints.llama2c_file import read_llama2c
from evolute.sw.checkpoints.quantized_file import DOCUMENT, parent_of, read_document, read_quantized
from evolute.sw.checkpoints.safetensors_file import INDEX, PICKLE, WEIGHTS
from evolute.sw.language_model.model import LanguageModel, Parent
from evolute.sw.language_model.tokenizer_folder import TOKENIZER
from evolute.sw.tensors.stored import CheckpointError


def _is_pickle(magic: bytes) -> bool:
    """Whether a file begins like those of PyTorch: a zip archive around a pickle, or a bare pickle.

    A bare pickle begins with its protocol and an instruction; a llama2.c file has zeros of the
    hidden size there.
    """
    bare = len(magic) > 2 and magic[0] == 0x80 and 2 <= magic[1] <= 5 and magic[2] != 0
    return bare or magic == b"PK\x03\x04"


def open_model(path: Path) -> LanguageModel:
    """The model at `path`: a GGUF file, a folder in the form of Hugging Face or of Evolute, or a
    llama2.c `.bin` file.

    Tensors are read when they are used. Raises `CheckpointError` for anything else, and for models
    that are broken or not supported. Pickles are never loaded.
    """
    try:
        if path.is_dir():
            if (path / DOCUMENT).is_file():
                return read_quantized(path)
            if not (path / CONFIG).is_file():
                raise CheckpointError(path, f"has no {CONFIG}")
            return read_hugging_face(path)
        if path.name in (WEIGHTS, INDEX, CONFIG, DOCUMENT) and path.is_file():
            return open_model(path.parent)  # one file of a folder means that folder
        with path.open("rb") as file:
            beginning = file.read(9)
    except (OSError, ValueError) as error:  # the latter for names that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(path, f"cannot be read: {reason}") from None
    magic = beginning[: len(MAGIC)]
    if _is_pickle(magic):
        raise CheckpointError(path, PICKLE)
    if beginning.lstrip()[:1] == b"{":
        raise CheckpointError(path, f"is a JSON file; a model is the folder with its {CONFIG}")
    if beginning[8:] == b"{":  # after the length of a safetensors file's header
        rule = f"is a safetensors file; a model is the folder with its {CONFIG} and its {TOKENIZER}"
        raise CheckpointError(path, rule)
    return read_gguf(path) if magic == MAGIC else read_llama2c(path)


def parent_at(path: Path) -> Parent | None:
    """The model from which the one at `path` was made, as stored there; no weights are read.

    None if there is no such statement, or no model. Raises `CheckpointError`.
    """
    if (path / DOCUMENT).is_file():
        try:
            return parent_of(read_document(path))
        except (TypeError, ValueError) as error:
            raise CheckpointError(path / DOCUMENT, str(error)) from None
    return open_model(path).parent if path.is_file() else None
