"""Hugging Face folders: config.json, safetensors in one file or in shards, and tokenizer.json.

What a family calls its tensors is said here once, and what its settings mean in
`sw.checkpoints.hugging_face_config`; the forward pass knows no families.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from evolute.sw.checkpoints import bitnet_file, gptq_file, vptq_file
from evolute.sw.checkpoints.hugging_face_config import Stated, stated, stretched
from evolute.sw.checkpoints.hugging_face_settings import Settings
from evolute.sw.checkpoints.known_settings import KnownSettings
from evolute.sw.checkpoints.safetensors_file import Raw, member, read_folder, read_json
from evolute.sw.language_model.model import LanguageModel, ModelConfig, checked
from evolute.sw.language_model.tokenizer_folder import read_tokenizer
from evolute.sw.tensors.stored import CheckpointError, Stored, StoredTensors, Tensor
from evolute.sw.tensors.tensor import Coded, rows_of

CONFIG = "config.json"

MODULES = {
    "input_layernorm": ("attention_norm",),
    "self_attn.q_proj": ("q",),
    "self_attn.k_proj": ("k",),
    "self_attn.v_proj": ("v",),
    "self_attn.o_proj": ("o",),
    "post_attention_layernorm": ("ffn_norm",),
    "mlp.gate_proj": ("gate",),
    "mlp.up_proj": ("up",),
    "mlp.down_proj": ("down",),
}
"""What the modules of a Llama block are in `ModelConfig.shapes`."""
OUTSIDE = {"model.embed_tokens": "embedding", "model.norm": "norm", "lm_head": "head"}
"""The same of modules outside the blocks."""
BLOCKS = "model.layers."

_HEAD_NORMS = {"self_attn.q_norm": ("q_norm",), "self_attn.k_norm": ("k_norm",)}
_SUB_NORMS = {"self_attn.attn_sub_norm": ("o_norm",), "mlp.ffn_sub_norm": ("down_norm",)}
_POST_NORMS = {
    "post_attention_layernorm": ("attention_post_norm",),
    "pre_feedforward_layernorm": ("ffn_norm",),
    "post_feedforward_layernorm": ("ffn_post_norm",),
}
_FUSED = {"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")}
_OPT_MODULES = {
    "self_attn_layer_norm": ("attention_norm",),
    "self_attn.q_proj": ("q",),
    "self_attn.k_proj": ("k",),
    "self_attn.v_proj": ("v",),
    "self_attn.out_proj": ("o",),
    "final_layer_norm": ("ffn_norm",),
    "fc1": ("up",),
    "fc2": ("down",),
}
_OPT_OUTSIDE = {
    "model.decoder.embed_tokens": "embedding",
    "model.decoder.embed_positions": "positions",
    "model.decoder.final_layer_norm": "norm",
    "lm_head": "head",
}
_OPT_UNUSED_POSITIONS = 2
"""Rows of the table of positions before that of the first token."""


@dataclass(frozen=True)
class _Family:
    """How the folders of a model type name tensors, and store them."""

    modules: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MODULES)
    outside: Mapping[str, str] = field(default_factory=lambda: OUTSIDE)
    blocks: str = BLOCKS
    norm_offset: float = 0.0
    """What is added to the weights of norms."""


_FAMILIES = {
    "llama": _Family(),
    "mistral": _Family(),
    "qwen2": _Family(),
    "qwen3": _Family(MODULES | _HEAD_NORMS),
    "phi3": _Family(MODULES | _FUSED),
    "gemma": _Family(norm_offset=1.0),
    "gemma2": _Family(MODULES | _POST_NORMS, norm_offset=1.0),
    "gemma3_text": _Family(MODULES | _HEAD_NORMS | _POST_NORMS, norm_offset=1.0),
    "opt": _Family(_OPT_MODULES, _OPT_OUTSIDE, "model.decoder.layers."),
    "bitnet": _Family(MODULES | _SUB_NORMS),
}


def _roles(family: _Family, module: str) -> tuple[str, ...]:
    """What a module is in `ModelConfig.shapes`; itself, if it is no part of such a model."""
    if module.startswith(family.blocks):
        layer, _, name = module.removeprefix(family.blocks).partition(".")
        return tuple(f"{layer}.{role}" for role in family.modules.get(name, (name,)))
    return (family.outside.get(module, module),)


_Reader: TypeAlias = Callable[[dict[str, Raw], Settings, str], Stored | None]
_METHODS: dict[str, tuple[KnownSettings, _Reader]] = {
    "gptq": (gptq_file.SETTINGS, gptq_file.read_layer),
    "bitnet": (bitnet_file.SETTINGS, bitnet_file.read_layer),
    "vptq": (vptq_file.SETTINGS, vptq_file.read_layer),
}
"""What is known of the settings of a way to quantize, and how its layers are read."""
_LONG_PARTS = (".centroids.weight", ".res_centroids.weight", ".outlier_centroids.weight")
"""What parts of a module are called whose names have a dot."""


def _by_module(raw: Mapping[str, Raw]) -> dict[str, dict[str, Raw]]:
    """The parts of each module."""
    modules: dict[str, dict[str, Raw]] = {}
    for name, tensor in raw.items():
        part = next((ending for ending in _LONG_PARTS if name.endswith(ending)), None)
        part = part or f".{name.rpartition('.')[2]}"
        modules.setdefault(name.removesuffix(part), {})[part[1:]] = tensor
    return modules


def _tensors(
    folder: Path, family: _Family, config: ModelConfig, settings: Settings, raw: Mapping[str, Raw]
) -> Iterator[tuple[str, Stored]]:
    """The tensors of a file by their names in `ModelConfig.shapes`. Raises `CheckpointError`."""
    rows = {role: shape[0] for role, shape in config.layer_linears().items()}
    read = _method(folder, settings)
    for module, parts in _by_module(raw).items():
        *first, role = _roles(family, module)
        try:
            if module.endswith(_ROTARY) and "inv_freq" in parts:
                _require_speeds(config, parts.pop("inv_freq"))
            values = {} if (codes := read(parts, module)) is None else {"": codes}
        except (KeyError, ValueError, TypeError) as error:
            problem = f"has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(folder, f"module {module:.80}: {problem}") from None
        for suffix, part in (("", "weight"), ("_bias", "bias")):
            if part in parts:
                values[suffix] = _floats(family, f"{role}{suffix}", parts.pop(part))
        for suffix, stored in values.items():
            counts = [rows[role_name.rpartition(".")[2]] for role_name in first]
            for name, piece in zip([*first, role], _split(stored, counts), strict=True):
                yield f"{name}{suffix}", piece
        for part, tensor in parts.items():  # not known, and so refused by name
            yield f"{module}.{part}", tensor.stored()


_ROTARY = "rotary_emb"
"""The module in which older writers store the speeds at which pairs turn, `inv_freq`."""


def _require_speeds(config: ModelConfig, stored: Raw) -> None:
    """Raise ValueError unless the speeds that are stored, maybe in half precision and before they
    are stretched, are those that settings say."""
    pairs = np.arange(config.head_dim // 2)
    thetas = {config.rope_theta, config.local_rope_theta or config.rope_theta}
    said = [theta ** (-2.0 * pairs / config.head_dim) for theta in thetas]
    said += [
        speeds_said / np.array(config.rope_factors) for speeds_said in said if config.rope_factors
    ]
    speeds = stored.floats()
    if not any(
        speeds.shape == speeds_said.shape
        and np.allclose(speeds, speeds_said, rtol=2.0**-7, atol=2.0**-24)
        for speeds_said in said
    ):
        raise ValueError("inv_freq: positions turn at other speeds than config.json says")


def _method(folder: Path, settings: Settings) -> Callable[[dict[str, Raw], str], Stored | None]:
    """What reads the weights of a module that is in codes. Raises `CheckpointError`."""
    quantization = settings.get("quantization_config")
    if quantization is None:
        return lambda parts, module: None
    kind = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if not isinstance(kind, str) or kind not in _METHODS:
        rule = f"quant_method must be one of {', '.join(_METHODS)}"
        raise CheckpointError(folder / CONFIG, f"{rule}, got {kind!r:.40}")
    known, read = _METHODS[kind]
    try:
        known.require(quantization, "quantization_config: ")
    except ValueError as error:
        raise CheckpointError(folder / CONFIG, str(error)) from None
    return lambda parts, module: read(parts, quantization, module)


def _floats(family: _Family, name: str, tensor: Raw) -> Stored:
    if name == "positions":
        return Raw(tensor.type, tensor.values[_OPT_UNUSED_POSITIONS:]).stored()
    if name.endswith("norm") and family.norm_offset:
        return _shifted(tensor, family.norm_offset)
    return tensor.stored()


def _split(stored: Stored, counts: Sequence[int]) -> Iterator[Stored]:
    """So many rows each, and at last those that are left."""
    if not counts:
        yield stored
        return
    cuts = [*itertools.accumulate(counts, initial=0), stored.shape[0] if stored.shape else 0]
    for start, end in itertools.pairwise(cuts):
        shape = (max(0, end - start), *stored.shape[1:])
        yield replace(stored, shape=shape, read=partial(_some_rows, stored, slice(start, end)))


def _some_rows(stored: Stored, rows: slice) -> Tensor:
    whole = stored.read()
    return rows_of(whole, rows) if isinstance(whole, Coded) else whole[rows].copy()


def _shifted(tensor: Raw, offset: float) -> Stored:
    return Stored(tensor.shape, lambda: tensor.floats() + np.float32(offset))


def _head_is_the_embedding(family: _Family, raw: Mapping[str, Raw]) -> bool:
    """Whether a file holds the same matrix twice, as writers do who do not know that it is tied."""
    names = {role: f"{module}.weight" for module, role in family.outside.items()}
    if not {names["head"], names["embedding"]} <= raw.keys():
        return False
    head, embedding = raw[names["head"]], raw[names["embedding"]]
    if (head.type, head.shape) != (embedding.type, embedding.shape):
        return False
    step = max(1, _COMPARED_BYTES * len(head.values) // max(1, head.values.nbytes))
    for at in range(0, len(head.values), step):
        rows = slice(at, at + step)
        if head.values[rows].tobytes() != embedding.values[rows].tobytes():
            return False
    return True


_COMPARED_BYTES = 16 << 20


def read_config(folder: Path) -> Stated:
    """What a folder's config.json says of a model. Raises `CheckpointError`."""
    return _stated(member(folder, CONFIG))[1]


def read_stretched(folder: Path) -> ModelConfig | None:
    """What a folder's config.json says of a model beyond its first context, see `stretched`. Raises
    `CheckpointError`."""
    place = member(folder, CONFIG)
    settings, _ = _stated(place)
    with _told(place):
        return stretched(settings)


def _stated(place: Path) -> tuple[Settings, Stated]:
    """The settings in a file, and what they stand for. Raises `CheckpointError`."""
    settings = read_json(place)
    with _told(place):
        return settings, stated(settings)


@contextlib.contextmanager
def _told(place: Path) -> Iterator[None]:
    """Settings that are wrong are a `CheckpointError` that names their file."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(place, f"has no {error.args[0]}") from None
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(place, str(error)) from None


def read_hugging_face(folder: Path) -> LanguageModel:
    """The model in a Hugging Face folder, its tensors not yet read. Raises `CheckpointError`."""
    settings, said = _stated(member(folder, CONFIG))
    family, config, raw = _FAMILIES[said.kind], said.config, read_folder(folder)
    stored = dict(_tensors(folder, family, config, settings, raw))
    if not said.tied:
        if "head" not in stored:
            raise CheckpointError(
                folder, "tie_word_embeddings is false, but there is no lm_head.weight"
            )
    elif "head" in stored and _head_is_the_embedding(family, raw):
        del stored["head"]  # another one is used, as in the reference, whatever settings say
    tensors = StoredTensors(folder, stored)
    tokenizer = read_tokenizer(folder, settings)
    return checked(folder, LanguageModel(folder.resolve().name, config, tensors, tokenizer))
