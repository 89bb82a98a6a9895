"""What is worth trying for each class of engines. What is legal is defined by the specs; illegal
candidates are pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial

from evolute.hw.spec import BitSerial, Engine, LutTensorCore, Mac
from evolute.hw.spec.base import require
from evolute.hw.spec.bit_serial import TERMS
from evolute.hw.spec.platform import Platform
from evolute.sw.language_model.linear import linear_names
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.tensors.tensor import parted
from evolute.sw.tensors.weights import NATIVE, Weights, parse_weights


@dataclass(frozen=True)
class Limit:
    """A size of an engine, with its formula, above which synthesis takes minutes."""

    formula: str
    size: Callable[[Any], int]
    most: int


@dataclass(frozen=True)
class Space:
    """The choices of a search: values of spec fields, and names of weights. Engines beyond a limit
    are left out."""

    engine: type[Engine]
    fields: Mapping[str, tuple[Any, ...]]
    weights: tuple[str, ...]
    limits: tuple[Limit, ...]


_WEIGHTS = ("w2g32", "w3g32", "w4g32", "w4g64", "w4g128", "w5g64", "w6g128", "w8g128")


def _lookups(spec: LutTensorCore) -> int:
    """The number of lookups in one step."""
    return spec.m * spec.n * spec.kg * spec.planes_per_step


SPACE: dict[type[Engine], Space] = {
    LutTensorCore: Space(
        LutTensorCore,
        fields={
            "m": (1, 2, 4),
            "n": (8, 16, 32, 64),
            "k": (2, 3, 4, 5, 6),
            "kg": (1, 2, 4),
            "mirrored": (True, False),
            "planes_per_step": (1, 2),
            "table_bits": (None, 8),
        },
        weights=_WEIGHTS,
        limits=(
            Limit("m * n * kg * planes_per_step", lambda spec: _lookups(spec), 128),
            Limit(
                "m * n * kg * planes_per_step * entries",
                lambda spec: _lookups(spec) * spec.entries,
                1024,
            ),
        ),
    ),
    Mac: Space(
        Mac,
        fields={"m": (1, 2, 4), "n": (8, 16, 32, 64), "k": (4, 8, 16, 32)},
        weights=_WEIGHTS,
        limits=(Limit("m * n * k", lambda spec: spec.macs_per_step, 512),),
    ),
    BitSerial: Space(
        BitSerial,
        fields={
            "m": (1, 2, 4),
            "n": (8, 16, 32, 64),
            "k": (8, 16, 32),
            "terms": tuple(TERMS),
        },
        weights=(*_WEIGHTS, "b4g128"),
        limits=(Limit("m * n * k", lambda spec: spec.macs_per_step, 512),),
    ),
}


@dataclass(frozen=True)
class Codes:
    """A choice of weights, and the largest codes and groups that an engine needs for running all of
    a model in them."""

    weights: Weights
    bits: int
    group: int


@dataclass(frozen=True)
class Candidate:
    """One point of a search: an engine, the weights that it runs, and its platform."""

    spec: Engine
    weights: Weights
    platform: Platform

    def to_dict(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_dict(),
            "digest": self.spec.digest,
            "weights": self.weights.name,
            "frequency_hz": self.platform.frequency_hz,
            "bandwidth_bytes_per_s": self.platform.bandwidth_bytes_per_s,
        }


def codes_to_try(space: Space, model: LanguageModel) -> dict[str, Codes]:
    """The weights to choose from, by name, including the checkpoint's own codes if it has any.

    The output head keeps its own codes under every choice. They are included in the bits, so that
    no candidate gains by leaving the head to the host.
    """
    names = (*space.weights, NATIVE.name) if model.has_codes else space.weights
    choices = {}
    for name in names:
        weights = parse_weights(name)
        bits, groups = [1], [1]
        for layer in linear_names(model):
            if weights.rounding is not None and layer != "head":
                bits.append(weights.rounding.format.bits)
                groups.append(weights.rounding.group or model.config.shapes()[layer][1])
            elif tensor := model.codes(layer):
                bits += [part.format.bits for part in parted(tensor).parts]
                groups += [part.group for part in parted(tensor).parts]
        choices[name] = Codes(weights, max(bits), max(groups))
    return choices


def choose(
    space: Space,
    codes: Mapping[str, Codes],
    frequencies_hz: Sequence[float],
    bandwidths_bytes_per_s: Sequence[float],
    trial: BaseTrial,
) -> Candidate:
    """The candidate that `trial` describes. Raises `SpecError` if it is illegal or too large."""
    fields: dict[str, Any] = {
        name: trial.suggest_categorical(name, values) for name, values in space.fields.items()
    }
    chosen = codes[trial.suggest_categorical("weights", tuple(codes))]
    platform = Platform(
        frequency_hz=trial.suggest_categorical("frequency_hz", tuple(frequencies_hz)),
        bandwidth_bytes_per_s=trial.suggest_categorical(
            "bandwidth_bytes_per_s", tuple(bandwidths_bytes_per_s)
        ),
    )
    spec = space.engine(**fields, weight_bits=chosen.bits, group_size=chosen.group)
    for limit in space.limits:
        size, rule = limit.size(spec), f"at most {limit.most} to be synthesized in seconds"
        require(size <= limit.most, limit.formula, rule, size)
    return Candidate(spec, chosen.weights, platform)
