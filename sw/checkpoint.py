"""Opens a model file or folder by its content."""

from __future__ import annotations

from pathlib import Path

from sw.gguf_file import MAGIC, read_gguf
from sw.llama2c_file import read_llama2c
from sw.model import CheckpointError, LanguageModel
from sw.quantized_file import DOCUMENT, read_quantized
from sw.safetensors_file import CONFIG, WEIGHTS, read_safetensors


def open_model(path: Path) -> LanguageModel:
    """The model at `path`: a GGUF file, a folder of Hugging Face's or of Evolute's own form, or a
    llama2.c `.bin` file.

    Raises `CheckpointError` if it is none of them, broken, or of a kind not supported.
    """
    try:
        if path.is_dir():
            if (path / DOCUMENT).is_file():
                return read_quantized(path)
            if not (path / CONFIG).is_file():
                raise CheckpointError(path, f"has no {CONFIG}")
            return read_safetensors(path)
        if path.name == WEIGHTS:
            return read_safetensors(path.parent)
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from None
    return read_gguf(path) if magic == MAGIC else read_llama2c(path)
