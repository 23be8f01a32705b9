"""One fit from beginning to end: rows in order, targets, first map, solver, and what is watched meanwhile.

Shapes: N rows, D features, d dimensions of the learned space, k target neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from tercet.data.randomness import keyed
from tercet.errors import InputError, suggest
from tercet.lmnn.loops import Array
from tercet.lmnn.objective import PENALTIES, Objective
from tercet.lmnn.solver import Solution, Watch, lbfgs
from tercet.lmnn.start import starting_map
from tercet.lmnn.stochastic import Sampled, stochastic
from tercet.lmnn.targets import target_neighbours
from tercet.lmnn.workers import Workers

SOLVERS = ("lbfgs", "stochastic")
STARTING_DISTANCE = 4.0  # mean squared distance to the targets under the first map, as in Weinberger's own code
ITERATIONS_PER_CHECK = 5  # of early stopping, with L-BFGS
DEFAULTS: dict[str, Any] = {
    "validation_fraction": 0.2,
    "n_iter_no_change": 5,
    "batch_size": 1024,
    "learning_rate": 0.1,
}
NEEDED: dict[str, tuple[str, Any]] = {
    "validation_fraction": ("early_stopping", True),
    "n_iter_no_change": ("early_stopping", True),
    "batch_size": ("solver", "stochastic"),
    "learning_rate": ("solver", "stochastic"),
}
Tell = Callable[[Array, float, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What `tercet.LMNN` was asked for; the class describes each. None of the last four stands for its default."""

    n_neighbors: int = 3
    n_components: int | None = None
    init: Any = "auto"
    mu: float = 0.5
    penalty: str = "hinge"
    n_refresh: int = 0
    solver: str = "lbfgs"
    rescale: bool = True
    max_iter: int = 1000
    tol: float = 1e-4
    early_stopping: bool = False
    validation_fraction: float | None = None
    n_iter_no_change: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None

    def check(self) -> None:
        """Raise InputError that names every setting that is not allowed, or that would do nothing beside the others."""
        found = [*self._words(), *self._ranges(), *self._idle()]
        if found:
            raise InputError(" ".join(found))

    def value(self, name: str) -> Any:
        """A setting, or its default where it is None."""
        given = getattr(self, name)
        return DEFAULTS[name] if given is None else given

    def _words(self) -> list[str]:
        choices = (("penalty", PENALTIES), ("solver", SOLVERS))
        return [
            f"{name} is {getattr(self, name)!r}; allowed are {', '.join(map(repr, words))}."
            + suggest(getattr(self, name), words)
            for name, words in choices
            if getattr(self, name) not in words
        ]

    def _ranges(self) -> list[str]:
        faults = []
        for name, least in (("n_neighbors", 1), ("n_refresh", 0), ("max_iter", 1), ("n_iter_no_change", 1),
                            ("batch_size", 2), ("n_components", 1)):  # fmt: skip
            given = getattr(self, name)
            if given is None and (name in DEFAULTS or name == "n_components"):
                continue
            if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < least:
                faults.append(f"{name} is {given!r}; allowed are whole numbers from {least}.")
        for name, low, high, allowed in (
            ("mu", 0.0, 1.0, "numbers from 0 to 1"),
            ("tol", 0.0, math.inf, "numbers from 0"),
            ("validation_fraction", 1e-9, 1 - 1e-9, "numbers between 0 and 1"),
            ("learning_rate", 1e-300, math.inf, "numbers above 0"),
        ):
            given = getattr(self, name)
            if given is None and name in DEFAULTS:
                continue
            if isinstance(given, bool) or not isinstance(given, int | float | np.number) or not low <= given <= high:
                faults.append(f"{name} is {given!r}; allowed are {allowed}.")
        return faults

    def _idle(self) -> list[str]:
        return [
            f"{name} is {getattr(self, name)!r}, which does nothing without {other}={value!r}; leave it out."
            for name, (other, value) in NEEDED.items()
            if getattr(self, name) is not None and getattr(self, other) != value
        ]


@dataclass(frozen=True)
class Learned:
    """What a fit found.

    Attributes:
        components: the map for the data as they were given, of shape (d, D).
        objective: there; see `Solution`.
        n_iter: iterations, of all rounds of targets together.
        converged: whether the last round ended before max_iter, by itself or because it was told to.
        targets: of shape (N, k), rows of the data as they were given; -1 in rows that were held out.
        objectives: after each iteration.
    """

    components: Array
    objective: float
    n_iter: int
    converged: bool
    targets: Array
    objectives: Array


@dataclass
class Round:
    """What is told after each iteration: to the user, and to the validation."""

    tell: Tell
    validation: Validation | None
    unit: float
    every: int
    done: int = 0
    objectives: list[float] = field(default_factory=list)

    def watch(self, components: Array, objective: float, n_active: int, iteration: int) -> None:
        """Raises StopIteration where the user or the validation has had enough."""
        self.done += 1
        self.objectives.append(objective)
        self.tell(components / self.unit, objective, n_active, self.done)
        if self.validation is not None and iteration % self.every == 0:
            self.validation.check(components)


class Validation:
    """Rows that are held out, and the map that classifies them best by their k nearest neighbours."""

    def __init__(self, rows: Array, classes: Array, X: Array, y: Array, k: int, patience: int) -> None:
        self.rows, self.classes, self.X, self.y, self.k, self.patience = rows, classes, X, y, k, patience
        self.best: Array | None = None
        self.errors = math.inf
        self.since = 0

    def check(self, components: Array) -> None:
        """Keep the map if it makes fewer errors than any before; StopIteration after too many that did not."""
        voters = KNeighborsClassifier(self.k).fit(self.rows @ components.T, self.classes)
        errors = int((voters.predict(self.X @ components.T) != self.y).sum())
        self.since += 1
        if errors < self.errors:
            self.best, self.errors, self.since = components.copy(), errors, 0
        if self.since >= self.patience:
            raise StopIteration


def learn(
    X: Array, classes: Array, settings: Settings, *, seed: int, workers: Workers, tell: Tell, warm: Array | None = None
) -> Learned:
    """Learn a map for data X (N, D) with classes (N,) numbered from 0.

    Args:
        X: finite.
        classes: each with more than k rows, at least two of them.
        settings: checked.
        seed: of what is random.
        workers: threads; the result does not depend on how many.
        tell: called after each iteration with the map, the objective, the number of active triplets and the iteration;
            StopIteration ends the learning.
        warm: a map to go on from, of shape (d, D), instead of init.

    Raises:
        InputError: a class with no more than k rows, or an init that cannot be had.
    """
    held_out = _held_out(classes, settings, seed) if settings.early_stopping else np.zeros(len(classes), bool)
    chosen = np.flatnonzero(~held_out)
    order = chosen[np.argsort(classes[chosen], kind="stable")]
    rows, sorted_classes = np.asarray(X, dtype=np.float64)[order], classes[order]
    centre, unit = rows.mean(axis=0), 1.0
    rows = np.ascontiguousarray(rows - centre)
    if settings.rescale:
        unit = float(np.abs(rows).max()) or 1.0
        rows /= unit
    k = settings.n_neighbors
    targets = target_neighbours(rows, sorted_classes, k, workers)
    if warm is None:
        start = starting_map(rows, sorted_classes, settings.init, settings.n_components, seed)
        if settings.rescale:
            start = _rescaled(start, rows, targets)
    else:
        start = warm * unit
    validation = None
    if settings.early_stopping:
        outside = (np.asarray(X, dtype=np.float64)[held_out] - centre) / unit
        patience = settings.value("n_iter_no_change")
        validation = Validation(rows, sorted_classes, outside, classes[held_out], k, patience)
    every = ITERATIONS_PER_CHECK if settings.solver == "lbfgs" else 1
    watched = Round(tell, validation, unit, every)
    solution, targets = _rounds(rows, sorted_classes, targets, start, settings, seed, workers, watched)
    components = solution.components if validation is None or validation.best is None else validation.best
    in_given_order = np.full((len(classes), k), -1)
    in_given_order[order] = order[targets]
    return Learned(
        components / unit, solution.objective, watched.done, solution.converged or solution.stopped, in_given_order,
        np.array(watched.objectives),
    )  # fmt: skip


def _rounds(
    rows: Array, classes: Array, targets: Array, start: Array, settings: Settings, seed: int, workers: Workers,
    watched: Round,
) -> tuple[Solution, Array]:  # fmt: skip
    """The first round with the targets given, then as many as are asked for with targets of the map so far."""
    solution = _solve(rows, classes, targets, start, settings, seed, workers, watched.watch)
    for _ in range(settings.n_refresh):
        if solution.stopped:
            break
        found = target_neighbours(rows @ solution.components.T, classes, settings.n_neighbors, workers)
        if np.array_equal(found, targets):
            break
        targets = found
        solution = _solve(rows, classes, targets, solution.components, settings, seed, workers, watched.watch)
    return solution, targets


def _solve(
    rows: Array, classes: Array, targets: Array, start: Array, settings: Settings, seed: int, workers: Workers,
    watch: Watch,
) -> Solution:  # fmt: skip
    mu, penalty = settings.mu, settings.penalty
    if settings.solver == "lbfgs":
        objective = Objective(rows, classes, targets, mu=mu, penalty=penalty, workers=workers)
        return lbfgs(objective, start, settings.max_iter, settings.tol, watch)
    return stochastic(
        Sampled(rows, classes, targets, mu, penalty, workers), start, settings.max_iter, settings.tol, watch,
        batch_size=settings.value("batch_size"), learning_rate=settings.value("learning_rate"), seed=seed,
    )  # fmt: skip


def _rescaled(start: Array, rows: Array, targets: Array) -> Array:
    """The map times a number, so that the mean squared distance to the targets is the starting one."""
    mapped = rows @ start.T
    mean = float(np.mean([((mapped - mapped[targets[:, j]]) ** 2).sum(axis=1).mean() for j in range(targets.shape[1])]))
    return start * math.sqrt(STARTING_DISTANCE / mean) if mean > 0 else start


def _held_out(classes: Array, settings: Settings, seed: int) -> Array:
    """Which rows are held out: the same share of each class, at least one row and never so many that k are not left."""
    found = np.zeros(len(classes), bool)
    order = keyed(seed, "lmnn", 0, 1).permutation(len(classes))
    for number in range(int(classes.max()) + 1):
        own = order[classes[order] == number]
        count = round(settings.value("validation_fraction") * len(own))
        found[own[: min(max(count, 1), len(own) - settings.n_neighbors - 1)]] = True
    if not found.any():
        raise InputError(
            f"early_stopping holds out rows, but every class has just the {settings.n_neighbors + 1} that it needs; "
            "give more data, or early_stopping=False."
        )
    return found
