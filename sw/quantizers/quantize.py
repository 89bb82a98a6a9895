"""Quantization in one call: a loaded model and the name of a method give a folder with the
quantized model.

`quantize` chooses the calibration text, calibrates if the method needs it, quantizes and writes the
folder. `check_quantized` then measures the result on text of another kind. The command `evolute
quantize` calls these two functions.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from evolute.support.files import write_text
from evolute.support.schema import CalibrationText
from evolute.sw.checkpoints import quantized_file, zoo
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.language_model.perplexity import Text, default_context, read_text
from evolute.sw.language_model.text_kinds import calibration_texts, check_text, mixed_windows
from evolute.sw.quantizers.check import Check, check, text_sha256
from evolute.sw.quantizers.hessian import Calibration, calibrate, default_tokens
from evolute.sw.quantizers.lut_dla import SAMPLES, Tables, parse_tables
from evolute.sw.quantizers.methods import GridChoice, Method, has_rounding, parse_method
from evolute.sw.quantizers.whole_model import quantize_model, require_fits
from evolute.sw.quantizers.whole_tables import require_training, write_tables

Stage: TypeAlias = Callable[[str], AbstractContextManager[Callable[[float], None]]]
"""Begins a stage of work with the name given. The context gives a function that is told the part
of the stage that is done, 0 to 1."""


@contextlib.contextmanager
def quiet(_what: str) -> Iterator[Callable[[float], None]]:
    """A `Stage` that shows nothing."""
    yield lambda _done: None


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized model and how it was made."""

    model: LanguageModel
    folder: Path
    document: dict[str, Any]
    """Method, seed, bits per weight, proxy errors, and the same layer by layer; the folder keeps
    it."""
    method: Method | Tables
    calibration: Calibration | None
    """The moments of the layers' inputs; None where the method does not use them."""
    calibrated_with: CalibrationText | None
    files: tuple[Path, ...]
    seconds: float
    """The time of quantizing, without that of calibrating."""


def parse_choice(name: str) -> Method | Tables:
    """The method called `name`, such as `gptq-w3g64`, `vptq-v4k256` or `dla-v2c16`.

    Raises `QuantError` if there is no such method, or it needs PyTorch and that is not installed.
    """
    tables = parse_tables(name)
    if tables is None:
        return parse_method(name)
    if tables.steps:
        require_training()
    return tables


def quantize(
    model: LanguageModel,
    method: str,
    folder: Path | str,
    *,
    source: str | None = None,
    text: Text | None = None,
    tokens: int | None = None,
    context: int | None = None,
    seed: int = 0,
    workers: int = 2,
    proxy_error: bool = False,
    force: bool = False,
    stage: Stage = quiet,
) -> Quantized:
    """Quantize the linear layers of `model`, except the output head, and write the result to
    `folder`.

    `method` is a name from `evolute quantize --help`. `source` is the name or path from which
    `model` was loaded, if it is not the name of a known model: the folder records it, and a
    calibration text may lie beside it. `text`, `tokens` and `context` replace the default
    calibration texts, the number of tokens taken from them, and the length of windows. With
    `proxy_error`, methods without calibration are calibrated too, in order to report their proxy
    error. `force` allows codebooks that are larger than what they encode. `workers` is a number of
    processes and does not change the result. An interrupted run continues with the layers that are
    finished in `folder`.

    Raises `QuantError` for a method that is unknown or does not fit the model, and `FileError`.
    """
    choice, folder = parse_choice(method), Path(folder)
    name, parent = source or model.name, zoo.as_parent(source, model)
    held_out_path, window = zoo.held_out(name), context or default_context(model)
    if isinstance(choice, Method):
        require_fits(model, choice, force)
    elif choice.steps:
        from evolute.sw.quantizers.lut_boost import require_trainable  # PyTorch is an extra

        require_trainable(model)
    began, calibrated_with, calibration = time.perf_counter(), None, None
    parts: list[list[int]] = []
    if isinstance(choice, Tables) or choice.calibrates or proxy_error:
        texts = (text,) if text is not None else calibration_texts(zoo.default_text(name))
        token_count = tokens or default_tokens(model)
        if isinstance(choice, Tables) and not choice.steps:
            token_count = min(token_count, SAMPLES)
        parts = mixed_windows(model, texts, token_count, window)
        names = ", ".join(source_text.name for source_text in texts)
        calibrated_with = CalibrationText(names, sum(map(len, parts)), window)
    if isinstance(choice, Tables):
        with stage("making tables") as done:
            document = write_tables(model, method, choice, parts, folder, seed, done, parent)
        quantized = quantized_file.read_quantized(folder)
    else:
        if parts:
            with stage("calibrating") as done:
                calibration = calibrate(model, parts, done)
            began = time.perf_counter()
        with stage("quantizing") as done:
            quantized, document = quantize_model(
                model, choice, calibration, folder, seed, workers, force, done, parent
            )
    seconds = time.perf_counter() - began
    files = [folder / file_name for file_name in quantized_file.FILES]
    if held_out_path is not None:
        files.append(folder / zoo.HELD_OUT)
        write_text(files[-1], read_text(held_out_path).content)
    return Quantized(
        quantized, folder, document, choice, calibration, calibrated_with, tuple(files), seconds
    )


def check_quantized(model: LanguageModel, made: Quantized, stage: Stage = quiet) -> Check:
    """Measure `made`, the quantized form of `model`, on text of a kind that did not calibrate it.

    The check has the perplexity of the model as shipped, of the quantized model, and, for a method
    with grids, of the weights rounded to nearest on the same grids. The result is stored in the
    folder, and a second call returns it from there.
    """
    text = check_text()
    stored_check = made.document.get("check")
    if stored_check and stored_check["text_sha256"] == text_sha256(text):
        return Check(**stored_check)
    grids: dict[str, GridChoice] = {}
    if isinstance(made.method, Method) and has_rounding(made.method):
        for layer in made.document["layers"]:
            grid = made.method.candidates[layer["candidate"]]
            assert isinstance(grid, GridChoice)
            grids[layer["name"]] = grid
    with stage("checking on other text") as done:
        checked = check(model, made.model, text, grids, made.calibration, done)
    quantized_file.add_to_document(made.folder, check=asdict(checked))
    return checked
