"""BitMoD's cycle model against the 36 totals that its authors plotted."""

from __future__ import annotations

from fractions import Fraction

import pytest

from evolute.sim.what_if.bitmod import Array, cycles
from evolute.sim.workload.shape import Attention, Block, FeedForward, ModelShape
from evolute.sim.workload.zoo import zoo_entry


def _llama(
    layers: int, hidden: int, ffn: int, heads: int, key_heads: int, vocab: int
) -> ModelShape:
    width = hidden // heads
    attention = Attention(heads=heads, key_heads=key_heads, value_heads=key_heads,
                          key_dim=width, value_dim=width)  # fmt: skip
    block = Block(mixer=attention, feed_forward=FeedForward(width=ffn))
    return ModelShape(name="llama", family="llama", hidden=hidden, vocab=vocab, context=4096,
                      tied=False, blocks=(block,) * layers)  # fmt: skip


def _phi2() -> ModelShape:
    attention = Attention(heads=32, key_heads=32, value_heads=32, key_dim=80, value_dim=80)
    block = Block(mixer=attention, feed_forward=FeedForward(width=10240, gated=False))
    return ModelShape(name="phi-2", family="phi", hidden=2560, vocab=51200, context=2048,
                      tied=False, blocks=(block,) * 32)  # fmt: skip


MODELS = {
    "OPT-1.3B": zoo_entry("opt-1.3b").shape,
    "Phi-2": _phi2(),
    "Yi-6B": _llama(32, 4096, 11008, 32, 4, 64000),
    "Llama-2-7B": zoo_entry("llama-2-7b").shape,
    "Llama-2-13B": _llama(40, 5120, 13824, 40, 40, 32000),
    "Llama-3-8B": _llama(32, 4096, 14336, 32, 8, 128256),
}

PUBLISHED = {
    # Of a prompt of 256 tokens, and of one token after 256, in the order of the models.
    ("FP16", True): (669255680, 1399816192, 2878668800, 3156574208, 6676111360, 3969089536),
    ("LL", True): (336236544, 693780480, 1414209536, 1649680384, 3537397760, 1901133824),
    ("LY", True): (233070592, 515194880, 946937856, 1202921472, 2601461760, 1273233408),
    ("FP16", False): (82153718, 165841248, 362970848, 413518608, 804330080, 469624976),
    ("LL", False): (31220054, 62986912, 137681120, 156919888, 305157360, 178109840),
    ("LY", False): (15857750, 31959712, 69662944, 79493200, 154552560, 90099088),
}
"""The plotted totals, from the notebook `speedup` of the authors' repository: half precision, and
BitMoD without loss (6 bits) and with little (4 bits in prompts, 3 after)."""


def _array(machine: str, *, is_prompt: bool) -> Array:
    if machine == "FP16":
        height, width = (32, 24) if is_prompt else (64, 12)
        return Array(height, width, 1, Fraction(16), bit_serial=False)
    bits = {"LL": (6, 6), "LY": (4, 3)}[machine][0 if is_prompt else 1]
    height, width = (32, 32) if is_prompt else (64, 16)
    return Array(height, width, 4, bits + Fraction(1, 16), bit_serial=True)


@pytest.mark.parametrize(("machine", "is_prompt"), PUBLISHED)
def test_totals_are_as_published(machine: str, is_prompt: bool) -> None:
    array = _array(machine, is_prompt=is_prompt)
    found = [cycles(array, shape, 256, is_prompt=is_prompt) for shape in MODELS.values()]  # type: ignore[arg-type]
    assert found == list(PUBLISHED[machine, is_prompt])
