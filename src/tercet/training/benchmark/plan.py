"""The plan of a benchmark: its classes, its methods, and how many trainings that makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.data.records import Records
from tercet.errors import ConfigError, DataError
from tercet.training.benchmark.classes import Fold, check_labels, check_test, folds_of, halves
from tercet.training.benchmark.methods import Method, Tables, make_method
from tercet.training.benchmark.options import BenchmarkOptions
from tercet.training.config import DataOptions, LossOptions, field_names
from tercet.training.intake import own_part, read_source, refuse_idle
from tercet.training.request import Request
from tercet.training.tuning.options import TuningOptions
from tercet.training.tuning.space import Rung, listed, rungs_of, shown

STEPS = 500  # of a training, where none are given


@dataclass(frozen=True, eq=False)
class Plan:
    """What a benchmark will do.

    Attributes:
        development: what is trained on and validated.
        test: what is measured at the end.
        folds: of the former.
        methods: with the settings of their trials.
        rungs: of each method, how many trials are trained for how many steps on each fold; none of a method with one.
        steps: of the trainings that are tested.
        seeds: of these; the trials have another.
    """

    development: Records
    test: Records
    folds: tuple[Fold, ...]
    methods: tuple[Method, ...]
    rungs: dict[str, tuple[Rung, ...]]
    steps: int
    seeds: tuple[int, ...]

    @property
    def trainings(self) -> int:
        """How many there are in all."""
        return len(self.folds) * sum(rung.trials for rung in self._all())

    @property
    def total_steps(self) -> int:
        """Of all trainings."""
        return len(self.folds) * sum(rung.trials * rung.steps for rung in self._all())

    def _all(self) -> list[Rung]:
        final = Rung(len(self.methods) * len(self.seeds), self.steps)
        return [rung for rungs in self.rungs.values() for rung in rungs] + [final]

    def sentences(self) -> list[str]:
        """The plan, said before it starts."""
        sizes = " and ".join(sorted({str(len(fold.held.classes)) for fold in self.folds}, key=int))
        lines = [
            f"training and validation: {self.development.count()}, in {len(self.folds)} folds without a class in "
            f"common ({sizes} classes each)",
            f"test: {self.test.count()}, which is measured once, at the end",
        ]
        for method in self.methods:
            tried = {**method.space, **{name: (limits,) for name, limits in method.ranges.items()}}
            words = "; ".join(f"{name} {', '.join(map(shown, values))}" for name, values in tried.items())
            rungs = ", then ".join(f"{one.trials} for {one.steps:,} steps" for one in self.rungs[method.name])
            lines.append(f"{method.name}: {f'trials {rungs}, of {words}' if rungs else 'nothing to choose'}")
        search = sum(rung.trials for rungs in self.rungs.values() for rung in rungs)
        lines.append(
            f"{self.trainings} trainings, {self.total_steps:,} steps: {search} trials and "
            f"{len(self.methods)} methods × {len(self.seeds)} seeds, each on {len(self.folds)} folds"
        )
        return lines

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "development": self.development.count(), "test": self.test.count(),
            "folds": [list(fold.held.classes) for fold in self.folds],
            "methods": {one.name: [listed(settings) or "as given" for settings in one.drawn] for one in self.methods},
            "trainings": self.trainings, "steps": self.total_steps, "seeds": list(self.seeds),
        }  # fmt: skip


def make_plan(request: Request, options: BenchmarkOptions, tables: Tables, test: Any = None) -> Plan:
    """The plan; the data is listed for it, and no image of it opened.

    Args:
        request: what is common to all methods.
        options: how often, and on what.
        tables: the methods.
        test: the test set as an object, instead of that of the options.

    Raises:
        DataError: the data cannot be used, or has too few classes.
        ConfigError: an option that does nothing in a benchmark, or a method that is not allowed.
    """
    _check_request(request)
    development, held_back = _read(request, options, test)
    check_test(held_back)
    seed = request.training.seed
    folds = folds_of(development, options.folds, seed)
    methods = tuple(make_method(name, table, request, folds[0].train, options.trials) for name, table in tables.items())
    steps = request.training.steps or STEPS
    return Plan(
        development, held_back, folds, methods,
        {one.name: _rungs(len(one.drawn), options, steps) for one in methods},
        steps, tuple((seed + further) % 2**63 for further in range(1, options.seeds + 1)),
    )  # fmt: skip


def _read(request: Request, options: BenchmarkOptions, test: Any) -> tuple[Records, Records]:
    """What is for training and validation, and the test set."""
    refuse_idle(request.source, dataclasses.asdict(request.data))
    records = read_source(request.source, request.data)
    given = options.test if test is None else test
    held_back = own_part(request, "test") if given is None else _read_test(given, request)
    if held_back is None:
        return halves(records)
    check_labels(records)
    if (held_back.kind, held_back.columns) != (records.kind, records.columns):
        raise DataError(f"the test set ({held_back.description}) is not like the data ({records.description}).")
    return records, held_back


def _read_test(given: Any, request: Request) -> Records:
    return read_source(given, dataclasses.replace(request.data, layout=None, part=None), usual_part="test")


def _rungs(trials: int, options: BenchmarkOptions, steps: int) -> tuple[Rung, ...]:
    if trials < 2:
        return ()
    if options.halving is None:
        return (Rung(trials, steps),)
    return rungs_of(TuningOptions(halving=options.halving, finalists=1), trials, steps)


def _check_request(request: Request) -> None:
    """Raise ConfigError for what is given and would do nothing, or differ between methods."""
    faults = [
        f"{name} is given, and the folds say what validates"
        for name in ("validation", "holdout", "holdout_by")
        if getattr(request.data, name) != getattr(DataOptions(), name)
    ]
    if request.validation is not None:
        faults.append("validation is given, and the folds say what validates")
    faults += [
        f"{name} is given, and it belongs to a method; write it into the file of --methods"
        for name in field_names(LossOptions)
        if getattr(request.loss, name) != getattr(LossOptions(), name)
    ]
    if request.training.epochs is not None:
        faults.append(f"epochs is {request.training.epochs}, and methods are compared after equal steps; give steps")
    if faults:
        raise ConfigError("; ".join(faults) + ".")


def settings_of_options(options: BenchmarkOptions, test: str | None) -> Mapping[str, Any]:
    """What of the options a benchmark is made from; the methods are written beside it."""
    written = {**dataclasses.asdict(options), "test": test}
    return {name: value for name, value in written.items() if value is not None and name not in ("losses", "methods")}


def test_name(options: BenchmarkOptions, test: Any) -> str | None:
    """What to call the test set in settings.toml; None where it is a part of the data."""
    return str(test) if isinstance(test, (str, Path)) else options.test if test is None else type(test).__name__
