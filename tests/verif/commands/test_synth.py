"""`evolute synth` in standard cells: libraries, power, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evolute.hw.synthesis import libraries
from evolute.support import json_schema
from evolute.support.files import RECORDS, FileError, read_records

TOY = Path(__file__).parents[2] / "data" / "toy.lib"
SMALL = ("lut-fpga", *(f"--set={field}" for field in ("n=2", "k=2", "kg=1", "group_size=4")))


@pytest.fixture(scope="module", autouse=True)
def cells() -> None:
    try:
        libraries.text_of(libraries.NANGATE45)
    except FileError as error:
        pytest.skip(f"no cell library: {error}")


def test_power_is_printed_and_recorded(command: Callable, tmp_path: Path) -> None:
    arguments = ("synth", *SMALL, "--target", "asic", "--power", "--out", str(tmp_path))
    arguments += ("--model", "evolute-tiny", "--layer", "0.gate")
    code, out, err = command(*arguments)
    assert code == 0, err
    (record,) = read_records(tmp_path / RECORDS)
    json_schema.require(record)
    real, random = record["energy"]
    assert real["data"] == "evolute-tiny 0.gate" and random["data"] == "random codes"
    assert f"{real['fj_per_mac']:.1f} fJ per MAC" in out
    for measured in (real, random):
        whole = measured["per_mac"]
        parts = ("logic_fj", "registers_fj", "switching_fj", "clock_pins_fj")
        assert sum(whole[part] for part in parts) == pytest.approx(whole["dynamic_fj"], rel=1e-3)
        assert measured["fj_per_mac"] > whole["dynamic_fj"] > 0
        assert measured["compared"] > 0
    # The path begins and ends at places of this package's source.
    path = record["critical_path"]
    assert record["delay_ns"] == pytest.approx(path[-1]["at_ns"], abs=1e-3)
    assert [step["at_ns"] for step in path] == sorted(step["at_ns"] for step in path)
    assert any(step["source"] and step["source"].startswith("hw/rtl/") for step in path)


def test_a_library_of_the_user(command: Callable, tmp_path: Path) -> None:
    arguments = ("synth", *SMALL, "--target", "asic", "--liberty", str(TOY), "--json")
    code, out, err = command(*arguments, "--power", "--out", str(tmp_path))
    assert code == 0, err
    record = json.loads(out)
    assert record["library"] == "toy (2 V, 25 C)"
    assert set(record["cells"]) <= {"INV", "BUF", "NAND", "NOR", "XOR", "DFF"}
    assert record["area_ge"] == pytest.approx(record["area_um2"] / 1.5, abs=0.1)
    assert record["energy"][0]["compared"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "ecp5", "--power"), "--power: is of standard cells"),
        (("--target", "ecp5", "--library", "asap7"), "--library: cells are for --target asic"),
        (("--target", "asic", "--layer", "0.q"), "--layer: needs --power"),
        (("--target", "asic", "--power", "--layer", "0.q"), "--layer: needs --model"),
        (("--target", "asic", "--library", "tsmc7"), "--library"),
        (
            ("--target", "asic", "--library", "asap7", "--liberty", str(TOY)),
            "--library and --liberty: give one of them",
        ),
        (("--target", "asic", "--liberty", "absent.lib"), "cannot read absent.lib"),
        (
            ("--target", "asic", "--power", "--clock-mhz", "90000"),
            "--clock-mhz: the longest path allows",
        ),
        (
            ("--target", "asic", "--power", "--model", "evolute-tiny", "--layer", "9.gate"),
            "--layer: evolute-tiny has no layer 9.gate",
        ),
        (
            ("--target", "asic", "--power", "--model", "evolute-tiny", "--layer", "a/b/c"),
            "--layer: must be a name such as 0.gate",
        ),
    ],
)
def test_what_is_refused(
    options: tuple[str, ...], said: str, command: Callable, tmp_path: Path
) -> None:
    code, _, err = command("synth", *SMALL, *options, "--out", str(tmp_path))
    assert code == 2
    (line,) = [line for line in err.splitlines() if not line.endswith(" so far")]
    assert said in line
    assert not (tmp_path / RECORDS).exists()


def test_power_of_a_core_is_refused(command: Callable, tmp_path: Path) -> None:
    code, _, err = command("synth", "core-fpga", "--target", "asic", "--power")
    assert code == 2 and "--power: is measured for engines" in err


def test_a_liberty_file_cut_short(command: Callable, tmp_path: Path) -> None:
    cut = tmp_path / "cut.lib"
    cut.write_text(TOY.read_text()[:3000])
    code, _, err = command("synth", *SMALL, "--target", "asic", "--liberty", str(cut))
    assert code == 2 and err.count("\n") == 1 and "cut.lib: " in err
