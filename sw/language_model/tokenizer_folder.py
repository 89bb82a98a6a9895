"""The tokenizer of a Hugging Face folder: `tokenizer.json`, and what other files change of it.

`tokenizer.json` holds the vocabulary and a template of what surrounds a text. Other files take
precedence over it, as in the `transformers` library: `tokenizer_config.json` says whether a text
begins with a special token, and adds tokens; `generation_config.json` names the tokens that end a
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from evolute.sw.checkpoints.safetensors_file import member, read_json
from evolute.sw.language_model.tokenizer import TextTokenizer, TokenizerError, from_json, prefix_of
from evolute.sw.tensors.stored import CheckpointError

TOKENIZER = "tokenizer.json"
SIDECAR, SPECIALS = "tokenizer_config.json", "special_tokens_map.json"
ADDED, GENERATION = "added_tokens.json", "generation_config.json"

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


def read_tokenizer(folder: Path, settings: Mapping[str, Any]) -> TextTokenizer:
    """The tokenizer in `folder`. `settings` is the content of its config.json. Raises
    `CheckpointError`."""
    path = member(folder, TOKENIZER)
    try:
        library = from_json(path.read_text(encoding="utf-8"))
        prefix = prefix_of(library)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from None
    except (TokenizerError, UnicodeDecodeError) as error:
        raise CheckpointError(path, str(error)) from None
    sidecar = _optional(folder, SIDECAR)
    place = folder / SIDECAR
    _add_tokens(folder, library, sidecar, settings.get("vocab_size"))
    specials = {**_optional(folder, SPECIALS), **sidecar}
    names = dict(_special_names(place, specials))
    special_tokens = [
        AddedToken(token, special=True) for token in names.values() if _id(library, token) >= 0
    ]
    library.add_special_tokens(special_tokens)
    library.encode_special_tokens = bool(_flag(place, sidecar, "split_special_tokens"))
    begins = _flag(place, sidecar, "add_bos_token")
    if begins is not None:
        prefix = (_begin(place, library, names),) if begins else ()
    generation = _optional(folder, GENERATION)
    if generation.get("eos_token_id") is not None:
        stops = _stops(folder / GENERATION, generation)
    else:
        stops = _stops(folder / "config.json", settings)
    return TextTokenizer(library, prefix, frozenset(stops))


def _optional(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file, or an empty one if the folder has no such file. Raises
    `CheckpointError`."""
    path = member(folder, name)
    return read_json(path) if path.is_file() else {}


def _id(library: Tokenizer, token: str) -> int:
    """The token's id, or -1 if there is no such token."""
    token_id = library.token_to_id(token)
    return -1 if token_id is None else token_id


def _flag(path: Path, document: Mapping[str, Any], name: str) -> bool | None:
    """The boolean `name` of a file; None if it is absent. Raises `CheckpointError`."""
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(path, f"{name} must be true or false, got {value!r:.40}")
    return value


def _content(path: Path, name: str, value: Any) -> str:
    """The text of a token, which is stored as text or as an object with flags. Raises
    `CheckpointError`."""
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise CheckpointError(path, f"{name:.40} must be a token, got {value!r:.40}")
    return text


def _special_names(path: Path, specials: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _NAMED:
        if specials.get(name) is not None:
            yield name, _content(path, name, specials[name])


def _begin(path: Path, library: Tokenizer, names: Mapping[str, str]) -> int:
    """The token that begins a text. Raises `CheckpointError`."""
    if "bos_token" not in names:
        raise CheckpointError(path, "add_bos_token is true, but there is no bos_token")
    if (begin_id := _id(library, names["bos_token"])) < 0:
        raise CheckpointError(path, f"bos_token {names['bos_token']!r:.40} is no token")
    return begin_id


def _added(folder: Path, sidecar: Mapping[str, Any]) -> Iterator[tuple[int, AddedToken, Path]]:
    """The tokens that files beside `tokenizer.json` add. Raises `CheckpointError`."""
    place = folder / SIDECAR
    entries = sidecar.get("added_tokens_decoder") or {}
    if not isinstance(entries, dict):
        raise CheckpointError(place, "added_tokens_decoder must be an object")
    for index, entry in entries.items():
        text = _content(place, "added_tokens_decoder", entry)
        flags = entry if isinstance(entry, dict) else {}
        names = ("single_word", "lstrip", "rstrip", "normalized", "special")
        token_flags = {name: value for name in names if isinstance(value := flags.get(name), bool)}
        if not index.isdecimal():
            raise CheckpointError(place, f"added_tokens_decoder: {index!r:.40} is no token's id")
        yield int(index), AddedToken(text, **token_flags), place
    place = folder / ADDED
    for text, index in _optional(folder, ADDED).items():
        if type(index) is not int:
            raise CheckpointError(
                place, f"token {text!r:.40} must have a number, got {index!r:.40}"
            )
        yield index, AddedToken(text, normalized=False), place


def _add_tokens(folder: Path, library: Tokenizer, sidecar: Mapping[str, Any], vocab: Any) -> None:
    """Add the tokens that only other files define and for which the model has rows.

    Tokens without a row, such as a padding token of a fine-tuned model, occur in no text. Raises
    `CheckpointError` if ids differ.
    """
    added = sorted(_added(folder, sidecar), key=lambda pair: pair[0])
    for index, token, path in added:
        if (token_id := _id(library, token.content)) < 0:
            if type(vocab) is int and index >= vocab:
                continue
            if library.id_to_token(index) is None:
                library.add_tokens([token])
            token_id = _id(library, token.content)
        if token_id != index:
            name = f"token {token.content!r:.40} is number {index}"
            raise CheckpointError(path, f"{name}, which {TOKENIZER} contradicts")


def _stops(path: Path, document: Mapping[str, Any]) -> Iterable[int]:
    """The tokens that end a text: a number, a list, or nothing in the file. Raises
    `CheckpointError`."""
    value = document.get("eos_token_id")
    stops = value if isinstance(value, list) else [] if value is None else [value]
    for stop in stops:
        if type(stop) is not int:
            raise CheckpointError(path, f"eos_token_id must be a token's id, got {stop!r:.40}")
    return stops
