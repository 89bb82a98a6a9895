"""What a Hugging Face folder says of its tokenizer, in `tokenizer.json` and beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from evolute.sw.language_model.tokenizer import TextTokenizer, from_json
from evolute.sw.language_model.tokenizer_folder import read_tokenizer
from evolute.sw.tensors.stored import CheckpointError

TEXT = "It was a quiet morning in the harbour. " * 4
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_tokenizer(template: str | None = None, **model: Any) -> Tokenizer:
    """One token per byte, and a merge of two; three special tokens before them."""
    vocab = {token: index for index, token in enumerate(["<s>", "</s>", "<pad>", *BYTES, "th"])}
    library = Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h")], **model))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<s>", "</s>", "<pad>"])
    if template is not None:
        library.post_processor = processors.Sequence(
            [
                processors.ByteLevel(),
                processors.TemplateProcessing(
                    single=template, special_tokens=[("<s>", 0), ("</s>", 1), ("<pad>", 2)]
                ),
            ]
        )
    return library


def read(
    folder: Path,
    library: Tokenizer,
    settings: dict[str, Any] | None = None,
    **files: dict[str, Any],
) -> TextTokenizer:
    """The tokenizer of a folder with these files, named without their ending."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(library.to_str())
    for name, document in files.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return read_tokenizer(folder, settings or {})


def test_what_a_user_of_the_library_set_last_changes_no_text(tmp_path: Path) -> None:
    plain = read(tmp_path / "plain", byte_tokenizer()).encode(TEXT)
    assert len(plain) > 100
    short, long = byte_tokenizer(), byte_tokenizer()
    short.enable_truncation(50)
    long.enable_padding(length=1000, pad_id=2, pad_token="<pad>")
    dropping = byte_tokenizer(dropout=0.5)
    for name, library in (("short", short), ("long", long), ("dropping", dropping)):
        found = read(tmp_path / name, library)
        assert found.encode(TEXT) == plain
        assert found.prefix == ()
        assert from_json(library.to_str()).encode(TEXT).ids == plain


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        (None, ()),
        ("$A </s>", ()),
        ("<s> $A", (0,)),
        ("<s> $A </s>", (0,)),
        ("<pad> <s> $A </s> </s>", (2, 0)),
    ],
)
def test_only_what_stands_before_a_text_is_its_prefix(
    tmp_path: Path, template: str | None, prefix: tuple[int, ...]
) -> None:
    found = read(tmp_path, byte_tokenizer(template))
    assert found.prefix == prefix
    assert found.encode("a") == [3 + BYTES.index("a")]


@pytest.mark.parametrize(
    ("sidecar", "prefix"),
    [
        ({}, (0,)),
        ({"add_bos_token": None}, (0,)),
        ({"add_bos_token": False}, ()),
        ({"add_bos_token": True, "bos_token": "<pad>"}, (2,)),
        ({"add_bos_token": True, "bos_token": {"content": "</s>", "lstrip": False}}, (1,)),
        ({"add_eos_token": True, "eos_token": "</s>"}, (0,)),
    ],
)
def test_the_sidecar_says_whether_a_text_begins_with_a_token(
    tmp_path: Path, sidecar: dict[str, Any], prefix: tuple[int, ...]
) -> None:
    library = byte_tokenizer("<s> $A </s>")
    assert read(tmp_path, library, tokenizer_config=sidecar).prefix == prefix


def test_an_older_file_names_the_special_tokens_as_well(tmp_path: Path) -> None:
    named = {"bos_token": "<pad>"}
    sidecar = {"add_bos_token": True}
    found = read(tmp_path, byte_tokenizer(), tokenizer_config=sidecar, special_tokens_map=named)
    assert found.prefix == (2,)


def test_tokens_that_only_other_files_add_are_found_in_a_text(tmp_path: Path) -> None:
    first = 3 + len(BYTES) + 1
    entries = {str(first + 1): {"content": "<late>", "special": False}}
    entries[str(first)] = {"content": "<user>", "special": True}
    entries["0"] = {"content": "<s>", "special": True}
    sidecar = {"added_tokens_decoder": entries}
    older = {"<older>": first + 2}
    found = read(tmp_path, byte_tokenizer(), tokenizer_config=sidecar, added_tokens=older)
    assert found.encode("<user><late><older><s>") == [first, first + 1, first + 2, 0]


def test_a_token_that_the_model_has_no_row_for_is_left_out(tmp_path: Path) -> None:
    vocab = 3 + len(BYTES) + 1
    library, files = byte_tokenizer(), {"added_tokens": {"[PAD]": vocab}}
    found = read(tmp_path, library, {"vocab_size": vocab}, **files)
    assert found.library.get_vocab_size() == vocab
    assert found.encode("[PAD]") == library.encode("[PAD]").ids


@pytest.mark.parametrize("split", [False, True])
def test_special_tokens_in_a_text_are_text_where_the_sidecar_says_so(
    tmp_path: Path, split: bool
) -> None:
    library = byte_tokenizer()
    library.encode_special_tokens = not split  # which no file keeps
    found = read(tmp_path, library, tokenizer_config={"split_special_tokens": split})
    assert found.encode("</s>") == ([3 + BYTES.index(each) for each in "</s>"] if split else [1])


@pytest.mark.parametrize(
    ("config", "generation", "stops"),
    [
        ({}, None, set()),
        ({"eos_token_id": None}, None, set()),
        ({"eos_token_id": 1}, None, {1}),
        ({"eos_token_id": [1, 2]}, None, {1, 2}),
        ({"eos_token_id": 1}, {}, {1}),
        ({"eos_token_id": 1}, {"eos_token_id": [1, 2, 0]}, {0, 1, 2}),
        ({}, {"eos_token_id": 2}, {2}),
    ],
)
def test_all_tokens_that_end_a_text_do(
    tmp_path: Path,
    config: dict[str, Any],
    generation: dict[str, Any] | None,
    stops: set[int],
) -> None:
    files = {} if generation is None else {"generation_config": generation}
    assert read(tmp_path, byte_tokenizer(), config, **files).stops == stops


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config": {"add_bos_token": True}}, "there is no bos_token"),
        ({"tokenizer_config": {"add_bos_token": 1}}, "add_bos_token must be true or false, got 1"),
        (
            {"tokenizer_config": {"add_bos_token": True, "bos_token": "<x>"}},
            "bos_token '<x>' is no token",
        ),
        ({"tokenizer_config": {"bos_token": 5}}, "bos_token must be a token, got 5"),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"7": {"content": "<s>"}}}},
            "token '<s>' is number 7, which tokenizer.json contradicts",
        ),
        ({"added_tokens": {"<x>": 5}}, "token '<x>' is number 5"),
        ({"generation_config": {"eos_token_id": [1, "2"]}}, "must be a token's id, got '2'"),
        ({"generation_config": {"eos_token_id": True}}, "must be a token's id, got True"),
    ],
)
def test_files_that_contradict_each_other_or_themselves_are_refused(
    tmp_path: Path, files: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(CheckpointError) as refusal:
        read(tmp_path, byte_tokenizer(), **files)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_tokenizer_that_makes_no_token_is_refused(tmp_path: Path) -> None:
    library = Tokenizer(models.BPE(vocab={"<s>": 0}, merges=[]))
    with pytest.raises(CheckpointError, match="makes no token of 'a'"):
        read(tmp_path, library)
