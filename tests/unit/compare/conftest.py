"""What the tests of `evolute compare` share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dse.compare.contenders import Task
from dse.compare.layer import Layer, layer_of
from hw.spec import Engine
from hw.spec.formats import Activations, WeightCodes
from hw.synth import AsicResult
from sw.model import LanguageModel
from sw.weights import parse_weights
from sw.zoo import default_text
from sw.zoo import load as load_model

TINY = "evolute-tiny"


@pytest.fixture(scope="session")
def task() -> Task:
    return Task(WeightCodes(2), group=128, activations=Activations(8), m=1, n=4, slice_k=8)


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    return load_model(TINY)


@pytest.fixture(scope="session")
def layer(model: LanguageModel) -> Layer:
    return layer_of(model, "1.down", parse_weights("w2g128"), default_text(TINY))


@pytest.fixture(scope="session")
def toy_area() -> Callable[[Engine], AsicResult]:
    return made_up


def made_up(spec: Engine) -> AsicResult:
    """In place of synthesis: an area that grows with the engine."""
    area_um2 = 10.0 * spec.macs_per_step * (1 + spec.weight_bits)
    return AsicResult(
        target="asic",
        area_um2=area_um2,
        area_ge=area_um2 / 0.798,
        delay_ns=1.5,
        delay_is="made up",
        flops=7,
        latches=0,
        multipliers=0,
        memories=(),
        memory_bits=0,
        cells={"NAND2_X1": 30, "DFF_X1": 12},
        library="toy cells",
        tool="toy tool",
    )
