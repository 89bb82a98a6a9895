"""Layers as GPTQ tools store them, read to codes.

Frantar et al., "GPTQ" (arXiv 2210.17323); the layout is AutoGPTQ's and GPTQModel's. With b bits a
layer y = x @ w.T of K inputs and N outputs holds

- `qweight`, int32 [K * b / 32, N]: of each output a stream of codes along K, lowest bits first;
- `qzeros`, int32 [G, N * b / 32]: of each group a stream of zero points along N; files of the
  first version store them less one;
- `scales`, half precision [G, N]; and
- `g_idx`, int32 [K]: the group of each input, k // group unless inputs were taken in another order.

A weight is scale * (code - zero point).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import WeightCodes
from evolute.sim.weights import Grid
from evolute.sw.checkpoints.known_settings import ARITHMETIC, KnownSettings
from evolute.sw.checkpoints.safetensors_file import Raw
from evolute.sw.tensors.stored import Stored
from evolute.sw.tensors.tensor import SCALE_BITS, Coded, PartedTensor, QuantTensor

BITS = (2, 3, 4, 8)
_VERSIONS = {"gptq": 1, "gptq_v2": 0}
"""What is added to stored zero points, by `checkpoint_format`."""

SETTINGS = KnownSettings(
    read=("quant_method", "bits", "group_size", "checkpoint_format", "format", "sym", "desc_act"),
    harmless=(
        "act_group_aware",  # how codes were chosen, which they say themselves
        "autoround_version",
        "backend",
        "block_name_to_quantize",
        "enable_minmax_tuning",
        "enable_norm_bias_tuning",
        "enable_quanted_input",
        "lm_head",
        "low_gpu_mem_usage",
        "modules_in_block_to_quantize",
        "modules_to_not_convert",
        "quantizer",
        "scale_dtype",
        "static_groups",
        "to_quant_block_names",
        "zero_point",
    ),
    neutral={
        "act_bits": (16, 32),
        "adapter": ({},),
        "data_type": ("int",),
        "dynamic": ({}, False),
        "extra_config": ({},),
        "is_marlin_format": (False,),
        "pack_dtype": ("int32",),
        "rotation": ("",),
    },
    words=(*ARITHMETIC, "bit", "dtype", "dynamic", "format", "group", "pack", "sym", "zero"),
)
"""Settings of GPTQ files of AutoGPTQ, GPTQModel, Optimum and AutoRound."""


def unpack_words(words: NDArray[np.int32], bits: int, count: int) -> NDArray[np.uint8]:
    """The first `count` fields in each row of words [..., W], lowest bits first: uint8 [...,
    count]."""
    stored = np.ascontiguousarray(words, "<i4").view(np.uint8)
    if 8 % bits == 0:
        fields = stored[..., None] >> np.arange(0, 8, bits, dtype=np.uint8) & _mask(bits)
        return fields.reshape(*stored.shape[:-1], -1)[..., :count]
    single = np.unpackbits(stored, axis=-1, count=count * bits, bitorder="little")
    single = single.reshape(*stored.shape[:-1], count, bits)
    return np.packbits(single, axis=-1, bitorder="little")[..., 0]


def _mask(bits: int) -> np.uint8:
    return np.uint8((1 << bits) - 1)


def pack_words(fields: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """The words, int32 [..., W], from which `unpack_words` reads the fields uint8 [..., count]."""
    single = np.unpackbits(fields[..., None], axis=-1, count=bits, bitorder="little")
    stream = single.reshape(*fields.shape[:-1], -1)
    padding = [(0, 0)] * (stream.ndim - 1) + [(0, -stream.shape[-1] % 32)]
    packed = np.packbits(np.pad(stream, padding), axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<i4").astype(np.int32)


def read_layer(parts: dict[str, Raw], settings: Mapping[str, Any], module: str) -> Stored | None:
    """The weights of the layer `module`; None if they are stored as floats. The tensors that are
    used are removed from `parts`.

    `settings` are those of the whole model. Raises ValueError, KeyError or TypeError.
    """
    if "qweight" not in parts:
        return None
    words = parts.pop("qweight").integers("I32")
    zeros, scales = parts.pop("qzeros").integers("I32"), parts.pop("scales")
    places = parts.pop("g_idx").integers("I32", "I64") if "g_idx" in parts else None
    bits, group = settings["bits"], settings.get("group_size", -1)
    version = _version(settings)
    symmetric, by_activation = settings.get("sym"), settings.get("desc_act")
    if type(bits) is not int or bits not in BITS:
        raise ValueError(f"bits must be one of {BITS}, got {bits!r:.40}")
    for name, value in (("sym", symmetric), ("desc_act", by_activation)):
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r:.40}")
    if by_activation and places is None:
        raise ValueError("desc_act is true, but there is no g_idx that says the order of inputs")
    if words.ndim != 2 or words.shape[0] * 32 % bits:
        raise ValueError(f"qweight: {words.shape} is no stream of {bits}-bit codes")
    k, n = words.shape[0] * 32 // bits, words.shape[1]
    group = k if group == -1 else group
    if type(group) is not int or group < 1:
        raise ValueError(f"group_size must be -1 or at least 1, got {group!r:.40}")
    groups = -(-k // group)
    expected_shapes = {"scales": (groups, n), "qzeros": (groups, -(-n * bits // 32)), "g_idx": (k,)}
    shapes = {"scales": scales.shape, "qzeros": zeros.shape}
    for name, shape in (shapes | ({} if places is None else {"g_idx": places.shape})).items():
        if shape != expected_shapes[name]:
            raise ValueError(f"{name}: must be {expected_shapes[name]}, got {shape}")

    def read() -> Coded:
        codes = unpack_words(words.T, bits, k)
        scale = scales.floats()
        with np.errstate(over="ignore"):
            half = scale.astype(np.float16).astype(np.float32)
        if not np.array_equal(half, scale, equal_nan=True):
            raise ValueError("scales: must be half-precision numbers")
        stored = unpack_words(zeros, bits, n)
        offset = stored + np.uint8(_VERSIONS[version]) & _mask(bits)
        _require_consistent(stored, offset, bits, version, symmetric)
        scale = np.ascontiguousarray(scale.T)
        minimum = -scale * offset.T.astype(np.float32)
        order = None if places is None else _order(places, group)
        if order is not None and by_activation is False:
            raise ValueError("g_idx: takes inputs in another order, but desc_act is false")
        ordered = codes if order is None else codes[:, order]
        beside = SCALE_BITS + bits
        form = Grid.plain(ordered, WeightCodes(bits), min(group, k))
        tensor = QuantTensor(form, scale, minimum, beside)
        return tensor if order is None else PartedTensor((tensor,), order)

    return Stored((n, k), read, coded=True)


def _version(settings: Mapping[str, Any]) -> str:
    """The version, which `checkpoint_format` says, or `format` in files of newer tools."""
    names = ("checkpoint_format", "format")
    stated = {name: settings[name] for name in names if settings.get(name) is not None}
    for name, version in stated.items():
        if version not in _VERSIONS:
            raise ValueError(f"{name} must be gptq or gptq_v2, got {version!r:.40}")
    if len(set(stated.values())) > 1:
        raise ValueError("checkpoint_format and format must not say different things")
    return next(iter(stated.values()), "gptq")


def _require_consistent(
    stored: NDArray[np.uint8],
    offset: NDArray[np.uint8],
    bits: int,
    version: str,
    symmetric: bool | None,
) -> None:
    """Raise ValueError where zero points, `stored` and as they are meant, contradict settings.

    A symmetric layer has its zero in the middle of its codes. Where nothing says that a layer is
    not symmetric, and the middle is what is stored in all groups, the file is of the other version.
    """
    middle = 1 << (bits - 1)
    # What a symmetric file of the other version stores.
    misread_zero = middle - 1 + _VERSIONS[version]
    misread = symmetric is None and bool((stored == misread_zero).all())
    if (symmetric and (offset != middle).any()) or misread:
        raise ValueError(
            f"qzeros: zero points must be {middle} in a symmetric layer, got "
            f"{int(offset.ravel()[np.argmax(offset.ravel() != middle)])} "
            f"as checkpoint_format {version} has it"
        )


def _order(places: NDArray[np.integer], group: int) -> NDArray[np.int64] | None:
    """The inputs in the order of their groups. None if that is their own order, which `places` may
    also state by zeros or by numbering the inputs, as some tools do."""
    count = np.arange(len(places))
    regular = count // group
    if not places.any() or any(np.array_equal(places, usual) for usual in (regular, count)):
        return None
    order = np.argsort(places, kind="stable")
    if not np.array_equal(places[order], regular):
        raise ValueError(f"g_idx: must place {group} inputs in each group")
    return order.astype(np.int64)
