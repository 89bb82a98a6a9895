"""Building and running simulators: the cache, the waves, and designs that do not compile."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from evolute.hw.spec.lut_tensor_core import LutTensorCore
from evolute.support.identity import digest
from evolute.verif.harness import simulators
from evolute.verif.harness.simulators import SIMULATORS, SimulatorError
from evolute.verif.harness.verify import verify

SPEC = LutTensorCore(m=1, n=2, k=2, kg=1, weight_bits=2, activation_bits=4, group_size=5)


@pytest.fixture(params=SIMULATORS)
def simulator(request: pytest.FixtureRequest) -> str:
    if not simulators.available(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


def test_waveform_holds_ports_and_every_cycle(simulator: str, tmp_path: Path) -> None:
    waves = tmp_path / "run.vcd"
    report = verify(SPEC, seed=1, kinds=["corners"], simulator=simulator, waves=waves)
    assert report.passed
    text = waves.read_text()
    names = set(re.findall(r"\$var \w+ \d+ \S+ (\S+)", text))
    assert {"clk", "rst", "weight__payload", "result__valid"} <= names
    assert re.search(r"\$timescale\s+1ps\s+\$end", text)
    last_time_ps = int(re.findall(r"^#(\d+)", text, re.MULTILINE)[-1])
    assert last_time_ps >= report.rtl_cycles * 10_000


def test_equal_designs_are_built_once(simulator: str) -> None:
    text = f"// {simulator}\nmodule evolute_nothing(input clk);\nendmodule\n"
    with ThreadPoolExecutor(3) as pool:
        builds = list(
            pool.map(lambda _: simulators.build(text, "evolute_nothing", simulator), range(3))
        )
    assert len({build.program for build in builds}) == 1
    before = builds[0].program.stat().st_mtime_ns
    assert simulators.build(text, "evolute_nothing", simulator).program.stat().st_mtime_ns == before
    assert simulators.build(text + "\n", "evolute_nothing", simulator) != builds[0]


def test_broken_design_is_refused_in_one_line(simulator: str) -> None:
    with pytest.raises(SimulatorError, match="failed: ") as caught:
        simulators.build("module evolute_broken(input clk; endmodule", "evolute_broken", simulator)
    assert "\n" not in str(caught.value)


def test_a_change_of_commands_needs_a_new_recipe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Commands of every kind of build, and the files that they find, without this machine's paths;
    where they change, `RECIPE` must grow, and the digest here with it."""
    calls: list[Any] = []

    def call(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> None:
        words = [re.sub(r"/[^\s:,]*/", "", str(word)) for word in command]
        if "-o" in command:
            (folder / command[command.index("-o") + 1]).touch()
        if "--cc" in command:
            (folder / "Vtop.cpp").touch()
        names = [path.name for path in folder.iterdir() if path.suffix in (".v", ".cpp", "")]
        named = sorted(word for word in map(str, command) if word in names)
        texts = [re.sub(r'"/.*/', '"', (folder / name).read_text()) for name in named]
        calls.append([words, sorted(environment), texts])

    monkeypatch.setattr(simulators, "_call", call)
    monkeypatch.setattr(simulators, "_missing", lambda simulator: [])
    monkeypatch.setattr(simulators, "_compiler", lambda: "g++")
    monkeypatch.setattr(simulators, "_tool_versions", lambda simulator: ())
    monkeypatch.setattr(simulators, "cache_directory", lambda: tmp_path)
    for waves in (False, True):
        for each in SIMULATORS:
            simulators.build("module m; endmodule", "m", each, waves=waves)
        simulators.build_native("module m; endmodule", "m", {"main.cpp": ""}, waves=waves)
    found = sorted(map(json.dumps, calls))
    assert (simulators.RECIPE, len(found), digest(found)[:16]) == (1, 27, "8bf25064ab87d4f3")
