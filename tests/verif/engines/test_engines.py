"""Every preset of an engine, and random specs of each, through the contract that all share."""

from __future__ import annotations

import numpy as np
import pytest

from evolute.hw.spec import Engine, LutTensorCore, engine_of
from evolute.hw.spec.presets import ENGINES
from evolute.verif.harness.contract import EngineContract
from evolute.verif.harness.driver import DRIVERS
from evolute.verif.harness.simulators import available


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
    @pytest.fixture
    def spec(self, request: pytest.FixtureRequest) -> Engine:
        return request.param


class IcarusContract(Contract):
    @pytest.fixture
    def simulator(self) -> str:
        if not available("icarus"):
            pytest.skip("icarus is not installed")
        return "icarus"


@pytest.mark.parametrize("spec", ENGINES.values(), ids=ENGINES, indirect=True)
class TestPresets(Contract):
    pass


@pytest.mark.parametrize("spec", drawn(2, 5, of_lut=10), ids=name, indirect=True)
class TestRandomSpecs(Contract):
    pass


@pytest.mark.parametrize("spec", drawn(3, 3), ids=name, indirect=True)
class TestOnIcarus(IcarusContract):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("spec", ENGINES.values(), ids=ENGINES, indirect=True)
class TestPresetsOnIcarus(IcarusContract):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("spec", drawn(4, 200), ids=name, indirect=True)
class TestManyRandomSpecs(Contract):
    pass
