"""LUT-DLA as published beside engines: its commands for a layer, cycles, bytes, what is shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from evolute.dse.commands.compare import compare
from evolute.dse.compare.contenders import Task
from evolute.dse.compare.layer import ComparedLayer, layer_of
from evolute.dse.compare.stationary import VARIANTS, arrangements, products, timed
from evolute.hw.spec import LutDla
from evolute.hw.spec.formats import Activations
from evolute.sim.golden import lut_dla as engine_golden
from evolute.sim.golden import lut_stationary as golden
from evolute.sim.what_if.rows import table_bytes
from evolute.sim.workload.linear import Linear
from evolute.sw.checkpoints.zoo import default_text, load
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.weights import parse_weights

TINY = "evolute-tiny"


@pytest.fixture(scope="module")
def layer() -> ComparedLayer:
    """320 inputs in groups of 128: the last one is shorter."""
    return layer_of(load(TINY), "1.down", parse_weights("w2g128"), default_text(TINY))


def task_of(layer: ComparedLayer) -> Task:
    return Task(layer.linear.format, layer.linear.group, Activations(8), 1, 16, 16)


def test_commands_come_to_what_the_streaming_engine_does(layer: ComparedLayer) -> None:
    task = task_of(layer)
    found = arrangements(task, layer, 6)
    assert len(found) == len(VARIANTS)
    for each in found:
        assert each.spec is not None and each.tensor is not None and each.refused is None
        spec, tensor = each.spec, each.tensor
        assert spec.n * spec.v == task.macs_per_step
        x = quantize_activations(layer.inputs[:6], task.activations).x
        engine = LutDla(v=spec.v, centroids=spec.centroids, group_size=128)
        weights = engine_golden.encode(engine, tensor.form)
        expected = engine_golden.group_sums(engine, x, weights).psum
        groups = products(spec, tensor, x)
        assert len(groups) == expected.shape[1] == 3
        for g, group in enumerate(groups):
            sums = np.concatenate([golden.sums(spec, operands) for operands in group])
            assert np.array_equal(sums[:, : layer.linear.n], expected[:, g])


@pytest.mark.parametrize("tokens", [1, 6])
def test_bytes_are_those_of_whole_or_of_chosen_rows(layer: ComparedLayer, tokens: int) -> None:
    task, found = task_of(layer), {}
    for each in arrangements(task, layer, tokens):
        assert each.spec is not None and each.tensor is not None
        spec, tensor = each.spec, each.tensor
        x = quantize_activations(layer.inputs[:tokens], task.activations).x
        found[each.name.rpartition(", ")[2]] = moved = timed(spec, tensor, x)
        index = np.concatenate(
            [golden.indices(spec, group[0]) for group in products(spec, tensor, x)], axis=1
        )
        linear = Linear("", *tensor.shape, tensor.format, tensor.group, group_bits=0)
        counted = table_bytes(LutDla(m=spec.m, v=spec.v), linear, index)
        way = {(False, False): "streamed", (True, False): "gathered", (True, True): "unique"}
        assert moved["table_bytes"] == getattr(counted, way[spec.gathers, spec.dedup])
        tiles = -(-layer.linear.n // spec.n)
        encoded = 1 if spec.keeps_indices else tiles
        assert tiles > 1 and moved["centroid_bytes"] == counted.centroids * encoded
        assert ("request_bytes" in moved) == spec.gathers
        assert moved["cycles_fast_encoder"] <= moved["cycles"]
    assert found["gather"]["cycles"] < found["two banks"]["cycles"]


@pytest.mark.slow
def test_command_shows_units_apart_from_engines(tmp_path: Path) -> None:
    arguments = [TINY, "--layer", "1.down", "--rows", "4", "--shape", "1,2,4", "--units"]
    arguments += ["--engines", "lut_dla", "--out", str(tmp_path)]
    done = CliRunner().invoke(compare, [*arguments, "--json"], catch_exceptions=False)
    rows = json.loads(done.stdout)
    units = [each for each in rows if each["name"].startswith("lut_stationary")]
    assert len(units) == len(VARIANTS)
    assert all(each["logic_ge"] > 0 and each["cycles"] > 0 for each in units)
    assert not any("area_cycles_of_best" in each for each in units)
    wide = CliRunner(env={"COLUMNS": "160"})
    shown = wide.invoke(compare, arguments, catch_exceptions=False).stdout
    assert "not ranked" in shown and all(each["name"] in shown for each in units)
