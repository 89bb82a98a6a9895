"""`evolute compile`, used as a driver would use it: by the manifest and the files alone."""

import json

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

from evolute import front
from evolute.hw.isa import instructions as isa
from evolute.hw.spec.presets import CORES
from evolute.sim.golden.core import execute
from evolute.sim.workload.linear import LayerName
from evolute.support.errors import RefusedError
from evolute.sw.checkpoints import zoo
from evolute.sw.deploy.assignment import assign
from evolute.sw.deploy.on_core import core_model, integer_stage
from evolute.sw.tensors.activations import QuantActivations
from evolute.sw.tensors.weights import parse_weights

BASE = 0x10000


def compiled(folder, *options, accel="core-fpga"):
    arguments = ["compile", "evolute-tiny", "--accel", accel, "-o", str(folder), *options]
    return CliRunner().invoke(front.cli, arguments)


def test_a_driver_can_run_what_was_written(tmp_path):
    result = compiled(tmp_path, "--base", hex(BASE), "--prompt-tokens", "3", "--json")
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert json.loads(result.stdout) == manifest
    image = np.fromfile(tmp_path / "image.bin", np.uint8)
    assert len(image) == manifest["bytes"]
    memory = np.concatenate([np.zeros(manifest["base"], np.uint8), image])
    core = CORES["core-fpga"]
    assert (manifest["digest"], manifest["base"]) == (core.digest, BASE)
    held = core_model(assign(zoo.load("evolute-tiny"), parse_weights("w4g32"), core))
    integers, stages = integer_stage(held), {stage.name: stage for stage in held.stages}
    decode = manifest["programs"][0]
    assert (decode["name"], decode["rows"]) == ("decode", 1)
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-127, 128, each["input"]["k"]) for each in decode["stages"]]
    # One row, and groups that are whole slices: the input lies as plain bytes.
    waiting = iter(zip(decode["stages"], inputs, strict=True))

    def write_input():
        stage, x = next(waiting)
        at = stage["input"]["address"]
        memory[at : at + len(x)] = x.astype(np.int8).view(np.uint8)

    write_input()
    execute(core, memory, decode["address"], decode["instructions"], host=write_input)
    for stage, x in zip(decode["stages"], inputs, strict=True):
        row = x[None].astype(np.int32)
        given = QuantActivations(row, np.ones(1, np.float32), row)
        wanted, at = integers(stages[stage["name"]], given), 0
        for layer in stage["results"]["layers"]:
            first = stage["results"]["address"] + at
            found = memory[first : first + 8 * layer["n"]].view(np.int64)
            np.testing.assert_array_equal(found, wanted[LayerName.parse(layer["name"])][0])
            at += 8 * layer["column_tiles"] * core.engine.n
    units = safetensors.numpy.load_file(tmp_path / "units.safetensors")
    assert set(units) == set(map(str, held.tensors))
    for name, tensor in held.tensors.items():
        np.testing.assert_array_equal(units[str(name)], tensor.unit)


def test_listings_assemble_to_the_programs_in_the_image(tmp_path):
    assert compiled(tmp_path).exit_code == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    image = (tmp_path / "image.bin").read_bytes()
    assert len(manifest["programs"]) == 1 + 4
    for i, program in enumerate(manifest["programs"]):
        text = (tmp_path / f"{i:02d}-{program['name']}.asm").read_text()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        code = isa.to_bytes([isa.assemble(line) for line in lines])
        assert len(lines) == program["instructions"]
        assert image[program["address"] :][: len(code)] == code


def test_equal_requests_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        assert compiled(tmp_path / name).exit_code == 0
    one, two = ((tmp_path / name / "image.bin").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("options", "accel", "message"),
    [
        ((), "lut-fpga", "needs a core"),
        (("--base", "12"), "core-fpga", "a multiple of 4096"),
        (("--base", "here"), "core-fpga", "a multiple of 4096"),
        (("--base", "0xfffff000"), "core-fpga", "address_bits"),
        (("--weights", "float"), "core-fpga", "float leaves no layer"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(tmp_path, options, accel, message):
    result = compiled(tmp_path / "new", *options, accel=accel)
    assert isinstance(result.exception, RefusedError)
    assert message in str(result.exception)
    assert not (tmp_path / "new").exists()
