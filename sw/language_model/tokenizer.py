"""Converts text to token ids and back with the `tokenizers` library, from what a checkpoint
stores."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers


class TokenizerError(Exception):
    """Tokenizer data that is broken or not supported. Readers add the file's name."""


@dataclass(frozen=True, eq=False)
class TextTokenizer:
    """A checkpoint's tokenizer."""

    library: Tokenizer
    prefix: tuple[int, ...] = ()
    """What the model expects before every text, such as a begin-of-sequence token."""
    stops: frozenset[int] = frozenset()
    """Tokens that end a generated text."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without the prefix."""
        return self.library.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; special tokens are left out."""
        return self.library.decode(list(tokens), skip_special_tokens=True)


_DIGITS = pre_tokenizers.Digits(individual_digits=True)
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


def _by_patterns(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """Splits by several patterns in turn, each applied to the pieces that the previous ones
    left."""
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, bytes_only])


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class _Split:
    """How a byte-level vocabulary splits text, and whether a piece that is a token is taken whole,
    without merges."""

    by: pre_tokenizers.PreTokenizer
    ignores_merges: bool = False


# How a byte-level vocabulary splits text before merging, by GGUF's `tokenizer.ggml.pre`.
_SPLITS = {
    "smollm": _Split(pre_tokenizers.Sequence([_DIGITS, _BYTES])),
    "gpt-2": _Split(_BYTES),
    "qwen2": _Split(_by_patterns(f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}|{_OTHERS}")),
    # What llama.cpp falls back to where a file does not say, as those of before 2024-05 do not.
    "default": _Split(
        _by_patterns(
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            r"[0-9][0-9][0-9]",
        )
    ),
    "llama-bpe": _Split(_by_patterns(f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}{{1,3}}|{_OTHERS}"), True),
}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a checkpoint. A token's id is its position."""

    tokens: Sequence[str]
    specials: Collection[str]
    """Tokens that no text makes, such as those which begin and end one."""
    added: Collection[str] = ()
    """Tokens that are found in a text before all else."""


def byte_level_bpe(vocabulary: Vocabulary, merges: Sequence[str], split: str) -> Tokenizer:
    """A GPT-2 style tokenizer. `merges` are texts "left right" in the order of their rank. Raises
    `TokenizerError`."""
    if split not in _SPLITS:
        raise TokenizerError(f"pre-tokenizer must be {' or '.join(_SPLITS)}, got {split!r:.40}")
    vocab, pairs = _places(vocabulary.tokens), []
    for merge in merges:
        left, space, right = merge.partition(" ")
        if not space or left + right not in vocab:
            raise TokenizerError(f"merge {merge!r:.80} makes no token")
        pairs.append((left, right))
    chosen = _SPLITS[split]
    library = _built(vocabulary, vocab, pairs, ignore_merges=chosen.ignores_merges)
    library.pre_tokenizer, library.decoder = chosen.by, decoders.ByteLevel()
    return library


SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""


def score_bpe(
    vocabulary: Vocabulary,
    scores: Sequence[float],
    pieces: Collection[int],
    *,
    space: str = SPACE,
    space_before: bool = True,
) -> Tokenizer:
    """A SentencePiece tokenizer: of all pairs that form a token, the one with the best score merges
    first.

    The tokens at the positions `pieces` are text. The others are special, or bytes named `<0x00>`,
    which are used only for characters without a token. `space` stands for a space in tokens, and
    `space_before` puts one before every text. Raises `TokenizerError`.
    """
    vocab = _places(vocabulary.tokens)
    ranked = {vocabulary.tokens[index]: scores[index] for index in pieces}
    pairs = [
        (piece[:cut], piece[cut:])
        for piece in sorted(ranked, key=ranked.__getitem__, reverse=True)
        for cut in range(1, len(piece))
        if piece[:cut] in ranked and piece[cut:] in ranked
    ]
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(" ")] if space_before else []
    undo: list[decoders.Decoder] = [decoders.ByteFallback(), decoders.Fuse()]
    if space != " ":
        steps.append(normalizers.Replace(" ", space))
        undo.insert(0, decoders.Replace(space, " "))
    if space_before:
        undo.append(decoders.Strip(content=" ", left=1))
    library = _built(vocabulary, vocab, pairs, byte_fallback="<0x00>" in vocab)
    library.normalizer, library.decoder = normalizers.Sequence(steps), decoders.Sequence(undo)
    return library


def _places(tokens: Sequence[str]) -> dict[str, int]:
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise TokenizerError(f"{len(tokens) - len(vocab)} tokens appear twice")
    return vocab


def _built(
    vocabulary: Vocabulary, places: dict[str, int], merges: list[tuple[str, str]], **options: bool
) -> Tokenizer:
    try:
        library = Tokenizer(models.BPE(vocab=places, merges=merges, **options))
        library.add_special_tokens(
            [AddedToken(token, special=True) for token in vocabulary.specials]
        )
        library.add_tokens([AddedToken(token, normalized=False) for token in vocabulary.added])
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(str(error)) from None
    return library


def split_name(library: Tokenizer) -> str | None:
    """GGUF's name for how a byte-level tokenizer splits text; None if it has no name."""

    def described(tokenizer: Tokenizer) -> tuple[str, bool]:
        document = json.loads(tokenizer.to_str())
        split, ignores = document["pre_tokenizer"], document["model"].get("ignore_merges", False)
        for step in (split or {}).get("pretokenizers", [split or {}]):
            step.pop("trim_offsets", None)  # which changes no token
        return json.dumps(split, sort_keys=True), ignores

    for name, split in _SPLITS.items():
        candidate = Tokenizer(models.BPE(ignore_merges=split.ignores_merges))
        candidate.pre_tokenizer = split.by
        if described(candidate) == described(library):
            return name
    return None


def from_json(text: str) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`.

    Such a file also stores how its last user called the library: truncation, padding and random
    omission of merges. These are not part of the vocabulary and are switched off. Raises
    `TokenizerError`.
    """
    try:
        library = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(str(error)) from None
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = False
    model = library.model
    if isinstance(model, models.BPE):
        model.dropout = None
    return library


_PROBES = ("a", "0", "!")


def prefix_of(library: Tokenizer) -> tuple[int, ...]:
    """The tokens that a tokenizer's own template puts before a text.

    Tokens that the template puts after a text, such as an end of sequence, are not included. Raises
    `TokenizerError` for a tokenizer that makes no token of any letter, digit or mark.
    """
    for probe in _PROBES:
        encoded = library.encode(probe, add_special_tokens=True)
        added = encoded.special_tokens_mask
        if 0 in added:
            return tuple(encoded.ids[: added.index(0)])
    raise TokenizerError(f"makes no token of {' or '.join(map(repr, _PROBES))}")
