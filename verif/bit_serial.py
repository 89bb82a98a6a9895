"""How weights fill the beats of a bit-serial engine, by `hw.spec.layout` alone; random specs."""

from __future__ import annotations

import numpy as np

from hw.spec.bit_serial import TERMS, BitSerial, float_code
from hw.spec.formats import Kind, WeightCodes


def weight_fields(
    spec: BitSerial, codes: np.ndarray, special: np.ndarray, weight_format: WeightCodes
) -> dict[str, np.ndarray]:
    """Fields [tiles, slices, planes, *shape] of codes [tiles, n, slices, slice_k]."""
    if weight_format.kind is Kind.BITMOD:
        scale = spec.coding_of(weight_format).scale
        values = [weight_format.values(each) for each in range(4)]
        table = np.array([[float_code(scale * value) for value in each] for each in values])
        code = table[special[..., None], codes]
    else:
        code = codes if spec.has_pairs else codes - weight_format.levels // 2
    code = code.transpose(0, 2, 1, 3)[:, :, None]
    if spec.has_planes:
        code = code >> np.arange(weight_format.bits)[:, None, None] & 1
    return {"code": code, "special": special.transpose(0, 2, 1)[:, :, None]}


def random_spec(rng: np.random.Generator) -> BitSerial:
    """A legal spec, small enough to build in seconds, with every choice drawn freely."""
    while True:
        terms = str(rng.choice(list(TERMS)))
        spec = BitSerial(
            m=int(rng.integers(1, 5)),
            n=int(rng.integers(1, 13)),
            k=int(rng.integers(1, 25)),
            terms=terms,
            activation_bits=int(rng.integers(4, 17)),
            weight_bits=int(rng.integers(4 if terms == "bitmod" else 1, 9)),
            group_size=int(rng.integers(1, 97)),
        )
        if spec.has_pairs and spec.activation_bits > 9:
            continue  # a slice would take too many steps
        if spec.macs_per_step * (1 if spec.has_planes else 4) <= 1200:
            return spec
