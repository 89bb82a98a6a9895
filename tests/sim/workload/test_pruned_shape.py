"""Shapes with fewer heads, widths and layers against what a model of that size is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evolute.hw.spec.base import SpecError
from evolute.sim.workload.pruned_shape import ShapePruning, SizeCut, pruned_shape
from evolute.sim.workload.shape import Attention, ModelShape
from evolute.sim.workload.zoo import ENTRIES, zoo_entry


def shape(name: str) -> ModelShape:
    found = zoo_entry(name).shape
    assert isinstance(found, ModelShape)
    return found


@pytest.mark.parametrize(
    ("whole", "pruned", "cuts"),
    [
        ("minitron-8b", "minitron-4b", {"hidden": 3072, "heads": 24, "ffn": 9216}),
        ("llama-3.1-8b", "llama-3.1-minitron-4b-width", {"hidden": 3072, "ffn": 9216}),
    ],
)
def test_published_models_are_their_parents_pruned(
    whole: str, pruned: str, cuts: dict[str, int]
) -> None:
    asked = ShapePruning(**{name: SizeCut(kept=kept) for name, kept in cuts.items()})
    found, wanted = pruned_shape(shape(whole), asked, (32, 32)), shape(pruned)
    same = {"name": wanted.name, "family": wanted.family}
    assert replace(found.shape, **same) == wanted
    assert found.params == wanted.params
    assert found.dense_params == shape(whole).params
    assert {name: left for name, (_, left) in found.sizes.items()} == cuts


def test_heads_of_keys_go_where_every_head_has_its_own() -> None:
    asked = ShapePruning(heads=SizeCut(0.5))
    for name, keys in (("llama-2-7b", 16), ("llama-3.2-1b", 8)):
        found = pruned_shape(shape(name), asked, (32, 32)).shape
        mixers = [block.mixer for block in found.blocks]
        assert all(isinstance(mixer, Attention) for mixer in mixers)
        assert {(mixer.heads, mixer.key_heads) for mixer in mixers} == {(16, keys)}


def test_kinds_of_blocks_stay_mixed() -> None:
    """Half of Gemma's layers: as large a share of them has a window as before, to a layer."""
    whole = shape("gemma-3-1b")
    found = pruned_shape(whole, ShapePruning(layers=SizeCut(0.5)), (32, 32))
    assert found.sizes == {"layers": (26, 13)} and found.shape.blocks[0] == whole.blocks[0]

    def windows(one: ModelShape) -> int:
        mixers = [block.mixer for block in one.blocks]
        return sum(isinstance(mixer, Attention) and mixer.window is not None for mixer in mixers)

    assert abs(windows(found.shape) - windows(whole) / 2) <= 2


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_every_model_that_decodes_can_lose_a_layer(name: str) -> None:
    whole = zoo_entry(name).shape
    if not isinstance(whole, ModelShape):
        return
    found = pruned_shape(whole, ShapePruning(layers=SizeCut(kept=whole.layers - 1)), (32, 32))
    assert found.shape.layers == whole.layers - 1 and found.params < whole.params


def test_padding_that_was_there_may_stay() -> None:
    """8,192 is no multiple of 14 outputs of a column tile, so that 4,096 need not be one."""
    found = pruned_shape(shape("llama-3.2-1b"), ShapePruning(ffn=SizeCut(0.5)), (32, 14))
    assert found.sizes == {"ffn": (8192, 4096)}
    with pytest.raises(SpecError, match="a multiple of 64 after pruning, such as 4096 or 4160"):
        pruned_shape(shape("llama-3.2-1b"), ShapePruning(ffn=SizeCut(kept=4128)), (32, 64))


def test_a_share_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match="kept: must be at least 1, got 0"):
        SizeCut(kept=0)
    one = replace(shape("llama-3.2-1b"), blocks=shape("llama-3.2-1b").blocks[:1])
    assert pruned_shape(one, ShapePruning(layers=SizeCut(0.9)), ()).shape.layers == 1
