"""A study as one result record, for reports and for output."""

from __future__ import annotations

from dataclasses import asdict

import optuna
from optuna.trial import FrozenTrial, TrialState

from evolute.dse.metrics import METRICS
from evolute.dse.pareto import hypervolume, losses
from evolute.dse.study import KEPT, StudyError, feasible, front
from evolute.support import schema
from evolute.support.errors import UnknownNameError
from evolute.support.files import provenance


def find(storage: optuna.storages.BaseStorage, name: str | None) -> optuna.Study:
    """The study called `name`, or the newest one. Raises `UnknownNameError` and `StudyError`."""
    names = optuna.get_all_study_names(storage)
    if not names:
        raise StudyError("the storage holds no study; evolute dse makes one")
    if name is not None and name not in names:
        raise UnknownNameError("study", name, names)
    return optuna.load_study(study_name=name or names[-1], storage=storage)


def of_study(study: optuna.Study) -> schema.Study:
    """The record of a study: what was searched, every trial, the front and its hypervolume.

    The hypervolume is that of logarithms, up to `reference`, the worst feasible value of each
    objective.
    """
    setup = study.user_attrs["setup"]
    metrics = [(name, METRICS[name]) for name in setup["objectives"]]
    trials = [_trial(trial) for trial in study.get_trials(deepcopy=False, states=KEPT)]
    values = {
        trial.number: [trial.metrics[name] for name, _ in metrics]
        for trial in trials
        if trial.state == "complete" and trial.feasible
    }
    best = sorted(member.number for member in front(study))
    volume, reference = 0.0, {}
    if best:
        directions = [metric.direction for _, metric in metrics]
        points = losses([values[number] for number in best], directions)
        worst = losses(list(values.values()), directions).max(axis=0)
        volume = hypervolume(points, worst)
        reference = {
            name: (max if metric.direction == "minimize" else min)(
                column[at] for column in values.values()
            )
            for at, (name, metric) in enumerate(metrics)
        }
    return schema.Study(
        study=study.study_name,
        **{key: setup[key] for key in ("engine", "model", "text", "tokens", "context")},
        scope=setup.get("scope", "not stated"),
        objectives=[schema.Objective(name, **asdict(metric)) for name, metric in metrics],
        constraints=setup["constraints"],
        trials=trials,
        front=best,
        hypervolume=volume,
        reference=reference,
        provenance=provenance(
            "Yosys synthesis, exact cycles and measured perplexity of every candidate",
            ("optuna", "pyosys", "numpy"),
            setup["seed"],
        ),
    )


def measured_trials(study: schema.Study) -> list[schema.Trial]:
    """The trials that were measured (not refused)."""
    return [trial for trial in study.trials if trial.state == "complete"]


def front_trials(study: schema.Study) -> list[schema.Trial]:
    """The trials on a study's front, in the order of their first objective."""
    first = study.objectives[0].name
    chosen = [trial for trial in study.trials if trial.number in study.front]
    return sorted(chosen, key=lambda trial: trial.metrics[first])


def summary(study: schema.Study) -> schema.StudySummary:
    """The output of `evolute dse --json` for a study."""
    return schema.StudySummary(
        study=study.study,
        trials=len(measured_trials(study)),
        front=front_trials(study),
        hypervolume=study.hypervolume,
        reference=study.reference,
        objectives=study.objectives,
    )


def front_csv(study: schema.Study) -> str:
    """The front as comma-separated values, one row per candidate."""
    rows = [
        {"trial": trial.number, "digest": trial.digest, "weights": trial.weights}
        | {name: value for name, value in trial.spec.items() if name != "kind"}
        | {name: getattr(trial, name) for name in ("frequency_hz", "bandwidth_bytes_per_s")}
        | trial.metrics
        for trial in front_trials(study)
    ]
    import pandas

    columns = None if rows else ["trial"]
    return pandas.DataFrame(rows, columns=columns, dtype=object).to_csv(
        index=False, lineterminator="\n"
    )


def _trial(trial: FrozenTrial) -> schema.Trial:
    """A completed trial with its candidate and metrics, or a refused one with the reason."""
    if trial.state is TrialState.COMPLETE:
        facts = trial.user_attrs["candidate"] | {"metrics": trial.user_attrs["metrics"]}
        return schema.Trial(trial.number, "complete", feasible(trial), **facts)
    reason = trial.user_attrs["refused"]
    return schema.Trial(trial.number, "pruned", False, params=trial.params, refused=reason)
