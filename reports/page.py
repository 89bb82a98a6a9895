"""Makes one HTML page from records. It opens from disk and needs no script, font or network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from evolute.reports import operations, plots, tables
from evolute.reports.records import PHASES, Record, accuracy_of, is_core, labels, latest
from evolute.support.labels import MEANINGS

_SETTING = ("model", "text", "tokens", "context")
_FORMATS = ("stride", "activations", "kv")
"""What two perplexities must agree in to be compared."""


def build(records: Sequence[Record]) -> str:
    """The page as HTML; equal records give equal pages. Sections without records say which command
    makes them."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evolute.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style = environment.get_template("style.css").render()
    runs = latest(records, "sim", "model", "accelerator", "weights", "digest", "platform")[::-1]
    studies = latest(records, "dse", "engine", "model", "objectives", "constraints")[::-1]
    comparisons = latest(
        records, "compare", "model", "layer", "weights", "activations", "rows", "shape"
    )[::-1]
    measured = [*(accuracy for run in runs[::-1] if (accuracy := accuracy_of(run))), *records]
    accuracies = latest(measured, "accuracy", *_SETTING, *_FORMATS, "weights", "spec.table_bits")
    return environment.get_template("page.html").render(
        style=Markup(style),
        how=MEANINGS,
        headlines=tables.headlines(runs),
        runs=[_run(run) for run in runs],
        accuracies=_accuracies(accuracies),
        studies=[_study(study) for study in studies],
        comparisons=[_comparison(record) for record in comparisons],
        provenance=tables.provenance(
            {
                record.origin: record for record in (*accuracies, *comparisons, *studies, *runs)
            }.values()
        ),
    )


def _run(run: Record) -> dict[str, object]:
    return {
        "title": f"{run.text('model')} on {run.text('accelerator')}, {run.text('weights')} weights",
        "how": labels(run),
        "is_core": is_core(run),
        "tiles": tables.tiles(run),
        "setting": tables.setting(run),
        "roofline": Markup(plots.roofline(run)),
        "layer_time": Markup(plots.layer_time(run)),
        "layers": {phase: tables.layers(run, phase) for phase in PHASES},
        **_token(run),
    }


def _token(run: Record) -> dict[str, object]:
    """The facts of a run about whole tokens; None if there are none."""
    if not operations.has_operations(run):
        return {"scope": None, "token_time": None, "operations": {}, "contexts": None}
    return {
        "scope": run.text("decode.scope"),
        "token_time": Markup(plots.token_time(run)),
        "operations": {phase: operations.table(run, phase) for phase in PHASES},
        "contexts": Markup(plots.speed_by_context(run)) if run.optional("curve") else None,
    }


def _accuracies(records: Sequence[Record]) -> list[dict[str, object]]:
    """One section per model, text, length and formats, because only such figures can be
    compared."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        formats = (record.optional(name) for name in _FORMATS)
        groups.setdefault((*(record[name] for name in _SETTING), *formats), []).append(record)
    methods = list(dict.fromkeys(record.text("method") for record in records))
    return [
        {
            "title": f"{model} on {text}",
            "setting": f"{tokens:,} predicted tokens in windows of {context:,}"
            + (f" every {stride:,}" if stride else "")
            + f"; activations {activations or 'as the accelerator takes them'}"
            + f", keys and values {kv or 'float32'}",
            "plot": Markup(plots.perplexity_by_bits(members, methods))
            if len(members) > 1
            else None,
            "table": tables.accuracy(members),
        }
        for (model, text, tokens, context, stride, activations, kv), members in sorted(
            groups.items(), key=lambda item: -len(item[1])
        )
    ]


def _study(study: Record) -> dict[str, object]:
    complete = [trial for trial in study.parts("trials") if trial["state"] == "complete"]
    return {
        "title": f"Study {study.text('study')}",
        "setting": tables.study_setting(study),
        "plot": Markup(plots.explored(study)) if complete else None,
        "front": tables.front(study),
    }


def _comparison(record: Record) -> dict[str, object]:
    return {
        "title": f"{record.text('model')}, {record.text('weights')} weights, "
        f"{record.text('activations')} activations",
        "setting": tables.comparison_setting(record),
        "table": tables.compared(record),
    }
