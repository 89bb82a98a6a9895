"""Searches that can be stopped and continued: Optuna's TPE sampler over a space, stored in SQLite.

With the same setup, number of trials and workers, a search takes the same steps; with one worker,
even if it was interrupted. Each trial is drawn with its own random stream, and the sampler gets
results in the order in which trials were requested.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from evolute.dse.metrics import METRICS
from evolute.dse.space import Candidate
from evolute.hw.spec.base import SpecError, require
from evolute.support.errors import RefusedError, UnknownNameError
from evolute.support.files import FileError
from evolute.support.processes import executor

Direction = Literal["minimize", "maximize"]

KEPT = (TrialState.COMPLETE, TrialState.PRUNED)

_REFUSALS = 20
"""Refused candidates for each one asked for, after which a search gives up."""


def positive(field: str, text: str) -> float:
    """The positive number that `text` states. Raises `SpecError` naming `field`."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    require(0 < value < float("inf"), field, "a number above 0", text)
    return value


class StudyError(RefusedError):
    """A study that cannot be started, continued or found."""


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric, `name <= bound` or `name >= bound`."""

    name: str
    at_most: bool
    bound: float

    @property
    def text(self) -> str:
        """The constraint as text, which `parse` reads."""
        return f"{self.name}{'<=' if self.at_most else '>='}{self.bound:.15g}"

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """The constraint that `text` states, in the form of `Constraint.text`. Raises
        `SpecError`."""
        parts = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*([0-9.eE+-]+)\s*", text)
        require(
            parts is not None, "constraint", "of the form METRIC<=NUMBER or METRIC>=NUMBER", text
        )
        assert parts is not None
        name, relation, number = parts.groups()
        if name not in METRICS:
            raise UnknownNameError("metric", name, list(METRICS))
        return cls(name, relation == "<=", positive("constraint", number))

    def excess(self, value: float) -> float:
        """The share by which `value` exceeds the bound; 0 or less if the constraint holds."""
        excess = value / self.bound - 1
        return excess if self.at_most else -excess


@dataclass(frozen=True)
class Strategy:
    """How candidates are drawn and judged.

    `choose` gives a trial's candidate or raises `SpecError`; `measure` gives a candidate's metrics
    by name, may run in another process, and raises `RefusedError` if it cannot.
    """

    choose: Callable[[optuna.trial.BaseTrial], Candidate]
    measure: Callable[[Candidate], dict[str, float]]
    objectives: tuple[str, ...]
    constraints: tuple[Constraint, ...]
    seed: int


_PATIENCE_S = 120
"""How long a search waits for another one that is writing to the same file."""


def open_storage(path: Path) -> optuna.storages.RDBStorage:
    """The SQLite file of studies at `path`, created if it does not exist. Raises `FileError`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with _lock_file(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two that make its tables stop each other
            return optuna.storages.RDBStorage(
                f"sqlite:///{path.resolve()}",
                engine_kwargs={"connect_args": {"timeout": _PATIENCE_S}},
            )
    except Exception as error:  # SQLAlchemy, Alembic and Optuna each raise their own kinds
        reason = str(error).splitlines()[0]
        raise FileError(f"cannot open {path} as a study storage: {reason}") from None


def _lock_file(path: Path, mark: str = "") -> IO[bytes]:
    """A file beside the storage at `path`, for locking. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}{mark}.lock").open("ab")


@contextlib.contextmanager
def only_search(path: Path, name: str) -> Iterator[None]:
    """In the block, no other process can search the study `name` in the storage at `path`.

    Running trials belong to one search: the next search ends those that are left over, and every
    trial is drawn from all earlier results. The lock is released when the process ends. Raises
    `StudyError` if another process has it, and `FileError`.
    """
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    try:
        lock = _lock_file(path, f"-{mark}")
    except OSError as error:
        raise FileError(f"cannot write beside {path}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            others = f"study {name!r} is being searched by another process"
            rule = "wait until that has ended, or search another one with --study NAME"
            raise StudyError(f"{others}; {rule}") from None
        yield


def open_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    directions: Sequence[Direction],
    setup: dict[str, Any],
    resume: bool,
) -> optuna.Study:
    """The study called `name`, new or continued.

    `setup` (JSON-serializable) is everything on which results depend. Raises `StudyError` if the
    study exists and `resume` is false, or if it has another setup.
    """
    if name not in optuna.get_all_study_names(storage):
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
        study.set_user_attr("setup", setup)
        return study
    if not resume:
        raise StudyError(f"study {name!r} exists; continue it with --resume or choose --study NAME")
    study = optuna.load_study(study_name=name, storage=storage)
    before = study.user_attrs.get("setup", {})
    for field, value in setup.items():
        if before.get(field) != value:
            raise StudyError(
                f"study {name!r} was made with {field}={before.get(field)}, not {value}"
            )
    _end_running(study)  # left by a process that was killed
    return study


def explore(
    study: optuna.Study,
    search: Strategy,
    trials: int,
    workers: int,
    advance: Callable[[int], None] = lambda measured: None,
) -> None:
    """Add trials to `study` until `trials` of them are measured, `workers` at a time.

    Trials that the spec or a tool refuses are stored with the reason but not counted. `advance` is
    called with the number of measured trials. Raises `FileError` for a problem of the machine, and
    `StudyError` if almost all candidates are refused; results so far are kept.
    """
    measured = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    refused = len(study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))
    pending: collections.deque[tuple[Trial, Future[dict[str, float]]]] = collections.deque()
    with executor(workers) as pool:
        try:
            while measured < trials:
                advance(measured)
                while len(pending) < workers and measured + len(pending) < trials:
                    trial = _ask(study, search.seed, measured + refused + len(pending))
                    try:
                        candidate = search.choose(trial)
                    except SpecError as error:
                        refused = _refuse(study, trial, error, refused, trials)
                        continue
                    trial.set_user_attr("candidate", candidate.to_dict())
                    pending.append((trial, pool.submit(search.measure, candidate)))
                trial, future = pending.popleft()
                try:
                    _tell(study, search, trial, future.result())
                    measured += 1
                except FileError:  # the machine's fault, not the candidate's
                    raise
                except RefusedError as error:
                    refused = _refuse(study, trial, error, refused, trials)
        finally:
            for _, future in pending:
                future.cancel()
            _end_running(study)
    advance(measured)


def _end_running(study: optuna.Study) -> None:
    """Mark trials that were left unfinished as failed. They do not count, and are drawn again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _ask(study: optuna.Study, seed: int, ordinal: int) -> Trial:
    """A new trial from a sampler that depends only on the seed, `ordinal` and earlier results."""
    state = np.random.SeedSequence((seed, ordinal)).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(state[0]))
    return study.ask()


def _refuse(
    study: optuna.Study, trial: Trial, error: RefusedError, refused: int, trials: int
) -> int:
    """Prune a trial with the reason. Returns the number of refused trials; raises `StudyError` if
    there are too many."""
    trial.set_user_attr("refused", str(error))
    study.tell(trial, state=TrialState.PRUNED)
    if refused + 1 >= _REFUSALS * trials:
        raise StudyError(f"{refused + 1} candidates were refused, the last for: {error}")
    return refused + 1


def _tell(study: optuna.Study, search: Strategy, trial: Trial, metrics: dict[str, float]) -> None:
    trial.set_user_attr("metrics", metrics)
    for constraint in search.constraints:
        trial.set_constraint(constraint.text, constraint.excess(metrics[constraint.name]))
    study.tell(trial, [metrics[name] for name in search.objectives])


def shortfall(study: optuna.Study, constraints: Sequence[Constraint]) -> str:
    """Why a study has no front, in one line.

    It names the candidate whose worst violation of a constraint is the smallest, and all its
    violations.
    """
    measured = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not measured:
        refused = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        refusal = f", {len(refused)} refused, the last for: " if refused else ""
        refusal += refused[-1].user_attrs["refused"] if refused else ""
        return f"study {study.study_name!r} has no measured candidate{refusal}"
    excess = {
        trial.number: {
            constraint: constraint.excess(_metric(trial, constraint.name))
            for constraint in constraints
        }
        for trial in measured
    }
    nearest = min(measured, key=lambda trial: max(excess[trial.number].values()))
    broken = [
        f"{constraint.text} by {share:.1%} ({_metric(nearest, constraint.name):.6g})"
        for constraint, share in excess[nearest.number].items()
        if share > 0
    ]
    return (
        f"study {study.study_name!r}: none of {len(measured)} measured candidates keeps every "
        f"constraint; the nearest, trial {nearest.number}, breaks {' and '.join(broken)}"
    )


def _metric(trial: FrozenTrial, name: str) -> float:
    return trial.user_attrs["metrics"][name]


def front(study: optuna.Study) -> list[FrozenTrial]:
    """Feasible trials that no other trial beats in every objective. Of equal candidates, only the
    first."""
    members: dict[str, FrozenTrial] = {}
    for trial in sorted(study.best_trials, key=lambda member: member.number):
        members.setdefault(repr(sorted(trial.params.items())), trial)
    return list(members.values())


def feasible(trial: FrozenTrial) -> bool:
    """Whether a completed trial meets every constraint."""
    return all(excess <= 0 for excess in trial.constraints.values())
