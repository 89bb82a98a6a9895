"""A model without weights has the linear layers that its checkpoint would have."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolute.hw.spec.presets import PRESETS
from evolute.sim.workload.operations import Pass
from evolute.sim.workload.zoo import zoo_entry
from evolute.support.errors import RefusedError
from evolute.sw.checkpoints import zoo
from evolute.sw.deploy.assignment import Accelerator, assign
from evolute.sw.deploy.unweighted import head_format, parse_format, shape_workload
from evolute.sw.language_model.shape import model_shape
from evolute.sw.quantizers.quantize import quantize
from evolute.sw.tensors.weights import NATIVE, parse_weights


def spec_of(name: str) -> Accelerator:
    return PRESETS[name].spec  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("accel", "weights"),
    [
        *((accel, weights) for accel in ("core-decode", "lut-decode") for weights in
          ("w4g32", "w3g100s", "w8", "w2g128f", "tg64")),
        ("core-bitmod", "b4g128"),
        ("bs-bitmod", "b3g64"),
    ],
)  # fmt: skip
def test_rounded_layers_are_those_of_a_checkpoint(accel: str, weights: str) -> None:
    model, spec = zoo.load("evolute-tiny"), spec_of(accel)
    wanted = assign(model, parse_weights(weights), spec).workload
    found = shape_workload(
        model_shape(model), parse_format("weights", weights), None, spec, Pass(1)
    )
    assert found.linears == wanted.linears
    assert found.left == wanted.left
    assert found.blocks == wanted.blocks


@pytest.mark.parametrize(
    ("name", "accel"),
    [
        ("vptq-v8k64r64", "vq-residual"),
        ("vptq-v8k64r64", "core-vq"),
        ("vptq-v8k32", "vq-outputs"),
        ("vptq-v2k16i", "core-vq-inputs"),
        ("dla-v2c16", "core-dla"),
        ("dla-v2c16b4g48", "dla-l1"),
        ("dla-v4c16l2g150", "dla-tree"),
    ],
)
def test_vectors_and_tables_are_those_of_a_checkpoint(
    tmp_path: Path, name: str, accel: str
) -> None:
    model, spec = zoo.load("evolute-tiny"), spec_of(accel)
    quantize(model, name, tmp_path / "made", tokens=128, workers=1, force=True)
    wanted = assign(zoo.load(str(tmp_path / "made")), NATIVE, spec).workload
    found = shape_workload(model_shape(model), parse_format("weights", name), None, spec, Pass(1))
    assert found.linears == wanted.linears
    assert found.left == wanted.left


@pytest.mark.parametrize(
    ("name", "accel", "line"),
    [
        ("dla-v4c16", "core-dla", "v: must be 4 for these tables, got 2"),
        ("dla-v2c16l2", "dla-l1", "metric: must be l2 for these tables, got 'l1'"),
        ("dla-v2c16", "core-decode", "weights: must be one of w1"),
    ],
)
def test_tables_that_an_engine_is_not_built_for(name: str, accel: str, line: str) -> None:
    shape = model_shape(zoo.load("evolute-tiny"))
    with pytest.raises(RefusedError, match=line):
        shape_workload(shape, parse_format("weights", name), None, spec_of(accel), Pass(1))


def test_the_shape_of_a_checkpoint_is_the_entry_of_the_zoo() -> None:
    model, entry = zoo.load("evolute-tiny"), zoo_entry("evolute-tiny").shape
    assert model_shape(model).blocks == entry.blocks
    assert model_shape(model).params == model.params == entry.params


def test_a_head_is_in_the_widest_integers_that_the_engine_runs() -> None:
    def name(accel: str) -> str | None:
        found = head_format(None, spec_of(accel))
        return found and found.name

    assert (name("core-decode"), name("core-bitmod"), name("core-vq")) == ("w8g32", "w4g45", None)
    assert head_format("host", spec_of("core-decode")) is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("native", "weights: a model without weights takes w<1-8>"),
        ("float", "weights: a model without weights takes w<1-8>"),
        ("w9", "weights: must be native, float"),
        ("vptq-v8", "method: must be"),
        ("dla-v2", "method: must be dla-v<inputs>c<centroids>"),
        ("vptq-v8k256o2", "weights: must be without outlier columns"),
    ],
)
def test_a_format_that_is_none(text: str, line: str) -> None:
    with pytest.raises(RefusedError, match=line):
        parse_format("weights", text)
