"""Reads Llama models in the llama2.c format, version 0: a float32 `.bin` file and a tokenizer
beside it."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from evolute.sw.language_model.model import LanguageModel, ModelConfig, checked
from evolute.sw.language_model.tokenizer import TextTokenizer, TokenizerError, Vocabulary, score_bpe
from evolute.sw.tensors.stored import CheckpointError, Stored, StoredTensors

_HEADER = struct.Struct("<7i")
_FIRST_PIECE = 259
"""Ids below are unknown, begin, end, and the 256 bytes, which some writers store as raw characters;
as pieces of text those would merge where the model never saw them merge."""
_BEGIN, _END = 1, 2
_FIRST_BYTE = 3

# The order in which the file stores one kind of tensor for all layers after another.
_BEFORE_FFN = ("attention_norm", "q", "k", "v", "o", "ffn_norm")
_FFN = ("gate", "down", "up")


def _config(path: Path) -> tuple[ModelConfig, bool]:
    """The shape in the header, and whether the head is the embedding."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
        hidden, ffn, layers, heads, kv_heads, vocab, context = _HEADER.unpack(header)
        config = ModelConfig(
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=hidden // heads,
            ffn=ffn,
            vocab=abs(vocab),
            context=context,
            rope_theta=10000.0,
            norm_eps=1e-5,
            rope_pairs="interleaved",
        )
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from None
    except (struct.error, ValueError, ArithmeticError):
        raise CheckpointError(path, "is not a GGUF, safetensors or llama2.c model") from None
    return config, vocab > 0


def _tokenizer(path: Path, vocab: int) -> TextTokenizer:
    """The tokenizer stored beside the model as `tokenizer.bin` or `tok<vocab>.bin`."""
    choices = [path.with_name(name) for name in ("tokenizer.bin", f"tok{vocab}.bin")]
    tokenizer_path = next((choice for choice in choices if choice.is_file()), None)
    if tokenizer_path is None:
        raise CheckpointError(path, f"no {' or '.join(c.name for c in choices)} beside it")
    data, position = tokenizer_path.read_bytes(), 4  # the first word is the longest token's length
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    scores = []
    try:
        for token in range(vocab):
            score, length = struct.unpack_from("<fi", data, position)
            position += 8 + length
            if length < 0 or position > len(data):
                raise CheckpointError(tokenizer_path, f"token {token} ends beyond the file")
            scores.append(score)
            if token >= _FIRST_PIECE:
                tokens.append(data[position - length : position].decode())
        vocabulary = Vocabulary(tokens, tokens[:_FIRST_BYTE])
        library = score_bpe(vocabulary, scores, range(_FIRST_PIECE, vocab), space=" ")
    except struct.error:
        raise CheckpointError(
            tokenizer_path, f"ends after {len(scores)} of {vocab} tokens"
        ) from None
    except (UnicodeDecodeError, TokenizerError) as error:
        raise CheckpointError(tokenizer_path, str(error)) from None
    # A new story begins with the begin token, so it also ends the one before.
    return TextTokenizer(library, prefix=(_BEGIN,), stops=frozenset((_BEGIN, _END)))


def read_llama2c(path: Path) -> LanguageModel:
    """The model in a llama2.c `.bin` file, memory-mapped. Raises `CheckpointError`."""
    config, tied = _config(path)
    linears, hidden = config.layer_linears(), config.hidden
    turns = config.context * config.head_dim  # cosines and sines, computed again here
    count = 2 * config.vocab * hidden if not tied else config.vocab * hidden
    per_layer = sum(math.prod(shape) for shape in linears.values()) + 2 * hidden
    expected = _HEADER.size + 4 * (count + config.layers * per_layer + hidden + turns)
    if (size := path.stat().st_size) != expected:
        raise CheckpointError(path, f"its header asks for {expected} bytes, it has {size}")
    values = np.asarray(np.memmap(path, "<f4", "r", offset=_HEADER.size))
    tensors: dict[str, Stored] = {}
    position = 0

    def take(name: str, shape: tuple[int, ...]) -> None:
        nonlocal position
        size = math.prod(shape)
        part = values[position : position + size].reshape(shape)
        tensors[name] = Stored(shape, lambda: part)
        position += size

    take("embedding", (config.vocab, hidden))
    for role in (*_BEFORE_FFN, *_FFN):
        for layer in range(config.layers):
            take(f"{layer}.{role}", linears.get(role, (hidden,)))
    take("norm", (hidden,))
    if not tied:
        position += turns
        take("head", (config.vocab, hidden))
    tokenizer = _tokenizer(path, config.vocab)
    model = LanguageModel(path.stem, config, StoredTensors(path, tensors), tokenizer)
    return checked(path, model)
