"""LUT Tensor Core: every preset, and random specs, through the contract that all engines share."""

from __future__ import annotations

import numpy as np
import pytest

from hw.spec.lut_tensor_core import LutTensorCore
from hw.spec.presets import ENGINES
from verif.contract import EngineContract
from verif.lut_tensor_core import random_spec
from verif.simulators import available


def drawn(seed: int, count: int) -> list[LutTensorCore]:
    """Legal specs; the digest in a test's name and the seed here bring any of them back."""
    return [random_spec(np.random.default_rng((seed, i))) for i in range(count)]


def digest(spec: LutTensorCore) -> str:
    return spec.digest


class Contract(EngineContract):
    @pytest.fixture
    def spec(self, request: pytest.FixtureRequest) -> LutTensorCore:
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


@pytest.mark.parametrize("spec", drawn(2, 20), ids=digest, indirect=True)
class TestRandomSpecs(Contract):
    pass


@pytest.mark.parametrize("spec", drawn(3, 3), ids=digest, indirect=True)
class TestOnIcarus(IcarusContract):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("spec", ENGINES.values(), ids=ENGINES, indirect=True)
class TestPresetsOnIcarus(IcarusContract):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("spec", drawn(4, 200), ids=digest, indirect=True)
class TestManyRandomSpecs(Contract):
    pass
