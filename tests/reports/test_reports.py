"""Pages: pure functions of records that hold the records' numbers and nothing else."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from evolute.hw.spec import CoreSpec, Engine, LutDla, LutTensorCore
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import CORES, PRESETS
from evolute.reports import operations as operation_tables
from evolute.reports import plots, tables
from evolute.reports.commands.report import report
from evolute.reports.operations import shares
from evolute.reports.page import build
from evolute.reports.records import Record, accuracy_of, check, labels, latest, layer_seconds, load
from evolute.sim.cost.evaluate import Pricing, evaluate
from evolute.sim.cost.metrics import PhaseMetrics
from evolute.sim.cost.token import Host
from evolute.sim.workload.linear import HEAD, HostLayer, LayerName, Linear, Workload
from evolute.sim.workload.operations import CacheFormat, Pass, Product, operations
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import ModelShape
from evolute.sim.workload.zoo import zoo_entry
from evolute.support.files import FileError
from evolute.support.labels import MEANINGS, labels_of

SPEC = LutTensorCore(m=1, n=32, k=4, kg=2, weight_bits=8)


def sim_record(**changes: Any) -> dict[str, Any]:
    """A run of two kinds of layers, priced by the real models."""
    linears = (
        Linear(LayerName(None, "gate"), 320, 128, WeightCodes(4), 32, 32, count=4),
        Linear(HEAD, 1024, 128, WeightCodes(8), 32, 16),
    )
    metrics = evaluate(SPEC, Workload("toy", "w4g32", linears, ()), Platform(), 32, 8)
    perplexity = {"float": 17.25, "quantized": 17.75, "text": "prose", "tokens": 640, "context": 64}
    return {
        "kind": "sim",
        "model": "toy",
        "accelerator": "lut-decode",
        "weights": "w4g32",
        "bits_index": 4.5,
        "bits_total": 5.5,
        **metrics.to_dict(),
        "perplexity": perplexity,
        "host_layers": [],
        "provenance": {
            "how": "simulated",
            "tools": {"numpy": "2"},
            "seed": 3,
            "revision": "abc123",
        },
        **changes,
    }


def core_record(latency: int = 200, gbs: float = 20, **changes: Any) -> dict[str, Any]:
    """A run of two stages on a core, whose cycles are those of programs."""
    linears = tuple(
        Linear(LayerName(0, role), 320, 128, WeightCodes(4), 32, 16) for role in ("q", "gate")
    )
    workload = Workload("toy", "w4g32", linears, (HostLayer(LayerName(0, "v"), 160, 128),))
    platform = Platform(200e6, gbs * 1e9, latency_cycles=latency)
    metrics = evaluate(CORES["core-decode"], workload, platform, 32, 8).to_dict()
    left = {"host_layers": ["head"], "host_macs_per_token": 54321, "host_bytes_per_token": 217284}
    return sim_record(**metrics, accelerator="core-decode", **left, **changes)


def accuracy_record(weights: str, bits: float, perplexity: float) -> dict[str, Any]:
    return {
        "kind": "accuracy",
        "model": "toy",
        "method": "round to nearest",
        "weights": weights,
        "bits_index": bits,
        "bits_total": bits + 0.5,
        "perplexity": perplexity,
        "reference_perplexity": 17.25,
        "tokens": 640,
        "context": 64,
        "text": "prose",
    }


def dse_record() -> dict[str, Any]:
    objectives = [
        {"name": name, "title": title, "direction": direction, "unit": unit, "how": how}
        for name, title, direction, unit, how in (
            ("area_ge", "area", "minimize", "GE", "synthesized"),
            ("tokens_per_s", "decode speed", "maximize", "tokens/s", "modelled"),
            ("perplexity", "perplexity", "minimize", "", "measured"),
        )
    ]
    trials: list[dict[str, Any]] = [
        {
            "number": number,
            "state": "complete",
            "feasible": number != 2,
            "weights": "w4g32",
            "spec": SPEC.to_dict(),
            "metrics": {
                "area_ge": 41234.5 + 1000 * number,
                "tokens_per_s": 700.0 + 10 * number,
                "perplexity": 18.5 - number,
                "clock_mhz": 187.5,
            },
        }
        for number in range(3)
    ]
    trials.append({"number": 3, "state": "pruned", "feasible": False, "refused": "k: too big"})
    return {
        "kind": "dse",
        "study": "demo",
        "engine": "lut_tensor_core",
        "model": "toy",
        "objectives": objectives,
        "constraints": ["area_ge<=43000"],
        "trials": trials,
        "front": [0, 1],
        "hypervolume": 0.0123,
    }


def records(*data: dict[str, Any]) -> list[Record]:
    return [Record(f"records.jsonl:{number}", each) for number, each in enumerate(data, 1)]


def everything() -> list[Record]:
    points = (accuracy_record("w4g32", 4, 18.1), accuracy_record("w2g32", 2, 61.4))
    return records(sim_record(), *points, dse_record())


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_page_holds_the_numbers_of_its_records() -> None:
    page, run = build(everything()), sim_record()
    for phase in ("prefill", "decode"):
        assert f"{run[phase]['cycles']:,}" in page
        assert tables.quantity(run[phase]["tokens_per_s"]) in page
        assert tables.size(run[phase]["dram_bytes"]) in page
    for text in ("17.25 → 17.75", "41,234", "700", "187.5", "0.0123", "61.4", "abc123"):
        assert text in page
    assert "1 refused, 1 against a constraint" in page
    for how in MEANINGS:
        assert f'class="tag {how}"' in page


def test_a_page_needs_nothing_but_itself() -> None:
    page = build(everything())
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    outside = [
        url
        for url in re.findall(r"(?:href|src)=\"([^\"]*)\"", page)
        if url[:1] != "#" and not url.startswith("data:")
    ]
    assert outside == []
    assert "url(http" not in page and "@import" not in page


def test_equal_records_make_equal_pages() -> None:
    assert build(everything()) == build(everything())


def test_text_of_a_record_cannot_become_markup() -> None:
    page = build(records(sim_record(model="<script>alert(1)</script>")))
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_no_record_means_a_sentence_not_a_number() -> None:
    page = build([])
    for sentence in ("No run is recorded", "No accuracy is recorded", "No search is recorded"):
        assert sentence in page
    assert "<svg" not in page


def test_a_run_without_perplexity_says_so() -> None:
    page = build(records(sim_record(perplexity=None)))
    assert "not measured" in page and "No accuracy is recorded" in page


@pytest.mark.parametrize(
    ("verified", "sentence"),
    [
        (None, "RTL was not verified here"),
        (0, "The RTL equals the golden model in 12 transactions (verilator)"),
        (2, "The RTL has 2 mismatches with the golden model"),
    ],
)
def test_a_run_says_whether_its_rtl_was_verified(verified: int | None, sentence: str) -> None:
    facts = {"simulator": "verilator", "transactions": 12, "mismatches": verified}
    run = sim_record(verified=None if verified is None else facts)
    assert sentence in tables.setting(records(run)[0])


def methods(found: list[Record]) -> list[str]:
    return [each.text("method") for each in found]


@pytest.mark.parametrize(
    "plot",
    [
        lambda found: plots.roofline(found[0]),
        lambda found: plots.layer_time(found[0]),
        lambda found: plots.perplexity_by_bits(found[1:3], methods(found[1:3])),
        lambda found: plots.explored(found[3]),
    ],
)
def test_plots_are_well_formed_and_named(plot: Any) -> None:
    svg = plot(everything())
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    words = " ".join(root.itertext())
    assert re.search(r"MAC/s|per token|perplexity|decode speed", words)


def test_the_rooflines_peak_is_the_engines() -> None:
    svg = plots.roofline(everything()[0])
    for planes in (4, 8):
        peak = SPEC.macs_per_step / planes * 200e6
        assert f"w{planes}: {peak / 1e9:.3g} GMAC/s" in svg


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a plot draws, before it is written as SVG."""
    monkeypatch.setattr(plots, "_svg", lambda figure, name: figure)
    return lambda plot, record: plot(records(record)[0]).axes


@pytest.mark.parametrize("run", [core_record(), core_record(1, 0.9), sim_record()])
def test_time_by_layer_is_what_the_layers_take(run: dict[str, Any], drawn: Any) -> None:
    """Of a core its cycles, to which the waiting belongs; not the longer of two ideals."""
    for axis, name in zip(drawn(plots.layer_time, run), ("prefill", "decode"), strict=True):
        phase = run[name]
        unit = axis.get_xlabel().split()[0]
        per_second = {"s": 1, "ms": 1e3, "µs": 1e6}[unit]
        takes, computing, moving = (
            [bar.get_width() / per_second for bar in bars] for bars in axis.containers
        )
        steps = 8 if name == "decode" else 1
        # The host's calls, one between two stages, take two cycles each, and belong to no stage.
        syncs = 2 / 200e6 * (len(takes) - 1) if "bus_utilization" in phase else 0
        assert sum(takes) + syncs == pytest.approx(phase["seconds"] / steps)
        for whole, *parts in zip(takes, computing, moving, strict=True):
            assert whole >= max(parts) * (1 - 1e-9)
        if phase["bound"] == "latency":
            assert sum(takes) > 1.5 * max(sum(computing), sum(moving))
        assert axis.get_title("left") == f"{name}: {phase['bound']}-bound"
    assert {run["prefill"]["bound"], run["decode"]["bound"]} <= {"compute", "memory", "latency"}


def token_record(
    units: dict[str, int], host: Host | None = None, contexts: tuple[int, ...] = (64, 512)
) -> dict[str, Any]:
    """A run of whole tokens without weights, as `evolute sim` prices it."""
    core, shape = CORES["core-decode"].evolve(**units), zoo_entry("evolute-tiny").shape
    assert isinstance(shape, ModelShape)
    cache = CacheFormat("int8", 8, 16)

    def workload_of(work: Pass) -> Workload:
        roles = {str(one.name): one for one in operations(shape, work, cache)}
        linears = tuple(
            Linear(one.name, one.n, one.k, WeightCodes(4), 32, 16)
            for one in roles.values()
            if isinstance(one, Product)
        )
        return Workload("toy", "w4g32", linears, ())

    serving = Serving(20, 4, contexts, 2, cache)
    metrics = Pricing(core, shape, workload_of, Platform(), cache, host).serve(serving)
    return sim_record(
        **metrics.to_dict(),
        accelerator="core-decode",
        labels=metrics.labels,
        serving={"batch": 2},
        perplexity=None,
        bits_index=None,
        bits_total=None,
    )


UNITS = {"vector_lanes": 4, "attention_rows": 4}


def test_a_tokens_time_is_stacked_of_all_that_it_takes(drawn: Any) -> None:
    run = token_record(UNITS)
    axes = drawn(plots.token_time, run)
    for axis, name, passes in zip(axes, ("prefill", "decode"), (1, 1), strict=True):
        per_second = {"s": 1, "ms": 1e3, "µs": 1e6}[axis.get_xlabel().split()[0]]
        bars = [bar for container in axis.containers for bar in container]
        lengths = [bar.get_width() / per_second for bar in bars]
        assert sum(lengths) == pytest.approx(run[name]["seconds"] / passes)
        for bar, after in itertools.pairwise(bars):
            assert bar.get_x() + bar.get_width() == pytest.approx(after.get_x())
        assert len(bars) == 3  # nothing is the host's
    decode = axes[1].containers
    attention = [one for one in run["decode"]["operations"] if one["kind"] == "attention"]
    per_second = {"s": 1, "ms": 1e3, "µs": 1e6}[axes[1].get_xlabel().split()[0]]
    assert decode[1][0].get_width() == pytest.approx(attention[0]["seconds"] * per_second)


def test_speed_by_context_is_the_curve(drawn: Any) -> None:
    run = token_record(UNITS)
    (axis,) = drawn(plots.speed_by_context, run)
    (line,) = axis.lines
    points = [(point["context"], point["tokens_per_s"]) for point in run["curve"]]
    assert list(zip(*line.get_data(), strict=True)) == points and len(points) == 2
    assert axis.get_ylabel() == "tokens/s, whole token"


def test_a_page_shows_whole_tokens_and_needs_no_perplexity() -> None:
    run = token_record(UNITS)
    page = build(records(run))
    for heading in ("Time of a token", "Speed by context", "Every operation, decode"):
        assert heading in page
    assert "cores, whole tokens" in page and "not measured" in page
    (record,) = records(run)
    table = operation_tables.table(record, "decode")
    for row, operation in zip(table.rows, run["decode"]["operations"], strict=True):
        assert row[0] == operation["name"] and row[7] == operation["label"]
        assert row[3] == f"{operation['macs']:,}"
    assert "Speed by context" not in build(records(token_record(UNITS, contexts=(64,))))
    # A page of such a run beside others, of other records and of earlier versions.
    assert "Time of a token" not in build(everything())
    assert "Time of a token" in build([*everything(), record])


def test_a_host_of_unknown_speed_has_no_length() -> None:
    unknown, known = token_record({}), token_record({}, Host(2e9, 1e9))
    (first,), (second,) = records(unknown), records(known)
    assert [share.seconds for share in shares(first, "decode")][1:] == [None]
    assert "host: not known" in plots.token_time(first)
    assert "host: not known" not in plots.token_time(second)
    assert sum(share.seconds or 0 for share in shares(second, "decode")) == pytest.approx(
        known["decode"]["seconds"]
    )
    page = build([first])
    assert "The host&#39;s speed was not stated" in page or "The host's speed was not" in page


def test_figures_of_whole_tokens_are_modelled_and_those_of_layers_are_not() -> None:
    (run,) = records(token_record(UNITS))
    assert labels(run)["cycles"] == "modelled"
    assert labels(run, of_layers=True)["cycles"] == "exact"


def test_waiting_is_neither_computing_nor_moving() -> None:
    assert core_record()["decode"]["bound"] == "latency"
    assert "latency-bound, with 80.0% of the linear MACs" in build(records(core_record()))
    assert core_record(1, 0.9)["decode"]["bound"] == "memory"


def test_the_roofline_has_the_port_as_a_ceiling(drawn: Any) -> None:
    """32 bytes at 200 MHz are 6.4 GB/s, whatever a faster memory could move."""
    (axis,) = drawn(plots.roofline, core_record(gbs=20))
    lines = {line.get_label(): line for line in axis.lines}
    slopes = {}
    for name in ("memory, 20 GB/s", "the core's port, 6.4 GB/s"):
        (x0, x1), (y0, y1) = lines[name].get_data()
        assert y1 / x1 == pytest.approx(y0 / x0)
        slopes[name] = y1 / x1
        assert axis.get_xlim()[0] < x1 and axis.get_ylim()[0] < y1  # to be seen
    assert list(slopes.values()) == pytest.approx([20e9, 6.4e9])
    run = records(core_record(gbs=20))[0]
    points = [y for scatter in axis.collections for _, y in scatter.get_offsets()]
    attained = [
        layer.number("macs") / layer_seconds(run, layer)
        for phase in ("prefill", "decode")
        for layer in run.parts(f"{phase}.layers")
    ]
    assert points == pytest.approx(attained)
    assert "core's port" not in plots_labels(drawn(plots.roofline, sim_record()))


def plots_labels(axes: Any) -> str:
    return " ".join(str(line.get_label()) for axis in axes for line in axis.lines)


def test_a_figure_has_one_label_everywhere() -> None:
    """In the record that `evolute sim` writes, in its tables and on the page."""
    for run, core in ((core_record(), True), (sim_record(), False)):
        (record,) = records(run)
        how = labels(record)
        assert how == {
            **labels_of(PhaseMetrics, "core" if core else "engine"),
            "perplexity": "measured",
        }
        assert set(how.values()) <= {*MEANINGS, "absent"}
        assert (how["waiting_seconds"] == "absent") == (not core)
        ((_, table),) = tables.headlines([record])
        by_title = {column.title: column.how for column in table.columns}
        assert by_title["moved"] == how["dram_bytes"] == ("exact" if core else "modelled")
        assert by_title["speed"] == how["tokens_per_s"] == "modelled"
        assert by_title["bound by"] == how["bound"]
        of_layers = {each.title: each.how for each in tables.layers(record, "decode").columns}
        assert of_layers["moved"] == how["dram_bytes"]
        assert of_layers["cycles"] == by_title["took"] == how["cycles"]


def test_runs_that_leave_different_layers_out_share_no_table() -> None:
    whole = core_record(model="whole") | {"host_layers": []}
    runs = records(whole, core_record(model="part"), sim_record(model="engine"))
    found = tables.headlines(runs)
    assert [title for title, _ in found] == [
        "All linear layers on the accelerator: cores",
        "All linear layers on the accelerator: engines alone",
        "Without head: cores",
    ]
    assert [table.rows[0][0] for _, table in found] == ["whole", "engine", "part"]
    for _, table in found[::2]:
        share = [column.title for column in table.columns].index("MACs on it")
        assert [row[share] for row in table.rows] == ["80.0%", "80.0%"]
    sentence = tables.setting(runs[1])
    assert "Without head, left to the host" in sentence
    assert "54,321 MACs and 217.3 kB of float32 weights per token" in sentence


def test_a_run_adds_its_divergence_to_the_table_of_its_setting() -> None:
    """Beside a measurement of `evolute eval` with the same text, windows and cache."""
    run = sim_record()
    run["perplexity"] |= {"kl": 0.03125, "top1": 0.9, "stride": 64, "kv": "float32"}
    measured = accuracy_record("w3g32", 3, 21.0) | {"kl": 0.25, "stride": 64, "kv": "float32"}
    page = build(records(run, measured))
    assert page.count("<h3>toy on prose</h3>") == 1
    assert "0.0312" in page and "0.25" in page


def test_a_run_adds_a_point_to_the_perplexity_plot() -> None:
    point = accuracy_of(records(sim_record())[0])
    assert point is not None
    assert point["perplexity"] == 17.75 and point["reference_perplexity"] == 17.25
    svg = plots.perplexity_by_bits([point], methods([point]))
    assert "as shipped: 17.25" in svg and "simulated on lut-decode" in svg


def test_what_could_not_be_compared_is_shown_alone() -> None:
    """A model whose parent was not to be found has a perplexity, and no level beside it."""
    missing = dict.fromkeys(("reference_perplexity", "kl"))
    alone = accuracy_record("native", 3, 25.0) | missing
    (row,) = tables.accuracy(records(alone)).rows
    assert row[5:] == ("25", "", "", "")
    svg = plots.perplexity_by_bits(records(alone), ["round to nearest"])
    assert "as shipped" not in svg
    both = records(alone, accuracy_record("w4g32", 4, 18.0))
    assert "as shipped: 17.25" in plots.perplexity_by_bits(both, ["round to nearest"])
    run = sim_record()
    run["perplexity"] |= {"float": None, "kl": None}
    assert "as shipped unknown" in build(records(run))
    with pytest.raises(FileError, match="reference_perplexity"):
        check(Record("a:1", accuracy_record("w4g32", 4, 18.0) | {"reference_perplexity": "x"}))


def test_text_of_another_kind_has_a_column() -> None:
    other = {"other_perplexity": 31.5, "other_reference_perplexity": 18.0}
    table = tables.accuracy(records(accuracy_record("w4g32", 4, 18.0) | other))
    assert table.columns[-1].title == "text of another kind"
    assert table.rows[0][-1] == "31.5, 18"


def test_figures_of_different_texts_are_not_drawn_together() -> None:
    prose = [accuracy_record("w4g32", 4, 18.0), accuracy_record("w3g32", 3, 25.0)]
    page = build(records(*prose, *(each | {"text": "verse"} for each in prose)))
    assert "toy on prose" in page and "toy on verse" in page
    assert page.count("<svg") == 2
    weights_alone = [each | {"activations": "float32", "kl": 0.0625} for each in prose]
    page = build(records(*prose, *weights_alone))
    assert page.count("<svg") == 2 and "activations float32" in page
    assert page.count("no engine") == 4 and "0.0625" in page
    others = {"kv": "int8"}, {"stride": 64}
    page = build(records(*prose, *(each | other for each in prose for other in others)))
    assert page.count("<svg") == 3 and "keys and values int8" in page and "every 64" in page


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_study_is_drawn_however_few_of_its_candidates_keep_the_constraint(kept: int) -> None:
    study = dse_record()
    for trial in study["trials"][:3]:
        trial["feasible"] = trial["number"] < kept
    svg = plots.explored(records(study | {"front": list(range(kept))})[0])
    assert ("Pareto front" in svg) == (kept > 0)
    assert ("infeasible" in svg) == (kept < 3)


def test_a_measurement_alone_is_a_row_not_a_plot() -> None:
    page = build(records(accuracy_record("w4g32", 4, 18.25)))
    assert "<svg" not in page and "18.25" in page


def test_provenance_names_file_and_lines_once() -> None:
    lines = [
        Record(f"/home/me/out/r.jsonl:{n}", accuracy_record("w4g32", 4, 18)) for n in (3, 1, 2)
    ]
    ((place, at, *_),) = tables.provenance(lines).rows
    assert (place, at) == ("me/out/r.jsonl", "1-3")


def test_a_tile_in_one_word_names_the_sizes_that_its_engine_has() -> None:
    assert tables.shape(SPEC.to_dict()) == f"M1 N32 K4{tables.TIMES}2"
    assert tables.shape(LutDla(m=2, n=8, v=3).to_dict()) == "M2 N8 K3"
    for preset in PRESETS.values():
        if isinstance(preset.spec, Engine | CoreSpec):
            assert f"N{getattr(preset.spec, 'engine', preset.spec).n} " in tables.shape(
                preset.spec.to_dict()
            )


def test_the_newest_of_equal_runs_counts() -> None:
    old, new = sim_record(), sim_record(provenance={"how": "again"})
    found = latest(records(old, new), "sim", "model", "accelerator")
    assert [each["provenance.how"] for each in found] == ["again"]


def without(record: dict[str, Any], *path: str | int) -> dict[str, Any]:
    """A copy of `record` that lacks one field."""
    copy = json.loads(json.dumps(record))
    inner: Any = copy
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return copy


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"kind": "sim"', "not a JSON record"),
        ("[1]", "not a JSON object"),
        ('{"model": "x"}', "record without kind"),
        (json.dumps(without(sim_record(), "prefill", "cycles")), "without prefill.cycles"),
        (
            json.dumps(sim_record() | {"decode": sim_record()["decode"] | {"layers": []}}),
            "is empty",
        ),
        (json.dumps(sim_record(model=3)), "model must be text"),
        (json.dumps(without(accuracy_record("w4g32", 4, 18), "perplexity")), "perplexity"),
        (json.dumps(accuracy_record("w4g32", 4, True)), "perplexity must be a number, got True"),
        (json.dumps(without(dse_record(), "objectives")), "without objectives"),
        (
            json.dumps(without(dse_record(), "trials", 0, "metrics", "clock_mhz")),
            "without metrics.clock_mhz",
        ),
        (json.dumps(without(sim_record(), "decode", "layers", 1, "bound")), "without bound"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = write(tmp_path / "records.jsonl", json.dumps(sim_record()), line)
    with pytest.raises(FileError, match=re.escape(f"{path}:2: ")) as refusal:
        load([path])
    assert problem in str(refusal.value)


def test_records_of_other_kinds_are_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "records.jsonl", '{"kind": "verify"}', json.dumps(sim_record()))
    assert [each.kind for each in load([path])] == ["verify", "sim"]


def test_the_command_writes_one_page(tmp_path: Path) -> None:
    path = write(tmp_path / "records.jsonl", json.dumps(sim_record()))
    arguments = ["--records", str(path), "-o", str(tmp_path / "pages"), "--json"]
    result = CliRunner().invoke(report, arguments, catch_exceptions=False)
    (page,) = json.loads(result.output)["pages"]
    assert "17.25 → 17.75" in Path(page).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), (12.0, "12"), (0.0123456, "0.01235"), (98765.4, "98,765")],
)
def test_quantities_are_readable(value: float, text: str) -> None:
    assert tables.quantity(value) == text
