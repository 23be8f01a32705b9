"""The protocol of Musgrave, Belongie and Lim: settings chosen on folds without a class in common, then one test.

Source: A Metric Learning Reality Check (ECCV 2020), section 4. Where this differs: settings are drawn at random, or by
successive halving, instead of by Bayesian optimisation; the folds' classes are dealt at random; and the trainings that
are tested are those of the chosen settings with seeds that had no part in the choice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from torch import nn

from tercet.collectives import started_together
from tercet.data.options import Augmentation
from tercet.encoders.options import EncoderOptions
from tercet.errors import ConfigError, InputError, TrainingError, check_choice
from tercet.training.benchmark.comparison import Estimate
from tercet.training.benchmark.methods import Method, Tables, check_tables, tables_of
from tercet.training.benchmark.options import BenchmarkOptions
from tercet.training.benchmark.plan import Plan, make_plan, settings_of_options, test_name
from tercet.training.benchmark.result import Benchmark, Scored, Tried
from tercet.training.benchmark.testing import KINDS, METRICS, Figures, TestSet
from tercet.training.config import Config, field_names, option_groups, read_toml
from tercet.training.folder import files
from tercet.training.folder.toml import from_mapping
from tercet.training.intake import warn_of_duplicates
from tercet.training.reporter import Advance, ConsoleReporter, Reporter
from tercet.training.request import Request, base_request, make_request
from tercet.training.tuning.identity import (
    SETTINGS_FILE,
    check_free,
    check_same,
    request_of_settings,
    request_settings,
)
from tercet.training.tuning.space import listed
from tercet.training.tuning.trials import Trainer, Trial

METRIC = "map_at_r"
RESULT_FILE, MARKDOWN_FILE, CSV_FILE = "benchmark.json", "results.md", "results.csv"


def benchmark(
    source: Any = None,
    *,
    out: str | Path,
    methods: str | Path | Mapping[str, Any] | None = None,
    test: Any = None,
    encoder: str | EncoderOptions | nn.Module | None = None,
    encoder_arguments: Mapping[str, Any] | None = None,
    augmentation: Augmentation | None = None,
    config: str | Path | Config | None = None,
    resume: bool = False,
    progress: bool = True,
    **options: Any,
) -> Benchmark:
    """Compare losses on classes that none of them has seen, each with the settings that validation chose for it.

    The first half of the classes is divided into folds without a class in common; each method's settings are those with
    the best mean validation MAP@R over the folds; with these it is trained on each fold with several seeds, and only
    then the other half is looked at.

    Args:
        source: labelled data; see `tercet.train`, as for all that is not named here.
        out: the folder to write, which must not exist yet, unless `resume`.
        methods: a TOML file, or a table by name: `{"mine": {"loss": "triplet", "try": {"margin": [0.1, 0.2]}}}`.
        test: the test set, instead of the second half of the classes.
        encoder: each training has a copy of a module of yours.
        encoder_arguments: see `tercet.train`.
        augmentation: see `tercet.train`.
        config: see `tercet.train`; without a loss.
        resume: go on with `out`: finished trainings are read, and one that is not goes on from its checkpoint.
        progress: show it.
        **options: any of `BenchmarkOptions` (losses, folds, seeds, trials, halving) and any setting of config.toml that
            is the same for all methods, such as steps.

    Raises:
        DataError, InputError, ConfigError, RunError: what was given, what is allowed, and what to do.
        TrainingError: every trial of every method failed.
        StorageError: the disk is full; go on with `resume`.
    """
    folder = Path(out)
    stored = read_settings(folder) if resume else None
    for word in options:
        check_choice("option", word, _known_options())
    named = methods if methods is None or isinstance(methods, Mapping) else str(methods)
    given = {name: options.pop(name) for name in field_names(BenchmarkOptions) if name in options}
    chosen = made_options(stored[1] if stored else BenchmarkOptions(), given, named, test)
    base = stored[0] if stored else base_request(source, config, folder, False)
    base = base if source is None else dataclasses.replace(base, source=source)
    request = make_request(base, encoder, encoder_arguments or {}, None, None, augmentation, None, options)
    tables = check_tables(named, "methods") if isinstance(named, Mapping) else None
    as_object = None if isinstance(test, (str, Path)) else test
    said = ConsoleReporter() if progress else Reporter()
    return benchmark_request(request, chosen, folder, resume, said, tables, as_object)


def made_options(base: BenchmarkOptions, given: Mapping[str, Any], methods: Any, test: Any) -> BenchmarkOptions:
    """The options with what Python gives by name put on top of them."""
    values = dict(given)
    if isinstance(values.get("losses"), list):
        values["losses"] = tuple(values["losses"])
    if isinstance(methods, str):
        values["methods"] = methods
    if isinstance(methods, Mapping) and values.get("losses") is not None:
        raise ConfigError("losses and methods both say what to compare; give one of them.")
    if isinstance(test, (str, Path)):
        values["test"] = str(test)
    return dataclasses.replace(base, **values)


def read_settings(folder: Path) -> tuple[Request, BenchmarkOptions, Tables] | None:
    """The request, options and methods that a benchmark was started with; None where there is none yet."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        return None
    content = read_toml(path)
    if "benchmark" not in content:
        raise ConfigError(f"{folder} is no benchmark; choose another name.")
    options = from_mapping(BenchmarkOptions, content["benchmark"], f"{path}: benchmark", partial=True)
    return request_of_settings(content, path), options, check_tables(content.get("methods", {}), str(path))


def benchmark_request(
    request: Request, options: BenchmarkOptions, folder: Path, resume: bool, reporter: Reporter,
    tables: Tables | None = None, test: Any = None,
) -> Benchmark:  # fmt: skip
    """Run the benchmark that was asked for; see `benchmark`."""
    if started_together():
        raise InputError(
            "a benchmark is one process, and torchrun has started several, which would be in each other's way; start "
            "it without torchrun."
        )
    stored = read_settings(folder) if resume else None
    if stored is None:
        check_free(folder, "benchmark")
    tables = tables or planned_tables(options, stored)
    plan = make_plan(request, options, tables, test)
    settings = {
        **request_settings(request, plan.development, plan.test),
        "benchmark": settings_of_options(options, test_name(options, test)),
        "methods": tables,
    }
    if stored is not None:
        check_same(settings, read_toml(folder / SETTINGS_FILE), folder, "benchmark")
    for sentence in plan.sentences():
        reporter.say(sentence)
    _warn_of_shared_classes(plan, reporter)
    files.write_text(folder / SETTINGS_FILE, tomli_w.dumps(settings))
    with _removed_if_nothing_began(folder, stored is not None):
        return _Protocol(plan, request, folder, reporter).run()


def planned_tables(options: BenchmarkOptions, stored: tuple[Request, BenchmarkOptions, Tables] | None) -> Tables:
    """The methods that are named, or those of the benchmark that is gone on with."""
    if stored is not None and options.methods is None and options.losses is None:
        return stored[2]
    return tables_of(options)


def _warn_of_shared_classes(plan: Plan, reporter: Reporter) -> None:
    shared = sorted(set(plan.development.classes) & set(plan.test.classes))
    if shared:
        reporter.warn(
            f"{len(shared)} of {len(plan.test.classes)} classes of the test set have the name of one that is trained "
            f"on ({', '.join(shared[:3])}): if they are the same, this is no test on classes never seen"
        )


class _Protocol:
    """The search of each method, the trainings that are tested, the test, and the files that say what was found."""

    def __init__(self, plan: Plan, request: Request, folder: Path, reporter: Reporter) -> None:
        self.plan, self.request, self.folder, self.reporter = plan, request, folder, reporter
        self.clock = _Clock(plan, reporter)
        self.trainers = {method.name: self._trainers(method) for method in plan.methods}

    def run(self) -> Benchmark:
        with self.reporter.progress("trainings") as advance:
            self.clock.advance = advance
            found = {method.name: self._search(method) for method in self.plan.methods}
            best = {method.name: _best(found[method.name], method) for method in self.plan.methods}
            if all(number is None for number in best.values()):
                raise TrainingError(f"every trial of every method failed: {_reasons(found)}")
            runs = {
                (method.name, seed): self._folds(method, best[method.name], self.plan.steps, seed)
                for method in self.plan.methods
                for seed in self.plan.seeds
            }
        measured = self._test(runs)
        scored = [self._scored(method, found[method.name], best[method.name], runs, measured)
                  for method in self.plan.methods]  # fmt: skip
        return self._written(scored)

    def _trainers(self, method: Method) -> list[Trainer]:
        """One for each fold."""
        found = [
            Trainer(
                method.request, fold.train, fold.held, METRIC, self._home(method.name) / f"fold-{number}", self.reporter
            )
            for number, fold in enumerate(self.plan.folds, start=1)
        ]
        for trainer in found:
            trainer.said = self.clock.said
        return found

    def _home(self, method: str) -> Path:
        return self.folder / "methods" / method

    def _search(self, method: Method) -> tuple[Tried, ...]:
        """What was tried on all folds, each trial as it was trained last."""
        rungs = self.plan.rungs[method.name]
        left, tried = list(range(1, len(method.drawn) + 1)), {}
        for rung in rungs:
            for number in sorted(left[: rung.trials]):
                tried[number] = self._tried(method, number, rung.steps)
            ranked = sorted((one for one in tried.values() if one.steps == rung.steps), key=_order)
            left = [one.number for one in ranked if one.mean is not None]
        if rungs and left:
            best = tried[left[0]]
            self.reporter.say(f"{method.name}: chosen is {listed(best.settings)}, validation MAP@R {best.mean:.3f}")
        return tuple(tried[number] for number in sorted(tried))

    def _tried(self, method: Method, number: int, steps: int) -> Tried:
        trials = self._folds(method, number, steps, self.request.training.seed)
        for trial, trainer in zip(trials, self.trainers[method.name], strict=False):
            trainer.forget_weights(trial)
        values = tuple(trial.value for trial in trials if trial.value is not None)
        return Tried(number, method.drawn[number - 1], steps, values, trials[-1].failure)

    def _folds(self, method: Method, number: int | None, steps: int, seed: int) -> list[Trial]:
        """The training of each fold, up to the first that fails; none of a method without settings."""
        trials: list[Trial] = []
        for trainer in self.trainers[method.name] if number is not None else []:
            if trials and trials[-1].failure:
                self.clock.skip(steps)
                continue
            assert number is not None
            name = f"{method.name}, {trainer.folder.name}"
            with self.clock.training(name, steps, trainer.folder / trial_name(number, steps, seed)) as note:
                trials.append(trainer.run(number, method.drawn[number - 1], steps, seed, note))
        return trials

    def _test(self, runs: Mapping[tuple[str, int], Sequence[Trial]]) -> dict[tuple[str, int], Figures]:
        """The figures of each method and seed of which no fold failed."""
        known = self.plan.development.fingerprints()
        of_test = self.plan.test.fingerprints()
        warn_of_duplicates(known, self.plan.test, of_test, "test", self.reporter)
        test = TestSet(self.plan.test, self.request.training.device, self.request.module, self.reporter)
        measured = {}
        for (name, seed), trials in runs.items():
            if trials and not trials[-1].failure:
                folders = [one.folder / trial.run for one, trial in zip(self.trainers[name], trials, strict=True)]
                measured[name, seed] = self._measured(name, seed, test, folders)
        return measured

    def _measured(self, name: str, seed: int, test: TestSet, runs: Sequence[Path]) -> Figures:
        path = self._home(name) / f"seed-{seed}.json"
        if not path.exists():
            files.write_json(path, test.measure(runs))
        found: Figures = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _scored(
        self, method: Method, tried: tuple[Tried, ...], best: int | None,
        runs: Mapping[tuple[str, int], Sequence[Trial]], measured: Mapping[tuple[str, int], Figures],
    ) -> Scored:  # fmt: skip
        seeds = [seed for seed in self.plan.seeds if (method.name, seed) in measured]
        validated = {seed: _mean_value(runs[method.name, seed]) for seed in seeds}
        test = {
            kind: {
                metric: Estimate.of({seed: measured[method.name, seed][kind][metric] for seed in seeds})
                for metric in METRICS
            }
            for kind in KINDS
        } if seeds else {}  # fmt: skip
        failed = {seed: runs[method.name, seed] for seed in self.plan.seeds if runs[method.name, seed]}
        return Scored(
            method.name, best, {} if best is None else method.drawn[best - 1], tried,
            Estimate.of(validated) if seeds else None, test,
            {seed: trials[-1].failure for seed, trials in failed.items() if trials[-1].failure},
        )  # fmt: skip

    def _written(self, scored: Sequence[Scored]) -> Benchmark:
        plan = self.plan
        data = {"development": plan.development.count(), "test": f"Test set of {plan.test.count()}"}
        found = Benchmark.of(self.folder, data, plan.steps, len(plan.folds), plan.seeds, scored)
        files.write_text(self.folder / MARKDOWN_FILE, found.to_markdown())
        files.write_text(self.folder / CSV_FILE, found.to_csv())
        files.write_json(self.folder / RESULT_FILE, found.to_json())
        return found


class _Clock:
    """Shows how far the trainings are, and says after the first one how long the others will take."""

    def __init__(self, plan: Plan, reporter: Reporter) -> None:
        self.plan, self.reporter = plan, reporter
        self.done, self.steps_left, self.said_how_long = 0, plan.total_steps, False
        self.said: set[str] = set()
        self.advance: Advance = lambda done, total, note="": None

    @contextlib.contextmanager
    def training(self, name: str, steps: int, run: Path) -> Iterator[Advance]:
        """Around one training; the block is called with notes on it."""
        record = run.with_name(run.name + ".json")
        was_begun, started = record.exists() or run.exists(), time.monotonic()
        yield lambda note="": self.advance(self.done, self.plan.trainings, f"{name}: {note}")
        seconds = time.monotonic() - started
        self.skip(steps)
        if not was_begun and not self.said_how_long:
            self.said_how_long = True
            left = self.plan.trainings - self.done
            self.reporter.say(
                f"the first training took {_duration(seconds)}; the other {left} will take about "
                f"{_duration(seconds / steps * self.steps_left)}, less where trials fail or were finished before"
            )

    def skip(self, steps: int) -> None:
        """Count a training that is behind us."""
        self.done, self.steps_left = self.done + 1, self.steps_left - steps
        self.advance(self.done, self.plan.trainings)


def trial_name(number: int, steps: int, seed: int) -> str:
    """Where a fold keeps a training, as `Trainer` names it."""
    return f"trials/{number:02d}/steps-{steps}-seed-{seed}"


def _best(tried: Sequence[Tried], method: Method) -> int | None:
    """The number of the best trial; the only one where nothing was tried, and None where all failed."""
    if not tried:
        return 1 if len(method.drawn) == 1 else None
    longest = max(one.steps for one in tried)
    ranked = sorted((one for one in tried if one.steps == longest and one.mean is not None), key=_order)
    return ranked[0].number if ranked else None


def _order(one: Tried) -> tuple[float, int]:
    return (1.0 if one.mean is None else -one.mean), one.number


def _mean_value(trials: Sequence[Trial]) -> float:
    values = [trial.value for trial in trials if trial.value is not None]
    return sum(values) / len(values)


def _reasons(found: Mapping[str, Sequence[Tried]]) -> str:
    reasons = dict.fromkeys(one.failure for tried in found.values() for one in tried if one.failure)
    return "; ".join(str(reason) for reason in reasons)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"


def _known_options() -> list[str]:
    of_training = [name for group in option_groups().values() for name in field_names(group)]
    return [*(name for name in field_names(BenchmarkOptions) if name not in ("methods", "test")), *of_training]


@contextlib.contextmanager
def _removed_if_nothing_began(folder: Path, resuming: bool) -> Iterator[None]:
    """Remove what was written if an error ends the benchmark before its first training began."""
    try:
        yield
    except Exception:
        if not resuming and not any(folder.glob("methods/*/*/trials/*/*/config.toml")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
