"""What is worth trying, by spec class. What is legal stays in the spec, whose refusal prunes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial

from hw.spec import LutTensorCore, Spec
from hw.spec.base import require
from sim.memory import Platform
from sw.linear import linear_names
from sw.model import LanguageModel
from sw.quant import NATIVE, QuantTensor, Weights, parse_weights


@dataclass(frozen=True)
class Space:
    """Choices to search: of spec fields and of weights (by name).

    Engines with more lookups per cycle (m * n * kg), or with more multiplexer inputs in all of
    them, are left out: their synthesis takes minutes.
    """

    engine: type[LutTensorCore]
    fields: Mapping[str, tuple[Any, ...]]
    weights: tuple[str, ...]
    most_lookups: int
    most_inputs: int


SPACE: dict[type[Spec], Space] = {
    LutTensorCore: Space(
        LutTensorCore,
        fields={
            "m": (1, 2, 4),
            "n": (8, 16, 32, 64),
            "k": (2, 3, 4, 5, 6),
            "kg": (1, 2, 4),
            "table_bits": (None, 8),
        },
        weights=("w2g32", "w3g32", "w4g32", "w4g64", "w4g128", "w5g64", "w6g128", "w8g128"),
        most_lookups=128,
        most_inputs=1024,
    ),
}


@dataclass(frozen=True)
class Codes:
    """A choice of weights, and what an engine must be built for to run all of a model in them."""

    weights: Weights
    bits: int
    group: int


@dataclass(frozen=True)
class Candidate:
    """One point of a search: an engine, the weights it runs, and what surrounds it."""

    spec: LutTensorCore
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
    """The weights to choose from, by name; with the checkpoint's own codes where it has any.

    The bits cover the output head too, which keeps its own codes under every choice, so that no
    candidate gains by leaving it to the host.
    """
    names = (*space.weights, NATIVE.name) if model.has_codes else space.weights
    found = {}
    for name in names:
        weights = parse_weights(name)
        bits, groups = [1], [1]
        for layer in linear_names(model):
            tensor = model.head if layer == "head" else model.tensors[layer]
            if weights.rounding is not None and layer != "head":
                bits.append(weights.rounding.format.planes)
                groups.append(weights.rounding.group or tensor.shape[1])
            elif isinstance(tensor, QuantTensor):
                bits.append(tensor.format.planes)
                groups.append(tensor.group)
        found[name] = Codes(weights, max(bits), max(groups))
    return found


def choose(
    space: Space,
    codes: Mapping[str, Codes],
    frequencies_hz: Sequence[float],
    bandwidths_bytes_per_s: Sequence[float],
    trial: BaseTrial,
) -> Candidate:
    """The candidate that `trial` stands for. Raises `SpecError` if it is illegal or too large."""
    fields: dict[str, Any] = {
        name: trial.suggest_categorical(name, of) for name, of in space.fields.items()
    }
    chosen = codes[trial.suggest_categorical("weights", tuple(codes))]
    platform = Platform(
        frequency_hz=trial.suggest_categorical("frequency_hz", tuple(frequencies_hz)),
        bandwidth_bytes_per_s=trial.suggest_categorical(
            "bandwidth_bytes_per_s", tuple(bandwidths_bytes_per_s)
        ),
    )
    spec = space.engine(**fields, weight_bits=chosen.bits, group_size=chosen.group)
    lookups = spec.m * spec.n * spec.kg
    inputs = lookups * spec.entries
    limit = f"at most {space.most_lookups} to be synthesized in seconds"
    require(lookups <= space.most_lookups, "m * n * kg", limit, lookups)
    limit = f"at most {space.most_inputs} to be synthesized in seconds"
    require(inputs <= space.most_inputs, "m * n * kg * entries", limit, inputs)
    return Candidate(spec, chosen.weights, platform)
