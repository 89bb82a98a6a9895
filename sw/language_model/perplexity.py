"""Measures how well a model predicts a text, and how far an engine's arithmetic changes its
predictions."""

from __future__ import annotations

import itertools
import math
import platform
import pydoc_data.topics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.base import require
from evolute.support.errors import RefusedError
from evolute.support.files import FileError
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.kv import FLOAT32, KvFormat
from evolute.sw.language_model.linear import Linears, linear_names
from evolute.sw.language_model.model import LanguageModel

_LOGIT_ROWS = 128
"""Positions whose logits are held at once; a large vocabulary makes a row heavy."""


@dataclass(frozen=True)
class Text:
    """A text to predict, with the name that results quote."""

    name: str
    content: str
    changes: str = ""
    """What of the file was read as something else, as the end of a sentence about it."""


def python_prose() -> Text:
    """The default text: documentation that is part of Python itself. It differs between Python
    versions."""
    topics = pydoc_data.topics.topics
    return Text(
        f"pydoc_data.topics of Python {platform.python_version()}",
        "\n".join(topics[name] for name in sorted(topics)),
    )


_BYTE_ORDER_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"


def read_text(path: Path) -> Text:
    """A UTF-8 text file without a byte order mark and with LF line ends.

    Models are trained on such text; a mark or a CR would count as a token to predict. Raises
    `FileError`.
    """
    try:
        content = path.read_bytes().decode()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        rule = f"must be UTF-8, has {error.object[error.start]:#04x} at byte {error.start}"
        raise FileError(f"cannot read {path}: {rule}") from None
    changes = []
    if content.startswith(_BYTE_ORDER_MARK):
        content = content.removeprefix(_BYTE_ORDER_MARK)
        changes.append("without its byte order mark")
    if "\r" in content:
        content = content.replace("\r\n", "\n").replace("\r", "\n")
        changes.append("its line ends CR LF as LF")
    return Text(path.name, content, " and ".join(changes))


@dataclass(frozen=True)
class MeasuredAccuracy:
    """How well a model predicts a text through some linear layers, compared with a reference.

    Fields of the comparison are None without a reference. All values are averages over `tokens`
    predicted tokens, in windows of `context` tokens that begin `stride` tokens apart; a token in
    two windows counts in the first one. Attention is computed in float32 from keys and values in
    the format `kv`; those of the reference are float32.
    """

    perplexity: float
    reference_perplexity: float | None
    kl: float | None
    """Kullback-Leibler divergence of the predictions from the reference's, in nats per token."""
    top1: float | None
    """How often both find the same token most likely, 0..1."""
    tokens: int
    context: int
    stride: int
    kv: str
    text: str


def default_context(model: LanguageModel) -> int:
    """The default window length: 1,024 tokens, or the model's own limit if that is less."""
    return min(1024, model.config.context)


class Window(NamedTuple):
    """Tokens, of which the first one and the next `seen` are not predicted, because an earlier
    window predicts them."""

    ids: list[int]
    seen: int


def strided(
    model: LanguageModel, text: Text, tokens: int, context: int, stride: int | None
) -> list[Window]:
    """The first windows of `text`, with `tokens` newly predicted tokens in all, or fewer if the
    text is short.

    Each window begins with the tokenizer's prefix and predicts all its tokens but the first. It
    begins `stride` tokens of the text after the previous one, or where that one ended if `stride`
    is None. Raises `SpecError` if context or stride do not fit, and `RefusedError` if no token can
    be predicted.
    """
    prefix = list(model.tokenizer.prefix)
    least = len(prefix) + 2
    limit = model.config.context
    require(least <= context <= limit, "context", f"in {least}..{limit}", context)
    require(tokens >= 1, "tokens", "at least 1", tokens)
    step = context - len(prefix)
    stride = step if stride is None else stride
    require(1 <= stride <= step, "stride", f"in 1..{step} with this context", stride)
    ids, windows = model.tokenizer.encode(text.content), []
    end = 0
    for start in range(0, len(ids), stride):
        seen = max(0, end - start - 1 + len(prefix)) if start else 0
        window = (prefix + ids[start : start + step])[: seen + tokens + 1]
        if len(window) < seen + 2:
            break
        windows.append(Window(window, seen))
        tokens -= len(window) - 1 - seen
        end = start + step
    if not windows:
        raise RefusedError(f"{text.name}: too short to predict anything")
    return windows


def windows(model: LanguageModel, text: Text, tokens: int, context: int) -> list[list[int]]:
    """The tokens of windows that do not overlap, see `strided`."""
    return [window.ids for window in strided(model, text, tokens, context, None)]


def measure(
    model: LanguageModel,
    linear: Linears,
    reference: Linears | None,
    text: Text,
    tokens: int,
    context: int,
    progress: Callable[[float], None] = lambda done: None,
    original: LanguageModel | None = None,
    stride: int | None = None,
    kv: KvFormat = FLOAT32,
) -> MeasuredAccuracy:
    """Predict `tokens` tokens of `text` through the layers `linear`, and compare with the layers
    `reference`.

    If the reference has other norms or another head than `model`, it is the model `original`; both
    have the same tokens. `progress` is called with the share that is done, 0 to 1. Raises the
    errors of `strided`.
    """
    parts = strided(model, text, tokens, context, stride)
    pair = [(model, linear, kv)]
    if reference is not None and (linear is not reference or kv != FLOAT32):
        pair.append((original or model, reference, FLOAT32))
    done, steps = itertools.count(1), len(pair) * len(parts) * (len(linear_names(model)) - 1)

    def counted(inner: Linears) -> Linears:
        def call(names: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            for _ in names:
                progress(next(done) / steps)
            return inner(names, x)

        return call

    totals = np.zeros(4)
    for ids, seen in parts:
        targets = np.array(ids[seen + 1 :])
        hidden = [
            forward(
                predictor,
                counted(linear),
                ids[:-1],
                Cache(predictor.config, len(ids) - 1, kv_format),
            )[seen:]
            for predictor, linear, kv_format in pair
        ]
        for start in range(0, len(targets), _LOGIT_ROWS):
            rows = slice(start, start + _LOGIT_ROWS)
            logs = [
                _log_softmax(head(predictor, linear, part[rows]))
                for (predictor, linear, _), part in zip(pair, hidden, strict=True)
            ]
            totals += _compare(logs[0], logs[-1], targets[rows])
    count = sum(len(ids) - 1 - seen for ids, seen in parts)
    loss, reference_loss, kl, agreements = (totals / count).tolist()
    if not max(loss, reference_loss) < 700:  # also where it is not a number
        raise RefusedError(f"{model.name}: its predictions are no probabilities")
    compared = reference is not None
    return MeasuredAccuracy(
        perplexity=math.exp(loss),
        reference_perplexity=math.exp(reference_loss) if compared else None,
        kl=kl if compared else None,
        top1=agreements if compared else None,
        tokens=count,
        context=context,
        stride=stride or context - len(model.tokenizer.prefix),
        kv=kv.name,
        text=text.name,
    )


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _compare(
    logs: NDArray[np.float32], reference: NDArray[np.float32], targets: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Sums over rows of log probabilities: the loss, the reference's loss, the divergence between
    both, and the number of equal most likely tokens."""
    rows = np.arange(len(targets))
    agree = logs.argmax(axis=-1) == reference.argmax(axis=-1)
    divergence = np.einsum("mv,mv->m", np.exp(reference), reference - logs)
    columns = (-logs[rows, targets], -reference[rows, targets], divergence, agree)
    return np.array([column.sum(dtype=np.float64) for column in columns])
