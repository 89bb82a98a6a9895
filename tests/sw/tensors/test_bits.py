"""What weights take: foretold from shapes, counted in tensors, and the same wherever it is said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evolute.sw.checkpoints import zoo
from evolute.sw.quantizers.rounding import quantize
from evolute.sw.tensors.bits import Bits, bits_of, model_bits, per_weight, rounded_bits
from evolute.sw.tensors.weights import FLOAT, parse_weights


@pytest.mark.parametrize("name", ["w3g16", "w1s", "w4g16f", "w8", "tg16", "b3g16", "b4", "w2g64"])
@pytest.mark.parametrize("shape", [(6, 40), (5, 64), (1, 7)])
def test_bits_of_rounded_weights_are_known_before(name: str, shape: tuple[int, int]) -> None:
    rounding = parse_weights(name).rounding
    assert rounding is not None
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tensor = quantize(w, rounding)
    assert bits_of(tensor) == rounded_bits(shape, rounding)
    assert bits_of(tensor).total == tensor.total_bits


def test_bits_add_up() -> None:
    first, second = Bits(8, 1, 2, 3, 4), Bits(codes=2, groups=5)
    assert first + second == Bits(10, 1, 2, 8, 4)
    assert first.total == 18 and first.to_dict()["total"] == 18
    found = per_weight(first, 4)
    assert (found.bits_index, found.bits_total) == (2, 4.5)


def test_a_models_bits_are_those_of_its_layers_without_the_head() -> None:
    model = zoo.load("evolute-tiny")
    assert model_bits(model, FLOAT).bits_total == 32
    rounding = parse_weights("w3g128").rounding
    assert rounding is not None
    shapes = [*model.config.layer_linears().values()]
    wanted = sum((rounded_bits(shape, rounding) for shape in shapes), Bits())
    found = model_bits(model, parse_weights("w3g128"))
    assert found == per_weight(wanted, sum(map(math.prod, shapes)))
    assert 3.15 < found.bits_total < 3.16
