"""Searches that can be stopped and continued: Optuna's TPE sampler over a space, kept in SQLite.

Given the same setup, the same number of trials and workers, a search takes the same steps, however
often it was interrupted when `workers` is 1: each trial is drawn with its own random stream, and
results are told to the sampler in the order in which trials were asked.
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
    """The number above 0 that `text` is. Raises `SpecError`."""
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
        return f"{self.name}{'<=' if self.at_most else '>='}{self.bound:.15g}"

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """The constraint that `text`, like that of another one, means. Raises `SpecError`."""
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
        """By which share `value` breaks the bound; 0 or less where it holds."""
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
    """The SQLite file of studies at `path`, made if absent. Raises `FileError`."""
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
    """A file beside the storage at `path` that processes lock. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}{mark}.lock").open("ab")


@contextlib.contextmanager
def only_search(path: Path, name: str) -> Iterator[None]:
    """While it lasts no other process searches the study `name` in the storage at `path`.

    Trials of a study that run belong to one search: the next one ends those that are left over, and
    every trial is drawn from all that went before. The lock goes with the process that holds it.
    Raises `StudyError` where another process has it, `FileError`.
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

    `setup`, JSON-serializable, is all that its results depend on. Raises `StudyError` if the study
    exists and `resume` is false, or if it was made with another setup.
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

    Those that the spec or a tool refuses are kept with the reason but not counted; `advance` is
    called with the count. Raises `FileError` where the machine is at fault, and `StudyError` where
    next to nothing can be measured; results so far are kept.
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
    """Mark trials that nobody will finish as failed; they do not count, and are drawn again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _ask(study: optuna.Study, seed: int, ordinal: int) -> Trial:
    """A new trial from a sampler that depends on nothing but the seed, `ordinal` and the past."""
    state = np.random.SeedSequence((seed, ordinal)).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(state[0]))
    return study.ask()


def _refuse(
    study: optuna.Study, trial: Trial, error: RefusedError, refused: int, trials: int
) -> int:
    """Prune a trial with the reason; how many were refused by now. Raises `StudyError` at last."""
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
    """Why no candidate of a study without a front will do, in one line.

    It names the candidate that breaks its worst constraint least, and by how much it breaks each.
    """
    measured = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not measured:
        refused = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        last = f", {len(refused)} refused, the last for: " if refused else ""
        last += refused[-1].user_attrs["refused"] if refused else ""
        return f"study {study.study_name!r} has no measured candidate{last}"
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
    """Feasible trials that no other beats in every objective; of equal candidates the first."""
    members: dict[str, FrozenTrial] = {}
    for trial in sorted(study.best_trials, key=lambda member: member.number):
        members.setdefault(repr(sorted(trial.params.items())), trial)
    return list(members.values())


def feasible(trial: FrozenTrial) -> bool:
    """Whether a completed trial keeps every constraint."""
    return all(excess <= 0 for excess in trial.constraints.values())
