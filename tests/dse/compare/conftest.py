"""What the tests of `evolute compare` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evolute.dse.compare.contenders import Contender, Task
from evolute.dse.compare.layer import ComparedLayer, layer_of
from evolute.dse.compare.rows import Areas, row
from evolute.dse.compare.scaling import with_scaling
from evolute.hw.spec import Engine, Spec
from evolute.hw.spec.formats import Activations, WeightCodes
from evolute.hw.spec.scaling import Scaling
from evolute.hw.synthesis.asic import AsicResult
from evolute.support import schema
from evolute.sw.checkpoints.zoo import default_text
from evolute.sw.checkpoints.zoo import load as load_model
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.tensors.weights import parse_weights

TINY = "evolute-tiny"


@pytest.fixture(scope="session")
def task() -> Task:
    return Task(WeightCodes(2), group=128, activations=Activations(8), m=1, n=4, slice_k=8)


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    return load_model(TINY)


@pytest.fixture(scope="session")
def layer(model: LanguageModel) -> ComparedLayer:
    return layer_of(model, "1.down", parse_weights("w2g128"), default_text(TINY))


@pytest.fixture(scope="session")
def toy_area() -> Callable[[Spec], AsicResult]:
    return made_up


@pytest.fixture(scope="session")
def toy_row() -> Callable[..., dict[str, Any]]:
    """The row of a contender with its scaling, in made-up areas."""

    def found(contender: Contender, layer: ComparedLayer, rows: int) -> dict[str, Any]:
        (scaled,) = with_scaling([contender], layer, rows)
        assert scaled.spec is not None
        scalings = tuple((each, made_up(each)) for each in scaled.scalings)
        areas = Areas(made_up(scaled.spec), scalings)
        return schema.to_record(row(scaled, areas, layer, rows))

    return found


def made_up(spec: Spec) -> AsicResult:
    """In place of synthesis: an area that grows with the engine, or with the lanes."""
    if isinstance(spec, Scaling):
        area_um2 = 25.0 * spec.scale_lanes
    else:
        assert isinstance(spec, Engine)
        area_um2 = 10.0 * spec.macs_per_step * (1 + spec.weight_bits)
    return AsicResult(
        target="asic",
        area_um2=area_um2,
        area_ge=area_um2 / 0.798,
        total_area_um2=area_um2,
        delay_ns=1.5,
        delay_is="made up",
        critical_path=(),
        flops=7,
        latches=0,
        multipliers=0,
        memories=(),
        memory_bits=0,
        cells={"NAND2_X1": 30, "DFF_X1": 12},
        library="toy cells",
        licence="",
        tool="toy tool",
    )
