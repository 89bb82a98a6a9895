"""A study as one result record, the form in which reports and people see it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from evolute.dse.metrics import METRICS
from evolute.dse.pareto import hypervolume, losses
from evolute.dse.study import KEPT, StudyError, feasible, front
from evolute.support.errors import UnknownNameError
from evolute.support.files import provenance


def find(storage: optuna.storages.BaseStorage, name: str | None) -> optuna.Study:
    """The study called `name`, or the newest. Raises `UnknownNameError`, `StudyError`."""
    names = optuna.get_all_study_names(storage)
    if not names:
        raise StudyError("the storage holds no study; evolute dse makes one")
    if name is not None and name not in names:
        raise UnknownNameError("study", name, names)
    return optuna.load_study(study_name=name or names[-1], storage=storage)


def of_study(study: optuna.Study) -> dict[str, Any]:
    """The record of a study: what was searched, every trial, the front and its hypervolume.

    The hypervolume is of logarithms, up to `reference`, the worst feasible value of each objective.
    """
    setup = study.user_attrs["setup"]
    metrics = [(name, METRICS[name]) for name in setup["objectives"]]
    trials = [_trial(each) for each in study.get_trials(deepcopy=False, states=KEPT)]
    values = {
        each["number"]: [each["metrics"][name] for name, _ in metrics]
        for each in trials
        if each["state"] == "complete" and each["feasible"]
    }
    best = sorted(each.number for each in front(study))
    volume, reference = 0.0, {}
    if best:
        directions = [metric.direction for _, metric in metrics]
        points = losses([values[number] for number in best], directions)
        worst = losses(list(values.values()), directions).max(axis=0)
        volume = hypervolume(points, worst)
        reference = {
            name: (max if metric.direction == "minimize" else min)(
                each[at] for each in values.values()
            )
            for at, (name, metric) in enumerate(metrics)
        }
    return {
        "kind": "dse",
        "study": study.study_name,
        **{key: setup[key] for key in ("engine", "model", "text", "tokens", "context")},
        "scope": setup.get("scope", "not stated"),
        "objectives": [{"name": name, **asdict(each)} for name, each in metrics],
        "constraints": setup["constraints"],
        "trials": trials,
        "front": best,
        "hypervolume": volume,
        "reference": reference,
        "provenance": provenance(
            "Yosys synthesis, exact cycles and measured perplexity of every candidate",
            ("optuna", "pyosys", "numpy"),
            setup["seed"],
        ),
    }


def front_trials(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials on a record's front, by their first objective."""
    first = record["objectives"][0]["name"]
    chosen = [each for each in record["trials"] if each["number"] in record["front"]]
    return sorted(chosen, key=lambda each: each["metrics"][first])


def front_csv(record: dict[str, Any]) -> str:
    """The front as comma-separated values, one row per candidate."""
    rows = [
        {"trial": each["number"], "digest": each["digest"], "weights": each["weights"]}
        | {name: value for name, value in each["spec"].items() if name != "kind"}
        | {name: each[name] for name in ("frequency_hz", "bandwidth_bytes_per_s")}
        | each["metrics"]
        for each in front_trials(record)
    ]
    import pandas

    columns = None if rows else ["trial"]
    return pandas.DataFrame(rows, columns=columns, dtype=object).to_csv(
        index=False, lineterminator="\n"
    )


def _trial(trial: FrozenTrial) -> dict[str, Any]:
    """A completed trial with its candidate and metrics, or a refused one with the reason."""
    if trial.state is TrialState.COMPLETE:
        facts = trial.user_attrs["candidate"] | {"metrics": trial.user_attrs["metrics"]}
        return {"number": trial.number, "state": "complete", "feasible": feasible(trial), **facts}
    return {
        "number": trial.number,
        "state": "pruned",
        "feasible": False,
        "params": trial.params,
        "refused": trial.user_attrs["refused"],
    }
