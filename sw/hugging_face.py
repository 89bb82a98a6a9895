"""Hugging Face folders: config.json, safetensors in one file or in shards, and tokenizer.json.

What a family calls its settings and tensors, and how it differs from Llama, is said here once; the
forward pass knows no families.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from sw import bitnet_file, gptq_file, vptq_file
from sw.hugging_face_settings import Settings, settled
from sw.known_settings import KnownSettings
from sw.model import Activation, LanguageModel, ModelConfig, checked
from sw.safetensors_file import Raw, member, read_folder, read_json
from sw.stored import CheckpointError, Stored, StoredTensors, Tensor
from sw.tensor import Coded, rows_of
from sw.tokenizer import TextTokenizer, TokenizerError, from_json

CONFIG, TOKENIZER = "config.json", "tokenizer.json"

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

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "swish": "silu",
}
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_MOST_LAYERS = 1 << 16


def _activation(name: Any) -> Activation:
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {name!r:.40}")
    return _ACTIVATIONS[name]


def _same(settings: Settings, **required: Any) -> None:
    """Raise `ValueError` where a setting is not the only value that the forward pass implements."""
    for name, value in required.items():
        if settings[name] != value:
            raise ValueError(f"{name} must be {value!r}, got {settings[name]!r:.40}")


_ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("factor", "short_factor", "long_factor", "attention_factor"),
}
"""What is read of an object that describes rotary positions, by its type."""
_ROPE_KEYS_OF_ALL = (
    "type",
    "rope_type",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
)


def _rope_object(settings: Settings) -> Settings:
    """How positions are turned, where an object says so: `rope_parameters`, formerly
    `rope_scaling`."""
    newer, older = (_object(settings, name) for name in ("rope_parameters", "rope_scaling"))
    if newer and older and newer != older:
        raise ValueError("rope_scaling and rope_parameters must not say different things")
    return older or newer


def _object(settings: Settings, name: str) -> Settings:
    """A setting that is an object; an empty one if it is null or absent."""
    found = settings.get(name)
    if not isinstance(found, dict | None):
        raise ValueError(f"{name} must be an object, got {found!r:.40}")
    return found or {}


def _rope(settings: Settings) -> dict[str, Any]:
    """How tokens' positions turn queries and keys, as newer or older writers state it."""
    return _rope_of(settings, _rope_object(settings), settings["rope_theta"])


def _rope_of(settings: Settings, rope: Settings, theta: float) -> dict[str, Any]:
    """The same of the object `rope`, where `theta` holds unless it says another."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    kind = "longrope" if kind == "su" else kind
    if kind not in _ROPE_KEYS:
        raise ValueError(f"rope_type must be one of {', '.join(_ROPE_KEYS)}, got {kind!r:.40}")
    known = KnownSettings((*_ROPE_KEYS_OF_ALL, *_ROPE_KEYS[kind]), words=("",))
    known.require(rope, f"rope_type {kind}: ")
    for part in (rope.get("partial_rotary_factor"), settings["partial_rotary_factor"]):
        if part not in (None, 1.0):
            raise ValueError(f"partial_rotary_factor must be 1.0, got {part!r:.40}")
    theta, head_dim = float(rope.get("rope_theta", theta)), settings["head_dim"]
    if head_dim is None:
        head_dim = settings["hidden_size"] // settings["num_attention_heads"]
    common = {"rope_theta": theta, "rope_pairs": "halves", "head_dim": head_dim}
    pairs = range(min(head_dim, 1 << 16) // 2)
    if kind == "linear":
        return common | {"rope_factors": (float(rope["factor"]),) * len(pairs)}
    if kind == "llama3":
        speeds = [theta ** (-2.0 * pair / head_dim) for pair in pairs]
        first = _first_context(settings, rope)
        return common | {"rope_factors": tuple(_llama3_factors(speeds, rope, first))}
    if kind == "longrope":
        return common | _longrope(settings, rope, head_dim)
    return common


def _first_context(settings: Settings, rope: Settings) -> int:
    """How many tokens a model whose positions are stretched was first trained with."""
    for stated in (settings, rope):
        if (found := stated.get("original_max_position_embeddings")) is not None:
            return found
    return settings["max_position_embeddings"]


def _llama3_factors(speeds: Sequence[float], rope: Settings, context: int) -> Iterator[float]:
    """Slow pairs are slowed by `factor`, fast ones not, those between in part."""
    names = ("factor", "low_freq_factor", "high_freq_factor")
    factor, low, high = (float(rope[name]) for name in names)
    for speed in speeds:
        turns = context * speed / (2 * math.pi)  # in the context that it was trained with
        part = min(1.0, max(0.0, (turns - low) / (high - low)))
        yield 1 / ((1 - part) / factor + part)


def _longrope(settings: Settings, rope: Settings, head_dim: int) -> dict[str, Any]:
    """LongRoPE (arXiv 2402.13753) within the context that a model was first trained with.

    There the short factors hold. Both queries and keys are scaled, so that the scores are scaled by
    the square, which here is part of what they are divided by.
    """
    first = _first_context(settings, rope)
    stretch, scale = rope.get("factor"), rope.get("attention_factor")
    if stretch is None:
        stretch = settings["max_position_embeddings"] / first
    if scale is None:
        scale = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(first))
    return {
        "rope_factors": tuple(map(float, rope["short_factor"])),
        "query_divisor": head_dim / float(scale) ** 4,
        "context": first,
    }


def _layers(settings: Settings) -> range:
    layers = settings["num_hidden_layers"]
    if type(layers) is not int or not 0 < layers < _MOST_LAYERS:
        raise ValueError(f"num_hidden_layers must be below {_MOST_LAYERS}, got {layers!r:.40}")
    return range(layers)


def _are_layer_types(types: Any) -> bool:
    return isinstance(types, list) and all(each in (_LOCAL, _GLOBAL) for each in types)


def _windows(
    settings: Settings, window: int | None, pattern: Callable[[int], bool]
) -> dict[str, Any]:
    """Which layers are local: those that `layer_types` names, else where `pattern` holds."""
    layers, types = _layers(settings), settings["layer_types"]
    if types is None:
        types = [_LOCAL if pattern(layer) else _GLOBAL for layer in layers]
    if not _are_layer_types(types) or len(types) != len(layers):
        raise ValueError(f"layer_types must be {len(layers)} of {_LOCAL} and {_GLOBAL}")
    local = tuple(layer for layer, kind in enumerate(types) if kind == _LOCAL)
    if local and window is None:
        raise ValueError(f"layer {local[0]} is a {_LOCAL} layer, but there is no sliding_window")
    return {"window": window, "local_layers": local} if local else {}


def _window_of_all(settings: Settings) -> dict[str, Any]:
    """A window in which all layers attend, whatever `layer_types` says in the reference."""
    window, types = settings["sliding_window"], settings["layer_types"]
    kind = _GLOBAL if window is None else _LOCAL
    if types is not None and (not _are_layer_types(types) or set(types) != {kind}):
        raise ValueError(f"layer_types must all be {kind} with sliding_window {window!r:.40}")
    return _windows({**settings, "layer_types": None}, window, lambda layer: window is not None)


def _shape(settings: Settings) -> dict[str, Any]:
    heads, kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
    return {
        "hidden": settings["hidden_size"],
        "layers": settings["num_hidden_layers"],
        "heads": heads,
        "kv_heads": heads if kv_heads is None else kv_heads,
        "ffn": settings["intermediate_size"],
        "vocab": settings["vocab_size"],
        "context": settings["max_position_embeddings"],
        "norm_eps": float(settings["rms_norm_eps"]),
    }


_ATTENTION, _MLP = ("q", "k", "v", "o"), ("gate", "up", "down")


def _plain(settings: Settings) -> dict[str, Any]:
    """What most families have in common."""
    activation = _activation(settings["hidden_act"])
    return {**_shape(settings), **_rope(settings), "activation": activation}


def _llama(settings: Settings) -> dict[str, Any]:
    attention = _ATTENTION if settings["attention_bias"] else ()
    mlp = _MLP if settings["mlp_bias"] else ()
    return {**_plain(settings), "biases": attention + mlp}


def _mistral(settings: Settings) -> dict[str, Any]:
    return {**_plain(settings), **_window_of_all(settings)}


def _qwen_windows(settings: Settings) -> dict[str, Any]:
    window = settings["sliding_window"] if settings["use_sliding_window"] else None
    first = settings["max_window_layers"]
    return _windows(settings, window, lambda layer: window is not None and layer >= first)


def _qwen2(settings: Settings) -> dict[str, Any]:
    return {**_plain(settings), **_qwen_windows(settings), "biases": ("q", "k", "v")}


def _qwen3(settings: Settings) -> dict[str, Any]:
    norms = ("attention_norm", "q_norm", "k_norm", "ffn_norm")
    biases = _ATTENTION if settings["attention_bias"] else ()
    return {**_plain(settings), **_qwen_windows(settings), "biases": biases, "norms": norms}


def _phi3(settings: Settings) -> dict[str, Any]:
    rope = _rope_object(settings)
    if (kind := rope.get("rope_type", rope.get("type", "default"))) in ("linear", "llama3"):
        raise ValueError(f"rope_type must be default or longrope, got {kind!r:.40}")
    return _mistral(settings)


def _gemma_block(settings: Settings, activation: Activation) -> dict[str, Any]:
    """What the blocks of all Gemmas have in common."""
    if settings["use_bidirectional_attention"]:
        raise ValueError("use_bidirectional_attention must be false, got true")
    return {
        **_shape(settings),
        "activation": activation,
        "biases": _ATTENTION if settings["attention_bias"] else (),
        "embedding_scale": float(np.float32(math.sqrt(settings["hidden_size"]))),
    }


def _gemma(settings: Settings) -> dict[str, Any]:
    # The first release says "gelu" and means its approximation, which it was trained with. Beside
    # it stands a later name of the setting, which the reference does not read.
    names = [settings["hidden_act"], settings["hidden_activation"] or settings["hidden_act"]]
    meant: set[Activation] = {
        _activation("gelu_pytorch_tanh" if name == "gelu" else name) for name in names
    }
    if len(meant) > 1:
        raise ValueError("hidden_act and hidden_activation must not say different things")
    return {**_gemma_block(settings, meant.pop()), **_rope(settings)}


def _later_gemma(settings: Settings) -> dict[str, Any]:
    """What later Gemmas have in common: scores and logits that are capped."""
    name, other = settings["hidden_activation"], settings["hidden_act"]
    if other not in (None, name):
        raise ValueError("hidden_act and hidden_activation must not say different things")
    return {
        **_gemma_block(settings, _activation(name)),
        "query_divisor": float(settings["query_pre_attn_scalar"]),
        "score_cap": _optional_float(settings["attn_logit_softcapping"]),
        "logit_cap": _optional_float(settings["final_logit_softcapping"]),
    }


def _gemma2(settings: Settings) -> dict[str, Any]:
    return {
        **_later_gemma(settings),
        **_rope(settings),
        **_windows(settings, settings["sliding_window"], lambda layer: layer % 2 == 0),
        "norms": ("attention_norm", "attention_post_norm", "ffn_norm", "ffn_post_norm"),
    }


def _gemma3(settings: Settings) -> dict[str, Any]:
    ropes, older = (_object(settings, name) for name in ("rope_parameters", "rope_scaling"))
    KnownSettings((_LOCAL, _GLOBAL), words=("",)).require(ropes, "rope_parameters: ")
    wide, local = (_object(ropes, kind) for kind in (_GLOBAL, _LOCAL))
    if wide and older and wide != older:
        raise ValueError("rope_scaling and rope_parameters must not say different things")
    near = _rope_of(settings, local, settings["rope_local_base_freq"])
    if near.keys() & {"rope_factors", "query_divisor"}:
        raise ValueError(f"rope_type of {_LOCAL} must be default")
    if type(every := settings["sliding_window_pattern"]) is not int or every < 1:
        raise ValueError(f"sliding_window_pattern must be at least 1, got {every!r:.40}")
    norms = ("attention_norm", "q_norm", "k_norm", "attention_post_norm")
    return {
        **_later_gemma(settings),
        **_rope_of(settings, older or wide, settings["rope_theta"]),
        **_windows(settings, settings["sliding_window"], lambda layer: (layer + 1) % every != 0),
        "norms": (*norms, "ffn_norm", "ffn_post_norm"),
        "local_rope_theta": near["rope_theta"],
    }


def _bitnet(settings: Settings) -> dict[str, Any]:
    norms = ("attention_norm", "o_norm", "ffn_norm", "down_norm")
    biases = _ATTENTION if settings["attention_bias"] else ()
    return {**_plain(settings), "biases": biases, "norms": norms}


def _opt(settings: Settings) -> dict[str, Any]:
    _same(settings, do_layer_norm_before=True, _remove_final_layer_norm=False)
    _same(settings, layer_norm_elementwise_affine=True)
    hidden, heads = settings["hidden_size"], settings["num_attention_heads"]
    if settings["word_embed_proj_dim"] is not None:
        _same(settings, word_embed_proj_dim=hidden)
    return {
        "hidden": hidden,
        "layers": settings["num_hidden_layers"],
        "heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "ffn": settings["ffn_dim"],
        "vocab": settings["vocab_size"],
        "context": settings["max_position_embeddings"],
        "norm_eps": 1e-5,
        "norm": "layer",
        "rope_theta": 10000.0,
        "rope_pairs": None,
        "biases": ("q", "k", "v", "o", "up", "down") if settings["enable_bias"] else (),
        "activation": _activation(settings["activation_function"]),
        "gated": False,
    }


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(frozen=True)
class _Family:
    """How the folders of a model type are read."""

    config: Callable[[Settings], dict[str, Any]]
    """Every setting that is read -> fields of `ModelConfig`. Raises KeyError, ValueError or
    TypeError."""
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MODULES)
    outside: Mapping[str, str] = field(default_factory=lambda: OUTSIDE)
    blocks: str = BLOCKS
    norm_offset: float = 0.0
    """What is added to the weights of norms."""


_FAMILIES = {
    "llama": _Family(_llama),
    "mistral": _Family(_mistral),
    "qwen2": _Family(_qwen2),
    "qwen3": _Family(_qwen3, MODULES | _HEAD_NORMS),
    "phi3": _Family(_phi3, MODULES | _FUSED),
    "gemma": _Family(_gemma, norm_offset=1.0),
    "gemma2": _Family(_gemma2, MODULES | _POST_NORMS, norm_offset=1.0),
    "gemma3_text": _Family(_gemma3, MODULES | _HEAD_NORMS | _POST_NORMS, norm_offset=1.0),
    "opt": _Family(_opt, _OPT_MODULES, _OPT_OUTSIDE, "model.decoder.layers."),
    "bitnet": _Family(_bitnet, MODULES | _SUB_NORMS),
}


def _kind(settings: Settings) -> str:
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise ValueError(f"model_type must be one of {', '.join(_FAMILIES)}, got {kind!r:.40}")
    return kind


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
    found: dict[str, dict[str, Raw]] = {}
    for name, tensor in raw.items():
        part = next((each for each in _LONG_PARTS if name.endswith(each)), None)
        part = part or f".{name.rpartition('.')[2]}"
        found.setdefault(name.removesuffix(part), {})[part[1:]] = tensor
    return found


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
            found = {} if (codes := read(parts, module)) is None else {"": codes}
        except (KeyError, ValueError, TypeError) as error:
            problem = f"has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(folder, f"module {module:.80}: {problem}") from None
        for suffix, part in (("", "weight"), ("_bias", "bias")):
            if part in parts:
                found[suffix] = _floats(family, f"{role}{suffix}", parts.pop(part))
        for suffix, stored in found.items():
            counts = [rows[each.rpartition(".")[2]] for each in first]
            for each, piece in zip([*first, role], _split(stored, counts), strict=True):
                yield f"{each}{suffix}", piece
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
    said += [each / np.array(config.rope_factors) for each in said if config.rope_factors]
    found = stored.floats()
    if not any(
        found.shape == each.shape and np.allclose(found, each, rtol=2.0**-7, atol=2.0**-24)
        for each in said
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


def _tokenizer(path: Path, settings: Settings) -> TextTokenizer:
    try:
        library = from_json(path.read_text(encoding="utf-8"))
        stops = settings.get("eos_token_id")
        return TextTokenizer(
            library,
            # What the file itself puts around a text; for a causal model that is in front.
            prefix=tuple(library.encode("", add_special_tokens=True).ids),
            stops=frozenset(stops if isinstance(stops, list) else [] if stops is None else [stops]),
        )
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from None
    except (TokenizerError, UnicodeDecodeError, TypeError) as error:
        raise CheckpointError(path, str(error)) from None


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


@dataclass(frozen=True)
class Stated:
    """What a config.json says of a model."""

    config: ModelConfig
    tied: bool
    """Whether the head is the embedding, where the file holds no other."""


def stated(settings: Settings) -> Stated:
    """What the settings in a config.json stand for, those that are absent included.

    Raises KeyError, ValueError, TypeError, ArithmeticError or AttributeError where they are wrong,
    or where the forward pass does not implement them.
    """
    kind = _kind(settings)
    complete = settled(settings, kind)
    config = ModelConfig(**_FAMILIES[kind].config(complete))
    return Stated(config, complete["tie_word_embeddings"])


def read_hugging_face(folder: Path) -> LanguageModel:
    """The model in a Hugging Face folder, its tensors not yet read. Raises `CheckpointError`."""
    place = member(folder, CONFIG)
    settings = read_json(place)
    try:
        found = stated(settings)
        family, config = _FAMILIES[_kind(settings)], found.config
    except KeyError as error:
        raise CheckpointError(place, f"has no {error.args[0]}") from None
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(place, str(error)) from None
    raw = read_folder(folder)
    stored = dict(_tensors(folder, family, config, settings, raw))
    if not found.tied:
        if "head" not in stored:
            raise CheckpointError(
                folder, "tie_word_embeddings is false, but there is no lm_head.weight"
            )
    elif "head" in stored and _head_is_the_embedding(family, raw):
        del stored["head"]  # another one is used, as in the reference, whatever settings say
    tensors = StoredTensors(folder, stored)
    tokenizer = _tokenizer(member(folder, TOKENIZER), settings)
    return checked(folder, LanguageModel(folder.resolve().name, config, tensors, tokenizer))
