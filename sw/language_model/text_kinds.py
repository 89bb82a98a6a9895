"""Texts of several kinds: what a model is calibrated with where the user names no text, and what
then checks it.

A quantizer that sees one kind of text fits the model to that kind. So several kinds are mixed, and
what comes of it is measured on a kind that was not among them. The files are in
`sw/language_model/texts`, whose README names their sources and licences; code is that of Python's
own library.
"""

from __future__ import annotations

import importlib
import inspect
import platform
from collections.abc import Sequence
from pathlib import Path

from evolute.sw.language_model.model import LanguageModel
from evolute.sw.language_model.perplexity import Text, read_text, windows

_FOLDER = Path(__file__).parent / "texts"

_MODULES = (
    *("textwrap", "heapq", "fractions", "statistics", "string", "shlex", "calendar", "difflib"),
    *("queue", "configparser", "csv", "gzip", "json.decoder", "http.cookies", "email.message"),
    *("urllib.parse", "argparse", "datetime", "decimal", "tarfile", "doctest"),
)
"""Modules of Python's library, written by many hands."""


def python_code() -> Text:
    """Source code of Python's own library; it differs between versions."""
    sources = (inspect.getsource(importlib.import_module(name)) for name in _MODULES)
    return Text(f"source code of Python {platform.python_version()}", "\n".join(sources))


def check_text() -> Text:
    """What checks a quantized model: country profiles, of no kind that calibrates."""
    return read_text(_FOLDER / "country_profiles.txt")


def second_half(text: Text) -> Text:
    """The second half of a text whose beginning serves to measure accuracy."""
    middle = len(text.content) // 2
    middle = text.content.find("\n", middle) + 1 or middle
    return Text(f"second half of {text.name}", text.content[middle:])


def calibration_texts(own: Text) -> tuple[Text, ...]:
    """What calibrates a model where no text is named: the second half of its `own` text, which is
    Python's manual for most models, then code, encyclopaedic articles, and dialogue."""
    others = (read_text(_FOLDER / name) for name in ("encyclopaedia.txt", "dialogue.txt"))
    return second_half(own), python_code(), *others


def mixed_windows(
    model: LanguageModel, texts: Sequence[Text], tokens: int, context: int
) -> list[list[int]]:
    """Windows of several texts that do not overlap, one of each text in turn, with `tokens`
    predicted tokens in all, or as many as there are.

    A text that ends early leaves its turns to the others. Raises what `windows` raises.
    """
    left = [windows(model, text, tokens, context) for text in texts]
    mixed: list[list[int]] = []
    while tokens > 0 and any(left):
        for text_windows in left:
            if text_windows and tokens > 0:
                mixed.append(text_windows.pop(0)[: tokens + 1])
                tokens -= len(mixed[-1]) - 1
    return mixed
