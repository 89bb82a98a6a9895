"""What a pass asks for, against counts token by token and published figures."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.spec.base import SpecError
from evolute.sim.workload.linear import LayerName
from evolute.sim.workload.operations import (
    Advance,
    Attend,
    CacheFormat,
    Elementwise,
    Operation,
    Pass,
    Product,
    attend,
    cache_bytes,
    counted_operations,
    distinct_experts,
    latent_schedules,
    operations,
    token_bytes,
)
from evolute.sim.workload.shape import (
    Attention,
    ChosenBlocks,
    Latent,
    ModelShape,
)
from evolute.sim.workload.zoo import zoo_entry

NAME = LayerName(None, "attention")
FP16, INT8 = CacheFormat("fp16", 16), CacheFormat("int8", 8, 16)


def shape(name: str) -> ModelShape:
    found = zoo_entry(name).shape
    assert isinstance(found, ModelShape)
    return found


def grouped(**changes: object) -> Attention:
    plain = {"heads": 6, "key_heads": 2, "value_heads": 2, "key_dim": 8, "value_dim": 4}
    return Attention(**{**plain, **changes})  # type: ignore[arg-type]


def test_llama_with_1024_tokens_is_as_chipleap_counts_it() -> None:
    """ChipLeap's figures of Llama-3.2-1B at a context of 1,024: 1.303 GMAC, 16.78 MB of cache."""
    found = operations(shape("llama-3.2-1b"), Pass(1, 1023), CacheFormat("int8", 8))
    assert round(sum(one.macs for one in found) / 1e9, 3) == 1.303
    assert round(sum(one.read_bytes for one in found if isinstance(one, Attend)) / 1e6, 2) == 16.78


@given(
    cached=st.integers(0, 40),
    rows=st.integers(1, 20),
    window=st.none() | st.integers(1, 30),
    group=st.integers(1, 5),
)
def test_attention_is_what_its_tokens_see_one_by_one(
    cached: int, rows: int, window: int | None, group: int
) -> None:
    attention = grouped(window=window)
    found = attend(NAME, attention, Pass(rows, cached, batch=3), FP16)
    seen = [
        {
            token
            for token in range(cached + row + 1)
            if window is None or token > cached + row - window
        }
        for row in range(rows)
    ]
    assert list(found.visible.tokens) == [len(tokens) for tokens in seen]
    assert found.macs == 3 * sum(map(len, seen)) * attention.heads * (8 + 4)
    assert found.elements == 3 * sum(map(len, seen)) * attention.heads
    assert found.read == len(set().union(*seen))
    assert found.read_bytes == 3 * found.read * 2 * 2 * (8 + 4)
    assert found.write_bytes == 3 * rows * 2 * 2 * (8 + 4)
    streams = [set().union(*seen[at : at + group]) for at in range(0, rows, group)]
    assert [int(count) for count in found.streams(group).tokens] >= [len(one) for one in streams]
    if rows % group == 0:  # a last stream of fewer rows may count tokens before its window
        assert list(found.streams(group).tokens) == [len(one) for one in streams]


def test_an_encoder_sees_every_token_and_keeps_none() -> None:
    attention = grouped(causal=False)
    found = attend(NAME, attention, Pass(7), FP16)
    assert found.macs == 7 * 7 * 6 * 12
    with pytest.raises(SpecError, match="cached: must be 0 for an encoder"):
        attend(NAME, attention, Pass(7, 1), FP16)
    for name in ("bert-base", "minilm-l6"):
        assert cache_bytes(shape(name), 512, FP16) == 0


def test_blocks_are_chosen_beyond_what_is_dense() -> None:
    """InfLLM v2 as MiniCPM4-8B has it: 96 blocks of 64 tokens, one pooled key in 16 tokens."""
    blocks = ChosenBlocks(block=64, budget=6144, summary_stride=16, summary_dim=128, dense=8192)
    attention = Attention(
        heads=32, key_heads=2, value_heads=2, key_dim=128, value_dim=128, chosen=blocks
    )
    layers = 32
    dense, sparse, long = (
        attend(NAME, attention, Pass(1, cached), FP16) for cached in (8191, 32767, 131071)
    )
    # Bytes per token at 8k, 32k and 128k of all layers, as derived from its configuration.
    assert round(layers * dense.read_bytes / 1e6) == 268
    assert round(layers * sparse.read_bytes / 1e6) == 235
    assert round(layers * long.read_bytes / 1e6) == 336
    assert (dense.visible.summaries, sparse.visible.summaries) == (0, 2048)


def test_a_latent_cache_is_expanded_or_absorbed_whichever_is_less() -> None:
    """PLM-1.8B: one latent vector of 512 and 64 numbers per token and layer."""
    (attention,) = {block.mixer for block in shape("plm-1.8b").blocks}
    assert isinstance(attention, Attention) and attention.latent == Latent(rank=512, rotary=64)
    assert 32 * token_bytes(attention, FP16) == 36_864
    cached = 1000
    expand, absorb = latent_schedules(NAME, attention, Pass(1, cached), FP16)
    assert expand.read_bytes == absorb.read_bytes
    made = cached * 512 * 16 * (128 + 128)
    assert expand.macs == (cached + 1) * 16 * (192 + 128) + made
    assert absorb.macs == (cached + 1) * 16 * (576 + 512)
    assert attend(NAME, attention, Pass(1, cached), FP16) == absorb
    # A whole prompt has its keys and values at hand.
    assert attend(NAME, attention, Pass(cached), FP16).schedule == "expand"


def test_keys_and_values_may_have_different_heads() -> None:
    """Sigma-1.5B's DiffQKV: 66,560 bytes a token in FP16, against 106,496 with 16 heads of both."""
    assert cache_bytes(shape("sigma-1.5b"), 1, FP16) == 66_560


def test_a_cache_in_codes_has_scales() -> None:
    assert INT8.vector_bytes(64) == 66
    assert token_bytes(grouped(), CacheFormat("int4", 4, 16)) == 2 * (4 + 2) + 2 * (2 + 2)
    local = shape("gemma-3-270m")
    windows = [block.mixer.window for block in local.blocks if isinstance(block.mixer, Attention)]
    held = sum(4096 if window is None else min(4096, window) for window in windows)
    assert cache_bytes(local, 4096, FP16) == held * 2 * 256 * 2


def test_a_scan_keeps_its_state_whatever_the_context() -> None:
    """Mamba-130M: 2.95 MB of state in float32."""
    mamba = shape("mamba-130m")
    assert cache_bytes(mamba, 1, FP16) == cache_bytes(mamba, 10**6, FP16) == 24 * 1536 * 20 * 4
    scans = [one for one in operations(mamba, Pass(1, 5), FP16) if isinstance(one, Advance)]
    assert len(scans) == 24
    assert {one.state_bytes for one in scans} == {1536 * 20 * 4}
    assert operations(mamba, Pass(1, 5), FP16) == operations(mamba, Pass(1, 500), FP16)


@pytest.mark.parametrize(("tokens", "mean"), [(1, 4.0), (2, 7.5), (4, 13.2), (8, 21.0), (16, 28.2)])
def test_experts_that_a_batch_visits(tokens: int, mean: float) -> None:
    """SmallThinker-4B: 4 of 32 experts for each token."""
    found = operations(shape("smallthinker-4b"), Pass(1, 0, batch=tokens), FP16)
    (half,) = {block.feed_forward for block in shape("smallthinker-4b").blocks}
    assert half is not None and round(distinct_experts(half, tokens), 1) == mean
    gates = [one for one in found if isinstance(one, Product) and one.name.role == "gate"]
    assert len(gates) == 32
    for gate in gates:
        assert gate.origin == "expert" and gate.rows == 4 * tokens
        assert gate.copies == math.ceil(distinct_experts(half, tokens))


def test_a_norm_inside_experts_is_of_every_row_that_they_compute() -> None:
    plain = shape("smallthinker-4b").blocks[0]
    normed = dataclasses.replace(plain, norms=(*plain.norms, "down_norm"))
    model = dataclasses.replace(shape("smallthinker-4b"), blocks=(normed,))
    found = [one for one in operations(model, Pass(3), FP16) if one.name.role == "down_norm"]
    assert found == [Elementwise(LayerName(0, "down_norm"), "norm", 768, 3 * 4)]
    dense = shape("bitnet-b1.58-2b-4t").blocks[:1]
    model = dataclasses.replace(shape("bitnet-b1.58-2b-4t"), blocks=dense)
    found = [one for one in operations(model, Pass(3), FP16) if one.name.role == "down_norm"]
    assert found == [Elementwise(LayerName(0, "down_norm"), "norm", 6912, 3)]


def test_smallthinker_reads_255_mb_of_experts_per_token() -> None:
    """Its active experts at 4.5 bits a weight, and its attention's 99 MB."""
    found = [
        one
        for one in operations(shape("smallthinker-4b"), Pass(1), FP16)
        if isinstance(one, Product)
    ]
    bits = 4.5
    experts = sum(one.copies * one.n * one.k for one in found if one.origin == "expert")
    attention = sum(one.n * one.k for one in found if one.name.role in "qkvo")
    assert round(experts * bits / 8 / 1e6) == 255
    assert round(attention * bits / 8 / 1e6) == 99


def test_equal_blocks_are_counted_together() -> None:
    for name, work in itertools.product(
        ("gemma-3-270m", "phi-3-small", "mamba-130m", "smallthinker-21b", "plm-1.8b"),
        (Pass(5), Pass(1, 3000, batch=2)),
    ):
        every = operations(shape(name), work, INT8)
        counted = counted_operations(shape(name), work, INT8)
        assert sum(count for _, count in counted) == len(every)
        for quantity in ("macs", "elements", "read_bytes", "write_bytes"):
            whole = sum(getattr(one, quantity) for one in every)
            assert whole == sum(count * getattr(one, quantity) for one, count in counted)


def test_a_prompt_needs_the_head_for_its_last_token() -> None:
    def heads(work: Pass) -> list[Operation]:
        found = operations(shape("smollm2-135m"), work, FP16)
        return [one for one in found if one.name.block is None and one.name.role != "embedding"]

    norm, product, sample = heads(Pass(9, batch=2))
    assert isinstance(product, Product) and product.rows == 2
    assert isinstance(norm, Elementwise) and norm.elements == 2 * 576
    assert isinstance(sample, Elementwise) and sample.elements == 2 * 49_152
    every = heads(Pass(9, batch=2, head_rows=9))
    assert isinstance(every[1], Product) and every[1].rows == 18


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"rows": 0}, "rows: must be at least 1, got 0"),
        ({"rows": 1, "cached": -1}, "cached: must be 0 or more, got -1"),
        ({"rows": 1, "batch": 0}, "batch: must be at least 1, got 0"),
        ({"rows": 2, "head_rows": 3}, "head_rows: must be in 0..2, got 3"),
    ],
)
def test_a_pass_that_cannot_be(wrong: dict[str, int], line: str) -> None:
    with pytest.raises(SpecError, match=line):
        Pass(**wrong)
