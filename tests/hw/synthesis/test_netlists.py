"""Mapped netlists: timing and power against values by hand, simulation against Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.hw.synthesis import gates, liberty, netlist, power, timing
from evolute.hw.synthesis.gates import GateSimulation
from evolute.hw.synthesis.libraries import CellLibrary
from evolute.hw.synthesis.netlist import Netlist
from evolute.support.files import FileError

TOY_TEXT = (Path(__file__).parents[2] / "data" / "toy.lib").read_text(encoding="utf-8")

NAMES = ("INV", "BUF", "NAND", "NOR", "XOR", "DFF")
LIBRARY = liberty.read(TOY_TEXT, NAMES, "toy")
CELLS = CellLibrary("toy", "toy", "", "", "", (), (), "BUF", 4.0, "NAND", "DFF", 1000)


def design(
    inputs: dict[str, list[int]], outputs: dict[str, list[int]], cells: dict[str, tuple[str, dict]]
) -> Netlist:
    """A netlist from numbers of nets, through the JSON that Yosys writes."""
    ports = {
        name: {"direction": side, "bits": bits}
        for side, of_side in (("input", inputs), ("output", outputs))
        for name, bits in of_side.items()
    }
    named = {
        name: {"bits": bits, "attributes": {"src": "top.v:7.3-7.9"}}
        for name, bits in {**inputs, **outputs}.items()
    }
    module: dict[str, Any] = {
        "ports": ports,
        "cells": {
            name: {"type": kind, "connections": {pin: [bit] for pin, bit in pins.items()}}
            for name, (kind, pins) in cells.items()
        },
        "netnames": named,
    }
    return netlist.from_json(json.dumps({"modules": {"top": module}}), "top")


TOGGLER = design(
    {"clk": [2], "a": [3]},
    {"y": [6]},
    {
        "gate": ("NAND", {"A": 3, "B": 5, "Y": 4}),
        "state": ("DFF", {"CK": 2, "D": 4, "Q": 5}),
        "out": ("INV", {"A": 5, "Y": 6}),
    },
)
"""A flip-flop that takes !(a & itself), and an inverter behind it."""


# Timing.


def test_delay_by_hand() -> None:
    timed = timing.analyze(TOGGLER, LIBRARY, CELLS)
    q, inner, y = (
        int(TOGGLER.by_cell[kind].on(pin)[0])
        for kind, pin in (("DFF", "Q"), ("NAND", "Y"), ("INV", "Y"))
    )
    # Loads: q drives B (3) and A (2), the inner net D (1), y the output's 4.
    assert timed.load_ff[[q, inner, y], 0].tolist() == [5, 1, 4]
    rise_q, fall_q = 0.4 + 0.05, 0.3 + 0.05
    slew_q = 0.1 + 0.1
    assert timed.arrival_ns[q].tolist() == pytest.approx([rise_q, fall_q])
    assert timed.slew_ns[q].tolist() == pytest.approx([slew_q, slew_q])
    rise_inner = fall_q + 0.2 + slew_q / 2 + 0.01
    fall_inner = rise_q + 0.4 + slew_q / 2 + 0.01
    assert timed.arrival_ns[inner].tolist() == pytest.approx([rise_inner, fall_inner])
    # Setup at a clock edge of no duration: 0.07 + 0.1 of a falling edge's 0.2 + 0.02.
    ends = rise_inner + 0.05 + 0.2 * 0.12, fall_inner + 0.07 + 0.1 * 0.22
    assert timed.delay_ns == pytest.approx(max(ends))
    assert timed.end_cell == "DFF" and timed.end_register == q
    assert [step.cell for step in timed.path] == ["NAND"] and timed.start // 2 in (0, q // 2, q)


def test_the_later_of_conditional_arcs_counts() -> None:
    text = TOY_TEXT.replace(
        'pin (Y) { direction : output; function : "!A";',
        'pin (Y) { direction : output; function : "!A"; timing () { related_pin : "A"; '
        "timing_sense : negative_unate; "
        + "".join(
            f'{kind} (scalar) {{ values ("9"); }} '
            for kind in ("cell_rise", "cell_fall", "rise_transition", "fall_transition")
        )
        + "}",
    )
    timed = timing.analyze(TOGGLER, liberty.read(text, NAMES, "toy"), CELLS)
    assert timed.delay_ns == pytest.approx(0.45 + 9)
    assert timed.end_register is None and TOGGLER.net_name(timed.path[-1].net) == "y"


@given(st.data())
def test_stacked_tables_are_the_tables(data: st.DataObject) -> None:
    number = st.floats(-50, 50)
    axis = st.lists(st.integers(-20, 20), min_size=1, max_size=5, unique=True).map(sorted)
    tables = []
    for _ in range(data.draw(st.integers(1, 4))):
        rows, columns = data.draw(axis), data.draw(axis)
        values = data.draw(
            st.lists(
                st.lists(number, min_size=len(columns), max_size=len(columns)),
                min_size=len(rows),
                max_size=len(rows),
            )
        )
        tables.append(
            liberty.LibertyTable(
                tuple(map(float, rows)), tuple(map(float, columns)), tuple(map(tuple, values))
            )
        )
    stack = timing.stacked(tables)
    at = np.array(data.draw(st.lists(st.integers(0, len(tables) - 1), min_size=1, max_size=8)))
    rows = np.array([data.draw(number) for _ in at])
    columns = np.array([data.draw(number) for _ in at])
    for got, table, row, column in zip(stack(at, rows, columns), at, rows, columns, strict=True):
        assert got == tables[table](row, column)


def test_a_loop_without_a_flip_flop_is_refused() -> None:
    loop = design(
        {"a": [2]},
        {"y": [3]},
        {"x": ("NAND", {"A": 2, "B": 4, "Y": 3}), "z": ("INV", {"A": 3, "Y": 4})},
    )
    with pytest.raises(FileError, match=r"a loop without a flip-flop leads through [xz]"):
        timing.analyze(loop, LIBRARY, CELLS)


# Simulation.


@st.composite
def logic(draw: st.DrawFn) -> Netlist:
    """Random gates in any order, registers among them."""
    inputs = list(range(3, 3 + draw(st.integers(1, 4))))
    cells: dict[str, tuple[str, dict]] = {}
    nets: list[Any] = [*inputs, "0", "1"]
    registers = draw(st.integers(0, 3))
    first = 3 + len(inputs)
    states = list(range(first, first + registers))
    nets += states
    following = first + registers
    for i in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(["INV", "BUF", "NAND", "NOR", "XOR"]))
        pins = "A" if kind in ("INV", "BUF") else "AB"
        connected = {pin: draw(st.sampled_from(nets)) for pin in pins}
        cells[f"g{draw(st.integers(0, 999))}_{i}"] = (kind, {**connected, "Y": following})
        nets.append(following)
        following += 1
    for i, state in enumerate(states):
        data = draw(st.sampled_from(nets))
        cells[f"r{i}"] = ("DFF", {"CK": 2, "D": data, "Q": state})
    outputs = [net for net in nets[-6:] if isinstance(net, int)]
    return design({"clk": [2], "a": inputs}, {"y": outputs}, cells)


@settings(deadline=None)
@given(logic(), st.integers(0, 2**32 - 1))
def test_compiled_and_interpreted_logic_agree(made: Netlist, seed: int) -> None:
    order = gates.gates_in_order(made, LIBRARY)
    fast = gates.compiled(order, made.nets)
    if fast is None:
        pytest.skip("no compiler")
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1 << 64, (made.nets, 2), np.uint64)
    values[0], values[1] = 0, ~np.uint64(0)
    slow = values.copy()
    fast(values)
    gates.interpreted(order)(slow)
    assert np.array_equal(values, slow)


def run(steps: int, runs: int, seed: int) -> tuple[list[list[int]], gates.Activity]:
    """`TOGGLER` under random inputs: the states that Python expects, checked on the way."""
    rng = np.random.default_rng(seed)
    simulation = GateSimulation(TOGGLER, LIBRARY, runs, rng)
    expected: list[list[int]] = []
    state = None
    for _ in range(steps):
        a = rng.random(runs) < 0.5
        simulation.drive(TOGGLER.inputs["a"], a[:, None])
        simulation.settle()
        y = simulation.look(TOGGLER.outputs["y"])[:, 0]
        if state is not None:
            assert np.array_equal(y, ~state)
        state = ~(a & ~y)
        expected.append([a, ~y])
        simulation.count(np.ones(runs, bool))
        simulation.tick()
    return expected, simulation.activity


def test_activity_is_what_was_seen() -> None:
    seen, activity = run(40, 70, 3)
    a = np.array([step[0] for step in seen])
    q = np.array([step[1] for step in seen])
    d = ~(a & q)
    net = {
        name: int(TOGGLER.by_cell[kind].on(pin)[0])
        for name, kind, pin in (("q", "DFF", "Q"), ("d", "DFF", "D"))
    }
    assert activity.cycles == 39 * 70
    for name, values in (("q", q), ("d", d)):
        assert activity.toggles[net[name]] == (values[1:] != values[:-1]).sum()
        assert activity.ones[net[name]] == values[1:].sum()
    joint = [((d[1:] == i) & (q[1:] == j)).sum() for i in (False, True) for j in (False, True)]
    assert activity.states["DFF"][0].tolist() == joint


# Power.


def test_power_by_hand() -> None:
    _, activity = run(50, 64, 5)
    timed = timing.analyze(TOGGLER, LIBRARY, CELLS)
    got = power.total(power.cell_power(TOGGLER, LIBRARY, timed, activity))
    q, inner, y = (
        int(TOGGLER.by_cell[kind].on(pin)[0])
        for kind, pin in (("DFF", "Q"), ("NAND", "Y"), ("INV", "Y"))
    )
    rate = activity.toggles / activity.cycles
    # 2 V: a change of a net takes half its capacitance times 4.
    assert got.switching_fj == pytest.approx(2 * (5 * rate[q] + 1 * rate[inner] + 4 * rate[y]))
    assert got.logic_fj == pytest.approx(5 * (rate[inner] + rate[y]))  # rise 4, fall 6
    assert got.clock_pins_fj == pytest.approx(1.5 * 4)
    same0, up, down, same1 = (activity.states["DFF"][0][i] / activity.cycles for i in (0, 2, 1, 3))
    rising = 6 * (same0 + same1)
    falling_settled = 20 * up + 24 * down + 10 * (same0 + same1)
    data = rate[inner] * (2 + 6) / 2  # CK up and down half of the time each
    assert got.registers_fj == pytest.approx(
        rising + (falling_settled + 10) / 2 + data + 10 * rate[q]
    )
    # The states without a figure of their own leak as the average does.
    held0, held1 = (same0 + up), (same1 + down)
    low0 = (same0 + held0) / 2 / 2
    low1 = (down + 0) / 2 / 2
    leakage = 8 * low0 + 12 * low1 + 10 * (1 - low0 - low1)
    assert held1 >= 0 and got.leakage_nw == pytest.approx(2 * 5 + leakage)


def test_parts_sum_to_the_whole() -> None:
    _, activity = run(30, 64, 7)
    timed = timing.analyze(TOGGLER, LIBRARY, CELLS)
    kinds = power.cell_power(TOGGLER, LIBRARY, timed, activity)
    whole = power.total(kinds)
    parts = [
        power.total(kinds, lambda name, part=part: name == part)
        for part in ("gate", "state", "out")
    ]
    assert sum(part.dynamic_fj for part in parts) == pytest.approx(whole.dynamic_fj)
    assert sum(part.leakage_nw for part in parts) == pytest.approx(whole.leakage_nw)
    assert parts[1].clock_pins_fj == whole.clock_pins_fj


def test_a_stuck_net_takes_no_energy() -> None:
    _, activity = run(30, 64, 9)
    y = int(TOGGLER.by_cell["INV"].on("Y")[0])
    stuck = gates.Activity(
        activity.cycles,
        np.where(np.arange(TOGGLER.nets) == y, 0, activity.toggles),
        activity.ones,
        activity.states,
    )
    timed = timing.analyze(TOGGLER, LIBRARY, CELLS)
    whole, less = (
        power.total(power.cell_power(TOGGLER, LIBRARY, timed, seen)) for seen in (activity, stuck)
    )
    lost = activity.toggles[y] / activity.cycles * (5 + 2 * 4)
    assert whole.dynamic_fj - less.dynamic_fj == pytest.approx(lost)


def test_a_kept_netlist_is_the_same(tmp_path: Path) -> None:
    text = json.dumps(
        {
            "modules": {
                "top": {
                    "ports": {"a": {"direction": "input", "bits": [2]}},
                    "cells": {
                        "g": {
                            "type": "INV",
                            "parameters": {},
                            "attributes": {},
                            "connections": {"A": [2], "Y": [3]},
                        }
                    },
                    "netnames": {"a": {"bits": [2], "attributes": {"src": "top.v:4.1-4.2"}}},
                }
            }
        }
    )
    path = tmp_path / "n.json.gz"
    netlist.kept(path, text)
    read, made = netlist.of_kept(path, "top"), netlist.from_json(text, "top")
    assert read.nets == made.nets and read.net_lines == made.net_lines == {2: 4}
    assert np.array_equal(read.by_cell["INV"].nets, made.by_cell["INV"].nets)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FileError, match="delete it and try again"):
        netlist.of_kept(path, "top")
