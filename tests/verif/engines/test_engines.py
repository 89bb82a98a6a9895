"""Every preset of an engine, and random specs of each, through the laws that all share."""

from __future__ import annotations

import numpy as np
import pytest

from evolute.hw.spec import Engine, LutTensorCore, engine_of
from evolute.hw.spec.presets import ENGINE_PRESETS
from evolute.verif.harness.contract import EngineContract
from evolute.verif.harness.driver import DRIVERS
from evolute.verif.harness.simulators import available
from evolute.verif.harness.verify import verify


def drawn(seed: int, count: int, of_lut: int | None = None) -> list[Engine]:
    """Legal specs, `count` of each engine, or `of_lut` of the one with the most choices.

    The digest in a test's name and the seed here bring any of them back.
    """
    return [
        driver.random_spec(np.random.default_rng((seed, i)))
        for kind, driver in DRIVERS.items()
        for i in range(of_lut if of_lut and kind is LutTensorCore else count)
    ]


def name(spec: Engine) -> str:
    return f"{engine_of(spec)}-{spec.digest}"


class Contract(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, request: pytest.FixtureRequest) -> Engine:
        return request.param


class IcarusContract(Contract):
    @pytest.fixture(scope="class")
    @classmethod
    def simulator(cls) -> str:
        if not available("icarus"):
            pytest.skip("icarus is not installed")
        return "icarus"


WIDE = {"lut-prefill", "lut-w2", "lut-w1", "lut-paper", "vq-inputs-table"}
"""Presets whose simulators take longest to build; others of their engines, narrower ones or random
specs, or what a core generates in `test_run.py`, hold the same every day."""


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, id=name, marks=[pytest.mark.slow] * (name in WIDE))
        for name, spec in ENGINE_PRESETS.items()
    ],
    indirect=True,
    scope="class",
)
class TestPresets(Contract):
    pass


@pytest.mark.parametrize("spec", drawn(2, 1, of_lut=3), ids=name, indirect=True, scope="class")
class TestRandomSpecs(Contract):
    pass


@pytest.mark.parametrize("spec", drawn(3, 1), ids=name, indirect=True, scope="class")
class TestOnIcarus(IcarusContract):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("spec", drawn(3, 3), ids=name, indirect=True, scope="class")
class TestMoreOnIcarus(IcarusContract):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", ENGINE_PRESETS.values(), ids=ENGINE_PRESETS, indirect=True, scope="class"
)
class TestPresetsOnIcarus(IcarusContract):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("spec", drawn(2, 5, of_lut=10), ids=name, indirect=True, scope="class")
class TestMoreRandomSpecs(Contract):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
@pytest.mark.parametrize("kind", DRIVERS, ids=lambda kind: kind.__name__)
def test_many_random_specs(kind: type[Engine], seed: int) -> None:
    report = verify(DRIVERS[kind].random_spec(np.random.default_rng((4, seed))), seed=1)
    assert report.passed, "\n".join(report.differences)
