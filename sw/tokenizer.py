"""Text to token ids and back, by the `tokenizers` library, from what a checkpoint stores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers


class TokenizerError(Exception):
    """Tokenizer data that is broken or of a kind not supported; readers add the file's name."""


@dataclass(frozen=True, eq=False)
class TextTokenizer:
    """A checkpoint's tokenizer."""

    library: Tokenizer
    prefix: tuple[int, ...] = ()
    """What the model expects before every text, such as a begin-of-sequence token."""
    stops: frozenset[int] = frozenset()
    """Tokens that end a generated text."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` alone, without the prefix."""
        return self.library.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; special tokens have none."""
        return self.library.decode(list(tokens), skip_special_tokens=True)


_DIGITS = pre_tokenizers.Digits(individual_digits=True)
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)

# How a byte-level vocabulary splits text before merging, by GGUF's `tokenizer.ggml.pre`.
_SPLITS = {
    "smollm": pre_tokenizers.Sequence([_DIGITS, _BYTES]),
    "gpt-2": _BYTES,
}


def byte_level_bpe(
    tokens: Sequence[str], merges: Sequence[str], specials: Collection[str], split: str
) -> Tokenizer:
    """A GPT-2 style tokenizer: `merges` are "left right" in order of rank, ids are positions.

    Raises `TokenizerError`.
    """
    if split not in _SPLITS:
        raise TokenizerError(f"pre-tokenizer must be {' or '.join(_SPLITS)}, got {split!r}")
    vocab = _vocabulary(tokens)
    pairs = []
    for merge in merges:
        left, space, right = merge.partition(" ")
        if not space or left + right not in vocab:
            raise TokenizerError(f"merge {merge!r} makes no token")
        pairs.append((left, right))
    return _built(vocab, pairs, specials, _SPLITS[split], None, decoders.ByteLevel())


def score_bpe(tokens: Sequence[str], scores: Sequence[float], first_piece: int) -> Tokenizer:
    """A llama2.c tokenizer: of all adjacent pairs that make a token the best-scored merges first.

    `tokens` from `first_piece` on are text; those before are special, or bytes named `<0x00>` that
    stand in only for characters without a token. Raises `TokenizerError`.
    """
    vocab = _vocabulary(tokens)
    pieces = {token: scores[index] for index, token in enumerate(tokens) if index >= first_piece}
    pairs = [
        (piece[:cut], piece[cut:])
        for piece in sorted(pieces, key=pieces.__getitem__, reverse=True)
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    specials = [token for token in tokens[:first_piece] if not token.startswith("<0x")]
    text = [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    begin = normalizers.Prepend(" ")
    return _built(vocab, pairs, specials, None, begin, decoders.Sequence(text))


def _vocabulary(tokens: Sequence[str]) -> dict[str, int]:
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise TokenizerError(f"{len(tokens) - len(vocab)} tokens appear twice")
    return vocab


def _built(
    vocab: Mapping[str, int],
    merges: list[tuple[str, str]],
    specials: Collection[str],
    split: pre_tokenizers.PreTokenizer | None,
    normalizer: normalizers.Normalizer | None,
    decoder: decoders.Decoder,
) -> Tokenizer:
    fallback = "<0x00>" in vocab
    try:
        library = Tokenizer(models.BPE(vocab=dict(vocab), merges=merges, byte_fallback=fallback))
        library.add_special_tokens([AddedToken(token, special=True) for token in specials])
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(str(error)) from None
    # The library takes None here, but its stubs do not say so.
    library.pre_tokenizer = split  # pyright: ignore[reportAttributeAccessIssue]
    library.normalizer = normalizer  # pyright: ignore[reportAttributeAccessIssue]
    library.decoder = decoder  # pyright: ignore[reportAttributeAccessIssue]
    return library


def from_json(text: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`. Raises `TokenizerError`."""
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(str(error)) from None
