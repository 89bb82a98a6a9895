"""Figures of synthesis in the documentation are those of the committed records."""

from __future__ import annotations

import pytest

from evolute.hw.spec.presets import CORES
from evolute.hw.synthesis import synth
from evolute.reports.figures import DOCS, RECORDS, filled, texts
from evolute.reports.records import Record, load
from evolute.support.files import FileError

FOUND = load([RECORDS])


def test_the_pages_state_what_the_records_hold():
    pieces, pages = texts(FOUND), [path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")]
    for page in pages:
        assert filled(page, pieces) == page, "run `python -m evolute.reports.figures`"
    for name, text in pieces.items():
        assert any(f"<!-- figures: {name} -->\n{text}\n" in page for page in pages), name


def test_a_figure_that_is_no_longer_true_is_found():
    pieces = texts(FOUND)
    page = f"<!-- figures: core-fpga -->\n{pieces['core-fpga']}\n<!-- end of figures -->\n"
    assert filled(page, pieces) == page
    lut = f"{FOUND[0].data['lut']:,} mapped"
    assert lut in page and filled(page.replace(lut, "9,091 mapped"), pieces) == page
    with pytest.raises(FileError, match="no figures are called 'core-fgpa', only core-fpga"):
        filled(page.replace("core-fpga", "core-fgpa"), pieces)


def test_the_records_are_of_the_presets_as_they_are():
    for record in FOUND:
        assert record["digest"] == CORES[record.text("accelerator")].digest


@pytest.mark.slow
@pytest.mark.parametrize("record", FOUND, ids=lambda each: each.optional("device") or "asic")
def test_the_records_are_what_synthesis_gives(record: Record):
    core = CORES[record.text("accelerator")]
    device = record.text("device") if record.optional("fmax_mhz") else None
    try:
        found = synth.synthesize(core, record.text("target"), 1, device)
    except FileError as error:
        pytest.skip(f"no cell library: {error}")
    names = ("area_ge", "delay_ns", "flops", "memory_bits", "lut", "ff", "bram", "dsp", "fmax_mhz")
    for name in names:
        if name in record.data:
            assert getattr(found, name) == record[name], "run `make figures`"
