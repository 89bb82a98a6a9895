"""Texts of several kinds, for calibrating a model when the user names no text, and for checking the
result.

A quantizer that sees only one kind of text fits the model to that kind. So several kinds are mixed,
and the result is measured on a kind that was not among them. The files are in
`sw/language_model/texts`, whose README names their sources and licences; the code is that of
Python's own library.
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
    """Source code from Python's own library. It differs between Python versions."""
    sources = (inspect.getsource(importlib.import_module(name)) for name in _MODULES)
    return Text(f"source code of Python {platform.python_version()}", "\n".join(sources))


def check_text() -> Text:
    """The text that checks a quantized model: country profiles, a kind that is not used for
    calibration."""
    return read_text(_FOLDER / "country_profiles.txt")


def second_half(text: Text) -> Text:
    """The second half of a text, for calibration; its beginning serves to measure accuracy."""
    middle = len(text.content) // 2
    middle = text.content.find("\n", middle) + 1 or middle
    return Text(f"second half of {text.name}", text.content[middle:])


def calibration_texts(own: Text) -> tuple[Text, ...]:
    """The default calibration texts: the second half of the model's `own` text (Python's manual for
    most models), code, encyclopaedic articles, and dialogue."""
    others = (read_text(_FOLDER / name) for name in ("encyclopaedia.txt", "dialogue.txt"))
    return second_half(own), python_code(), *others


def mixed_windows(
    model: LanguageModel, texts: Sequence[Text], tokens: int, context: int
) -> list[list[int]]:
    """Windows of several texts that do not overlap, taken from each text in turn, with `tokens`
    predicted tokens in all, or as many as there are.

    When a text ends early, the others take its turns. Raises the errors of `windows`.
    """
    remaining = [windows(model, text, tokens, context) for text in texts]
    mixed: list[list[int]] = []
    while tokens > 0 and any(remaining):
        for text_windows in remaining:
            if text_windows and tokens > 0:
                mixed.append(text_windows.pop(0)[: tokens + 1])
                tokens -= len(mixed[-1]) - 1
    return mixed
