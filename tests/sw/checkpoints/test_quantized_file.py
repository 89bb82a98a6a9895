"""The folder of a quantized model: what goes in comes out, and what is broken is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sim.weights import Book, Codebook, Grid
from evolute.sw.checkpoints import quantized_file as form
from evolute.sw.checkpoints import zoo
from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.language_model.model import CheckpointError, Tensor
from evolute.sw.quantizers.rounding import quantize
from evolute.sw.tensors.tensor import PartedTensor, QuantTensor, parted
from evolute.sw.tensors.weights import parse_weights


@settings(max_examples=50)
@given(st.integers(1, 16), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_unpacking_inverts_packing(bits: int, rows: int, fields: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, (rows, fields))
    packed = form.pack_rows(values, bits)
    assert packed.shape == (rows, -(-fields * bits // 8))
    assert np.array_equal(form.unpack_rows(packed, fields, bits), values)


def test_a_stream_by_hand() -> None:
    assert form.pack_rows(np.array([[5, 0, 7]]), 3).tolist() == [[0b11000101, 0b1]]


def rounded(name: str, shape: tuple[int, int] = (6, 40)) -> QuantTensor:
    rounding = parse_weights(name).rounding
    assert rounding is not None
    return quantize(np.random.default_rng(0).normal(size=shape).astype(np.float32), rounding)


def vectors(v: int, residual: bool, along: str = "outputs") -> QuantTensor:
    rng = np.random.default_rng(v)
    n, k = 14, 20
    shape = (-(-n // v), k) if along == "outputs" else (n, -(-k // v))
    books = [Book(rng.integers(0, 12, shape), rng.integers(-60, 60, (12, v))) for _ in range(2)]
    codes = WeightCodes(8, Kind.VECTOR)
    held = Codebook((n, k), codes, k, along, tuple(books[: 1 + residual]))
    scale = np.full((n, 1), 0.25, np.float32)
    return QuantTensor(held, scale, -128 * scale, 0)


TENSORS: dict[str, Tensor] = {
    **{name: rounded(name) for name in ("w3g16", "w1s", "w4g16f", "w8", "tg16", "b3g16", "b4")},
    "plain": vectors(4, False),
    "residual": vectors(8, True),
    "inputs": vectors(3, True, "inputs"),
    "parts": PartedTensor(
        (rounded("w8", (6, 3)), rounded("w2g16", (6, 37))),
        np.random.default_rng(1).permutation(40),
        np.linspace(0.5, 2, 40).astype(np.float16).astype(np.float32),
        np.linspace(-1, 1, 40).astype(np.float16).astype(np.float32),
    ),
    "float": np.array([[0.1, 1e9]], np.float32),
    "half": np.array([[0.5, 3]], np.float32),
}


def equal(first: Tensor, second: Tensor) -> bool:
    if isinstance(first, np.ndarray):
        return isinstance(second, np.ndarray) and np.array_equal(first, second)
    assert not isinstance(second, np.ndarray)
    for one, other in zip(parted(first).parts, parted(second).parts, strict=True):
        if (one.format, one.group, one.group_bits) != (other.format, other.group, other.group_bits):
            return False
        for name in ("codes", "scale", "minimum"):
            if not np.array_equal(getattr(one, name), getattr(other, name)):
                return False
        if type(one.form) is not type(other.form):
            return False
        if isinstance(one.form, Grid) and isinstance(other.form, Grid):
            if not np.array_equal(one.form.special, other.form.special):
                return False
        if one.code_bits != other.code_bits:
            return False
    return np.array_equal(first.dequantize(), second.dequantize())


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    documents, arrays = form.stored(TENSORS)
    form.write_arrays(tmp_path / "a", arrays, {})
    found = dict(form.read_stored(tmp_path / "a", json.loads(json.dumps(documents))))
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert equal(tensor, found[name]), name
    assert arrays["plain.scale"].shape == (1, 1)  # alike for the whole codebook: stored once
    assert arrays["w3g16.codes"].nbytes == 6 * 40 * 3 // 8
    assert arrays["half"].dtype == np.float16 and arrays["float"].dtype == np.float32


@pytest.mark.parametrize(("name", "count"), [("plain", 19), ("inputs", 6), ("inputs", 8)])
def test_indices_of_another_number_of_vectors_are_refused(
    tmp_path: Path, name: str, count: int
) -> None:
    """Also where as many take the same bytes."""
    documents, arrays = form.stored({name: TENSORS[name]})
    bits = 4
    packed = np.zeros((len(arrays[f"{name}.index0"]), -(-count * bits // 8)), np.uint8)
    books = documents[name]["codebooks"]
    form.write_arrays(
        tmp_path / "a", arrays | {f"{name}.index{i}": packed for i in range(books)}, {}
    )
    documents[name]["indices"] = count
    with pytest.raises(CheckpointError, match=f"{count} indices in a row, must be"):
        dict(form.read_stored(tmp_path / "a", documents))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with one layer of each kind."""
    made = tmp_path_factory.mktemp("quantized")
    model = zoo.load("evolute-tiny")
    shape = model.config.layer_linears()["q"]
    tensors = dict(model.tensors) | {"0.q": rounded("w3g32", shape), "1.q": rounded("b3g32", shape)}
    parts = rounded("w8", (shape[0], 8)), rounded("w2", (shape[0], shape[1] - 8))
    tensors["2.q"] = PartedTensor(parts, np.arange(shape[1])[::-1].copy())
    form.write_quantized(made, type(model)(model.name, model.config, tensors, model.tokenizer), {})
    return made


def test_a_folder_opens_as_a_model(folder: Path) -> None:
    model, source = open_model(folder), zoo.load("evolute-tiny")
    assert model.config == source.config and model.has_codes
    assert isinstance(model.tensors["2.q"], PartedTensor)
    assert np.array_equal(model.tensors["0.k"], source.tensors["0.k"])
    text = "Once upon a time"
    assert model.tokenizer.encode(text) == source.tokenizer.encode(text)
    assert (model.tokenizer.prefix, model.tokenizer.stops) == (
        source.tokenizer.prefix,
        source.tokenizer.stops,
    )


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to


BROKEN = [
    (("format",), "gguf", "format must be"),
    (("version",), 2, "version must be 1"),
    (("config", "hidden"), 1 << 40, "hidden must be"),
    (("config", "hidden"), 256, "must be"),
    (("config", "strange"), 1, "unknown setting strange"),
    (("tensors",), [], "tensors must be an object"),
    (("tensors", "0.q", "shape"), [1 << 40, 128], "impossible shape"),
    (("tensors", "0.q", "shape"), [128], "impossible shape"),
    (("tensors", "0.q", "bits"), 9, "bits must be"),
    (("tensors", "0.q", "bits"), 4, "must be"),
    (("tensors", "0.q", "group"), 0, "group must be"),
    (("tensors", "0.q", "kind"), "pickle", "broken"),
    (("tensors", "0.q", "group_bits"), -1, "group_bits must be"),
    (("tensors", "2.q", "parts"), [], "do not fit"),
    (("tensors", "0.q"), {}, "has no array 0.q"),
    (("tokenizer", "prefix"), [5000], "token 5000"),
]


@pytest.mark.parametrize(("place", "value", "message"), BROKEN)
def test_a_broken_document_is_refused(
    folder: Path, tmp_path: Path, place: tuple[str, ...], value: object, message: str
) -> None:
    made = copied(folder, tmp_path / "m")
    document = json.loads((made / form.DOCUMENT).read_text())
    holder = document
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = value
    (made / form.DOCUMENT).write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message):
        open_model(made)


def test_broken_arrays_are_refused(folder: Path, tmp_path: Path) -> None:
    whole = load_file(folder / form.WEIGHTS)

    def refused(message: str, **changes: np.ndarray | None) -> None:
        made = copied(folder, tmp_path / "m")
        arrays = whole | {name.replace("_", "."): each for name, each in changes.items()}
        save_file({n: a for n, a in arrays.items() if a is not None}, made / form.WEIGHTS)
        with pytest.raises(CheckpointError, match=message):
            open_model(made)

    scale = whole["0.q.scale"]
    refused("not finite", **{"0.q.scale": np.full_like(scale, np.nan)})
    refused("must be", **{"0.q.scale": scale[:, :2].copy()})
    refused("has no array", **{"0.q.scale": None})
    refused("must be F16 or F32", **{"0.q.scale": scale.astype(np.float64)})
    refused("belongs to no tensor", **{"stray": scale})
    refused("is no order", **{"2.q.order": np.zeros_like(whole["2.q.order"])})


@settings(max_examples=60)
@given(st.data())
def test_damaged_files_are_refused_or_read(folder: Path, data: st.DataObject) -> None:
    """Any byte changed, or the end cut off: a model, or one error of the right kind."""
    name = data.draw(st.sampled_from(form.FILES))
    target = folder / name
    whole = target.read_bytes()
    place = data.draw(st.integers(0, min(len(whole), 1 << 14) - 1))
    cut = data.draw(st.booleans())
    damaged = bytearray(whole[:place] if cut else whole)
    if not cut:
        damaged[place] ^= data.draw(st.integers(1, 255))
    try:
        target.write_bytes(damaged)
        open_model(folder)
    except CheckpointError:
        pass
    finally:
        target.write_bytes(whole)
