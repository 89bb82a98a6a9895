"""Liberty files: what they mean, and that broken or hostile ones are refused in one line."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.synthesis import boolean, liberty, libraries
from evolute.hw.synthesis.libraries import LIBRARIES, CellLibrary
from evolute.support import files
from evolute.support.errors import UnknownNameError
from evolute.support.files import FileError

TOY_TEXT = (Path(__file__).parents[2] / "data" / "toy.lib").read_text(encoding="utf-8")

TOY = liberty.Reader(TOY_TEXT, "toy")


# Functions.

PINS = ("A", "B1", "C[2]")


def functions() -> st.SearchStrategy[tuple[str, str]]:
    """A function as Liberty writes it and as Python does."""
    pins = st.sampled_from([(pin, f"v[{pin!r}]") for pin in PINS] + [("0", "False"), ("1", "True")])

    def grown(inner: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[tuple[str, str]]:
        pairs = st.tuples(inner, inner)
        return st.one_of(
            inner.map(lambda f: (f"!({f[0]})", f"(not {f[1]})")),
            inner.map(lambda f: (f"({f[0]})'", f"(not {f[1]})")),
            pairs.map(lambda p: (f"({p[0][0]}) * ({p[1][0]})", f"({p[0][1]} and {p[1][1]})")),
            pairs.map(lambda p: (f"({p[0][0]} & ({p[1][0]}))", f"({p[0][1]} and {p[1][1]})")),
            pairs.map(lambda p: (f"({p[0][0]}) ({p[1][0]})", f"({p[0][1]} and {p[1][1]})")),
            pairs.map(lambda p: (f"(({p[0][0]}) | {p[1][0]})", f"({p[0][1]} or {p[1][1]})")),
            pairs.map(lambda p: (f"(({p[0][0]}) + ({p[1][0]}))", f"({p[0][1]} or {p[1][1]})")),
            pairs.map(lambda p: (f"(({p[0][0]}) ^ ({p[1][0]}))", f"({p[0][1]} != {p[1][1]})")),
        )

    # An OR stands in parentheses, so that it binds the same on both sides.
    return st.recursive(pins, grown, max_leaves=8)


def python_value(text: str, values: dict[str, bool]) -> bool:
    return bool(eval(text, {"__builtins__": {}}, {"v": values}))  # text of this test's own


@given(functions())
def test_functions_mean_what_python_says(function: tuple[str, str]) -> None:
    parsed = boolean.expression(function[0])
    for bits in itertools.product((False, True), repeat=len(PINS)):
        values = dict(zip(PINS, bits, strict=True))
        got = boolean.evaluate(parsed, lambda pin: np.bool_(values[pin]), np.bool_)  # noqa: B023
        assert bool(got) == python_value(function[1], values)


def test_not_binds_first_then_xor_and_or() -> None:
    assert boolean.expression("!A B ^ C | D") == boolean.expression("(((!A) & (B ^ C)) | D)")


@pytest.mark.parametrize("text", ["", "A &", "(A", "A)", "A @ B", "! ", "(" * 2000])
def test_what_is_no_function_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        boolean.expression(text)


# Tables and cells.


def test_a_cell_as_it_is_stated() -> None:
    cell = TOY.cell("NAND")
    assert (cell.area_um2, cell.inputs, cell.outputs) == (1.5, ("A", "B"), ("Y",))
    assert [cell.pins[pin].rise_capacitance_ff for pin in "AB"] == [2, 3]
    assert cell.leakage_nw == ((None, 5.0),)
    first, second = cell.pins["Y"].arcs
    assert (first.related, first.sense, second.related) == ("A", "negative_unate", "B")
    assert first.tables["cell_fall"](0.5, 20) == pytest.approx(0.4 + 0.25 + 0.2)  # beyond the axis
    flip_flop = TOY.cell("DFF").flip_flop
    assert flip_flop == liberty.FlipFlop("IQ", "IQN", "D", "CK")
    setup = next(arc for arc in TOY.cell("DFF").pins["D"].arcs if arc.kind == "setup_rising")
    assert setup.tables["rise_constraint"](0, 0.5) == pytest.approx(0.15)


def test_units_are_converted() -> None:
    text = TOY_TEXT.replace('time_unit : "1ns"', 'time_unit : "10ps"')
    text = text.replace("capacitive_load_unit (1, ff)", "capacitive_load_unit (2, pf)")
    text = text.replace('leakage_power_unit : "1nW"', 'leakage_power_unit : "1pW"')
    cell = liberty.Reader(text, "toy").cell("INV")
    plain = TOY.cell("INV")
    assert cell.pins["A"].rise_capacitance_ff == 2000 * plain.pins["A"].rise_capacitance_ff
    assert cell.leakage_nw[0][1] == pytest.approx(1e-3 * plain.leakage_nw[0][1])
    table, same = (of.pins["Y"].arcs[0].tables["cell_rise"] for of in (cell, plain))
    assert table(0.0, 0.0) == pytest.approx(same(0.0, 0.0) / 100)
    powers, same_powers = (of.pins["Y"].powers[0] for of in (cell, plain))
    assert powers.rise is not None and same_powers.rise is not None
    assert powers.rise(0, 0) == 2000 * same_powers.rise(0, 0)  # capacitance times voltage squared


def test_axes_may_be_in_either_order() -> None:
    turned = TOY_TEXT.replace(
        'cell_rise (grid) { index_1 ("0, 1"); index_2 ("0, 10");',
        'cell_rise (turned) { index_1 ("0, 10"); index_2 ("0, 1");',
    )
    table = liberty.Reader(turned, "toy").cell("INV").pins["Y"].arcs[0].tables["cell_rise"]
    plain = TOY.cell("INV").pins["Y"].arcs[0].tables["cell_rise"]
    assert table.rows == plain.rows and table.columns == plain.columns
    assert np.array_equal(np.transpose(table.values), plain.values)


@pytest.mark.parametrize("key", LIBRARIES)
def test_an_open_library_is_read_whole(key: str) -> None:
    library = LIBRARIES[key]
    try:
        reader = liberty.Reader(libraries.text_of(library), key)
    except FileError as error:
        pytest.skip(f"no cell library: {error}")
    cells = [reader.cell(library.register), reader.cell(library.driving_cell)]
    assert cells[0].flip_flop is not None and len(cells[0].inputs) == 2
    assert reader.area_um2(library.gate) > 0
    read = 0
    for name in reader.names:
        try:
            cell = reader.cell(name)
        except FileError as error:
            assert "not known here" in str(error)  # latches and flip-flops with set or reset
            continue
        read += 1
        assert all(pin.rise_capacitance_ff >= 0 for pin in cell.pins.values())
    assert read > 100


# What is refused.


def test_a_text_cut_anywhere_is_refused() -> None:
    text = TOY_TEXT
    for end in range(0, len(text) - 3, 97):
        with pytest.raises(FileError) as refused:
            reader = liberty.Reader(text[:end], "cut.lib")
            for name in TOY.names:
                reader.cell(name)
            reader.library(())
            raise FileError("cut.lib: whole")  # an end between statements takes cells away
        assert str(refused.value).startswith("cut.lib: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("library (toy)", "module toy", "is no Liberty file"),
        ("table_lookup", "polynomial", "delay_model: must be table_lookup"),
        ('time_unit : "1ns"', 'time_unit : "1h"', "time_unit: must be a number of s"),
        ("(1, ff)", "(1, nf)", "must be in ff or pf"),
        ("area : 1.5", "area : nan", "must be finite numbers"),
        ("area : 1.5", "area : wide", "must be numbers"),
        (
            '"0, 1"); index_2 ("0, 10"); values',
            '"1, 0"); index_2 ("0, 10"); values',
            "must increase",
        ),
        ('"0.2, 0.3", ', '"0.2", ', "needs 2 x 2 values, got 3"),
        ('function : "!(A & B)"', 'function : "!(A & "', "is no boolean function"),
        ("cell (NOR)", "cell (NAND)", "has two cells NAND"),
        ("cell_rise (grid)", "cell_rise (gird)", "has no template 'gird'"),
        (
            "total_output_net_capacitance",
            "output_height",
            "an axis output_height is not known here",
        ),
        ("area : 1.5;", "a(){" * 30, "groups in one another"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, said: str) -> None:
    assert old in TOY_TEXT
    with pytest.raises(FileError, match=said.replace("(", r"\(")) as refused:
        reader = liberty.Reader(TOY_TEXT.replace(old, new), "bad.lib")
        reader.cell("NAND")
    assert str(refused.value).startswith("bad.lib: ")


def test_cells_that_are_absent_or_unknown_are_named() -> None:
    with pytest.raises(FileError, match="toy: has no cell XNOR"):
        TOY.cell("XNOR")
    with pytest.raises(FileError, match="cell LATCH: a latch is not known here"):
        TOY.cell("LATCH")


# Libraries.


def test_a_file_of_the_user_is_understood(tmp_path: Path) -> None:
    plain, packed = tmp_path / "toy.lib", tmp_path / "toy.lib.gz"
    plain.write_text(TOY_TEXT)
    packed.write_bytes(gzip.compress(TOY_TEXT.encode()))
    library = libraries.from_file(plain)
    assert (library.gate, library.register, library.driving_cell) == ("NAND", "DFF", "BUF")
    assert library.output_load_ff == 12  # of four gates
    assert library.left_out == ("SCAN", "LATCH")
    text = libraries.text_of(library)
    assert "cell (SCAN)" not in text and "cell (DFF)" in text
    assert libraries.text_of(libraries.from_file(packed)) == text
    assert library.wheel_sha256 != libraries.from_file(packed).wheel_sha256


@pytest.mark.parametrize("role", ["BUF", "NAND", "DFF"])
def test_a_file_without_a_needed_cell_is_refused(role: str, tmp_path: Path) -> None:
    path = tmp_path / "toy.lib"
    path.write_text(TOY_TEXT.replace(f"cell ({role})", f"cells ({role})"))
    with pytest.raises(FileError, match=r"has no (NAND|flip-flop|buffer) that mapping could use"):
        libraries.from_file(path)


def test_a_cell_within_a_line_is_refused_and_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "toy.lib"
    path.write_text(TOY_TEXT.replace("\n  cell (XOR)", " cell (XOR)"))
    with pytest.raises(FileError, match="cell XOR: must begin a line of its own"):
        libraries.from_file(path)


def test_files_that_are_no_libraries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.lib.gz"
    path.write_bytes(gzip.compress(TOY_TEXT.encode())[:200])
    with pytest.raises(FileError, match="cannot read"):
        libraries.from_file(path)
    with pytest.raises(FileError, match="cannot read"):
        libraries.from_file(tmp_path / "absent.lib")
    with pytest.raises(UnknownNameError, match="library"):
        libraries.named("tsmc")


def test_a_damaged_library_in_the_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "cache_directory", lambda: tmp_path)
    library: CellLibrary = libraries.NANGATE45
    packed = tmp_path / "liberty" / Path(library.members[0]).name
    packed.parent.mkdir()
    packed.write_bytes(b"\x1f\x8b\x08 cut short")
    libraries.text_of.cache_clear()
    with pytest.raises(FileError, match="delete it and try again"):
        libraries.text_of(library)
    libraries.text_of.cache_clear()
