"""Ways of serving: plans by hand, prices by hand, and profiles that must equal plain serving."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.spec.base import SpecError
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import CORES
from evolute.sim.cost.evaluate import Pricing
from evolute.sim.cost.profiles import ProfileMetrics, price_profile
from evolute.sim.workload.operations import CacheFormat, Pass, cache_bytes
from evolute.sim.workload.profiles import (
    CacheRoom,
    Decode,
    EarlyExit,
    Plan,
    Prefill,
    Profile,
    Recursion,
    Sampling,
    Search,
    Speculative,
)
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import ModelShape
from evolute.sim.workload.zoo import zoo_entry
from evolute.sw.deploy.unweighted import head_format, parse_format, shape_workload

INT8 = CacheFormat("int8", 8, 16)
CORE = CORES["core-decode"].evolve(vector_lanes=4, attention_rows=4)
WEIGHTS, HEAD = parse_format("weights", "w4g32"), head_format(None, CORE)
SERVING = Serving(20, 6, cache=INT8)


def _shape() -> ModelShape:
    found = zoo_entry("evolute-tiny").shape
    assert isinstance(found, ModelShape)
    return found


SHAPE = _shape()
PRICING = Pricing(
    CORE,
    SHAPE,
    lambda work: shape_workload(SHAPE, WEIGHTS, HEAD, CORE, work),
    Platform(),
    INT8,
)
HALF = PRICING.of_blocks((0, 1))


def price(profile: Profile, serving: Serving = SERVING, free: int | None = None) -> ProfileMetrics:
    return price_profile(profile, PRICING, serving, free, lambda name: {"half": HALF}[name])


def plan(profile: Profile, serving: Serving = SERVING, free: int | None = None) -> Plan:
    return profile.plan(serving, CacheRoom(SHAPE, INT8, free))


def seconds(*passes: Pass, in_one: bool = True) -> float:
    return math.fsum(PRICING.phase((work,), in_one=in_one).seconds for work in passes)


@pytest.mark.parametrize(
    "serving",
    [SERVING, Serving(20, 6, batch=3, cache=INT8), Serving(9, contexts=(77,), cache=INT8)],
)
@pytest.mark.parametrize(
    "profile",
    [
        Decode(),
        Speculative(gamma=0),
        Speculative(gamma=0, acceptance=(0.0,)),
        Recursion(depths=1),
        Recursion(depths=1, buffer_kib=1 << 20),
        Recursion(depths=2),  # all blocks of the model are equal
    ],
)
def test_what_decodes_one_by_one_is_plain_decoding(profile: Profile, serving: Serving) -> None:
    plain, found = PRICING.serve(serving).decode, price(profile, serving)
    assert found.seconds == plain.seconds
    assert found.bytes == plain.dram_bytes
    assert found.tokens == plain.tokens
    assert found.tokens_per_s == plain.tokens_per_s
    assert found.scope == plain.scope == "whole token"
    assert found.facts["speedup"] == 1
    assert found.energy_j is None


@pytest.mark.parametrize("profile", [Prefill(), Prefill(20), Prefill(1000)])
def test_one_chunk_is_plain_prefill(profile: Prefill) -> None:
    plain, found = PRICING.serve(SERVING).prefill, price(profile)
    assert (found.seconds, found.bytes, found.tokens) == (plain.seconds, plain.dram_bytes, 20)


def test_chunks_by_hand() -> None:
    chunks = Pass(8, 0, head_rows=0), Pass(8, 8, head_rows=0)
    stages = plan(Prefill(8)).stages
    assert [stage.passes for stage in stages] == [chunks, (Pass(4, 16, head_rows=1),)]
    assert price(Prefill(8)).seconds == pytest.approx(
        seconds(*chunks, Pass(4, 16), in_one=False), rel=1e-12
    )
    # Only the last chunk has a head, whose weights are read once whatever the chunks.
    without = PRICING.phase((Pass(8, head_rows=0),), in_one=False)
    assert "head" not in [layer.name for layer in without.layers]
    (head,) = (
        layer for layer in PRICING.phase((Pass(8),), in_one=False).layers if layer.name == "head"
    )
    assert PRICING.phase((Pass(8),), in_one=False).macs - without.macs == head.macs


@given(st.integers(1, 12), st.floats(0, 0.99))
def test_a_chain_gives_as_many_tokens_as_its_formula(gamma: int, chance: float) -> None:
    chain = Speculative(gamma=gamma, acceptance=(chance,), cost=0.1)
    assert chain.tokens_per_pass == pytest.approx((1 - chance ** (gamma + 1)) / (1 - chance))
    tree = Speculative(width=(1,) * gamma, acceptance=(chance,), cost=0.1)
    assert tree.nodes == chain.nodes == gamma + 1
    assert tree.tokens_per_pass == chain.tokens_per_pass
    assert (
        tree.plan(SERVING, CacheRoom(SHAPE, INT8)).stages
        == chain.plan(SERVING, CacheRoom(SHAPE, INT8)).stages
    )


def test_published_gains_of_a_chain() -> None:
    """Of guesses that are right with a chance of 0.8, one to five (arXiv 2211.17192, Eq. 1)."""
    gains = [Speculative(gamma=g, acceptance=(0.8,), cost=0).tokens_per_pass for g in range(1, 6)]
    assert [round(gain, 2) for gain in gains] == [1.80, 2.44, 2.95, 3.36, 3.69]


def test_a_speculative_pass_by_hand() -> None:
    serving = Serving(20, contexts=(50,), cache=INT8)
    gain = 1 + 0.5 + 0.25
    found = price(Speculative(gamma=2, acceptance=(0.5,), draft="half"), serving)
    guess = [HALF.phase((Pass(1, 50 + step),), in_one=True) for step in (0, 1)]
    verify = PRICING.phase((Pass(3, 50, 1, 3),), in_one=True)
    assert found.seconds == pytest.approx((sum(g.seconds for g in guess) + verify.seconds) / gain)
    assert found.bytes == pytest.approx(
        (sum(g.dram_bytes for g in guess) + verify.dram_bytes) / gain
    )
    assert found.tokens == 1 and found.facts["rows"] == 3
    # The head is priced for every row: its multiply-accumulates are three times those of one.
    heads = [
        next(one.macs for one in PRICING.phase((Pass(3, 50, 1, rows),), in_one=True).operations
             if one.name == "head")
        for rows in (1, 3)
    ]  # fmt: skip
    assert heads[1] == 3 * heads[0]
    token = cache_bytes(SHAPE, 1, INT8)
    assert found.facts["rejected_cache_bytes_per_pass"] == pytest.approx((3 - gain) * token)
    by_ratio = price(Speculative(gamma=2, acceptance=(0.5,), cost=0.25), serving)
    one = seconds(Pass(1, 50))
    assert by_ratio.seconds == pytest.approx((2 * 0.25 * one + verify.seconds) / gain)
    assert by_ratio.bytes is None


def test_a_tree_by_hand() -> None:
    tree = Speculative(width=(3, 2), acceptance=(0.8, 0.5), draft="half")
    assert (tree.level_nodes, tree.nodes) == ((1, 3, 6), 10)
    assert tree.tokens_per_pass == pytest.approx(1 + 0.8 + 0.8 * 0.5)
    guess, verify = plan(tree, Serving(20, contexts=(50,), cache=INT8)).stages
    assert guess.passes == (Pass(1, 50), Pass(3, 51, 1, 3))
    assert verify.passes == (Pass(10, 50, 1, 10),)
    assert Speculative(width=(3, 2), accepted=1.5, draft="half").tokens_per_pass == 2.5


def test_one_sample_is_a_prompt_and_its_tokens() -> None:
    plain, found = PRICING.serve(SERVING), price(Sampling(k=1, a=-1.0, b=-0.5))
    assert [stage.seconds for stage in found.stages] == [
        plain.prefill.seconds,
        plain.decode.seconds,
    ]
    assert found.bytes == plain.prefill.dram_bytes + plain.decode.dram_bytes
    assert found.solved is not None
    assert found.solved.coverage == math.exp(-1)
    assert found.solved.seconds == found.seconds / math.exp(-1)


def test_samples_by_hand() -> None:
    """Five answers of 6, 5, 4, 3 and 2 tokens: places in the batch empty one by one."""
    sampling = Sampling(k=5, shortest=2)
    assert sampling.lengths(6) == (6, 5, 4, 3, 2)
    prefill, decode = plan(sampling).stages
    assert prefill.passes == (Pass(20),)
    assert [work.batch for work in decode.passes] == [5, 5, 4, 3, 2, 1]
    assert [work.cached for work in decode.passes] == [20, 21, 22, 23, 24, 25]
    found = price(sampling)
    assert found.tokens == 20
    assert found.facts["occupancy"] == 20 / 30
    assert found.seconds == pytest.approx(
        seconds(Pass(20), in_one=False) + seconds(*decode.passes), rel=1e-12
    )
    prompt, own, apart = (cache_bytes(SHAPE, tokens, INT8) for tokens in (20, 6, 26))
    assert found.facts["shared_cache_bytes"] == prompt + 5 * own
    assert found.facts["separate_cache_bytes"] == 5 * apart


def test_samples_share_what_memory_there_is() -> None:
    prompt, own, apart = (cache_bytes(SHAPE, tokens, INT8) for tokens in (20, 6, 26))
    shared = plan(Sampling(k=5, shortest=2), free=prompt + 2 * own)
    assert shared.facts["at_once"] == 2
    # Three turns, each with long and short answers: 6 and 3, 5 and 2, 4 tokens.
    assert [work.batch for work in shared.stages[1].passes] == [2] * 3 + [1] * 3 + [2] * 2 + [
        1
    ] * 3 + [1] * 4
    separate = plan(Sampling(k=5, shared=False), free=2 * apart + own)
    assert [work.batch for work in separate.stages[0].passes] == [2, 2, 1]
    with pytest.raises(SpecError, match=f"memory: must be at least {apart:,} bytes"):
        plan(Sampling(k=5, shared=False), free=apart - 1)


def test_a_search_by_hand() -> None:
    search = Search(step=4, masked=0.5)
    assert search.visited == (1, 3, 9, 16, 16)
    assert (search.nodes, search.leaves) == (135, 91)
    found = plan(search)
    prefill, steps, read, written = found.stages
    assert prefill.passes == (Pass(20),)
    assert len(steps.passes) == 45 * 4  # three children of a node at once
    assert {work.batch for work in steps.passes} == {3}
    assert steps.passes[0] == Pass(1, 20, 3) and steps.passes[-1] == Pass(1, 20 + 4 * 4 + 3, 3)
    assert [work.batch for work in read.passes] == [3] * 5 + [1]
    assert read.passes[0].rows == 20 + 5 * 4 - 10
    assert len(written.passes) == 6 * 10
    assert found.tokens == 135 * 4
    held = [cache_bytes(SHAPE, tokens, INT8) for tokens in (20, 4, 40)]
    assert found.facts["shared_cache_bytes"] == held[0] + 135 * held[1]
    assert found.facts["separate_cache_bytes"] == 91 * held[2]


def test_a_search_of_one_step_is_one_sample() -> None:
    lone = Search(rollouts=1, depth=1, branching=1, step=6, checker="none")
    assert price(lone).seconds == price(Sampling(k=1)).seconds


def test_tokens_that_leave_early_by_hand() -> None:
    found = price(EarlyExit(after=(1, 3), leave=(0.5, 0.2)))
    one, three = (PRICING.of_blocks(range(n)).serve(SERVING).decode for n in (1, 3))
    everything = PRICING.serve(SERVING).decode
    assert found.seconds == pytest.approx(
        0.5 * one.seconds + 0.2 * three.seconds + 0.3 * everything.seconds
    )
    assert found.facts["layers_per_token"] == pytest.approx(0.5 + 0.6 + 0.3 * 4)
    nobody = price(EarlyExit(after=(1,), leave=(0.0,)))
    assert nobody.seconds == everything.seconds


def test_recursion_by_hand() -> None:
    again, resident = price(Recursion(depths=4)), price(Recursion(depths=4, buffer_kib=1 << 20))
    bits = sum(
        one.total_bits for one in PRICING.workload_of(Pass(1)).linears if one.name.block == 0
    )
    assert again.facts["own_weight_bytes"] == bits // 8
    assert again.facts["own_layers"] == 1
    assert again.facts["resident"] is False and resident.facts["resident"] is True
    assert again.bytes is not None and resident.bytes is not None
    assert again.bytes - resident.bytes == 6 * 3 * bits // 8  # six tokens, three of four depths
    assert resident.seconds < again.seconds
    kept = price(Recursion(depths=2, keep=(1.0, 0.25)))
    half, whole = HALF.serve(SERVING).decode.seconds, PRICING.serve(SERVING).decode.seconds
    assert kept.seconds == pytest.approx(0.75 * half + 0.25 * whole)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Prefill(0), "chunk: must be at least 1, got 0"),
        (lambda: Speculative(), "gamma and width: must be given in one form"),
        (lambda: Speculative(gamma=2, width=(2,)), "got 'both'"),
        (lambda: Speculative(gamma=2000), "gamma: must be in 0..1024, got 2000"),
        (lambda: Speculative(gamma=2, acceptance=(1.5,), cost=0), "acceptance: must be in 0..1"),
        (lambda: Speculative(gamma=2, acceptance=(1, 1, 1), cost=0), "one for each of 2 levels"),
        (lambda: Speculative(gamma=2, accepted=3, cost=0), "accepted: must be in 0..2"),
        (lambda: Speculative(gamma=2, acceptance=(0.5,)), "draft and cost: must be given in one"),
        (lambda: Speculative(gamma=2, cost=0.1), "acceptance and accepted: must be given in one"),
        (lambda: Speculative(gamma=2, acceptance="measured", cost=0), "unless a draft is named"),
        (lambda: Speculative(gamma=2, accepted=1, cost=math.nan), "cost: must be finite"),
        (lambda: Speculative(width=(64, 64, 64), accepted=1, cost=0), "width: must be of at most"),
        (lambda: Sampling(k=0), "k: must be in 1..65536, got 0"),
        (lambda: Sampling(k=2, a=-1), "a and b: must be given together"),
        (lambda: Sampling(k=2, a=1, b=-1), "a: must be below 0, got 1"),
        (lambda: Sampling(k=2, a=-1, b=1), "b: must be at most 0, got 1"),
        (lambda: plan(Sampling(k=2, shortest=7)), "shortest: must be at most 6"),
        (lambda: plan(Sampling(), Serving(batch=2)), "batch: must be 1"),
        (lambda: plan(Search(), Serving(contexts=(4,))), "context: must be left out"),
        (lambda: Search(branching=0), "branching: must be in 1..64, got 0"),
        (lambda: Search(masked=0), "masked: must be above 0"),
        (lambda: EarlyExit(), "after: must be at least one number of layers"),
        (lambda: EarlyExit(after=(2, 2), leave=(0.1, 0.1)), "after: must be numbers of layers"),
        (lambda: EarlyExit(after=(1, 2), leave=(0.6, 0.6)), "leave: must be at most 1 in all"),
        (lambda: plan(EarlyExit(after=(4,), leave=(0.1,))), "after: must be below 4"),
        (lambda: Recursion(depths=0), "depths: must be in 1..4096, got 0"),
        (lambda: plan(Recursion(depths=3)), "depths: must be a divisor of 4"),
        (lambda: Recursion(depths=2, keep=(1, 2)), "keep: must be in 0..1"),
        (lambda: plan(Recursion(keep=(1, 1)), Serving(batch=2)), "batch: must be 1"),
    ],
)  # fmt: skip
def test_parameters_that_cannot_be(make, line: str) -> None:
    with pytest.raises(SpecError) as caught:
        make()
    assert line in str(caught.value)
