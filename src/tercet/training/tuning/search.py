"""Successive halving over settings: short runs of many, longer ones of the best, and seeds for the last few.

The inner loop of Hyperband (Li et al. 2018, Algorithm 1), which is successive halving (Jamieson and Talwalkar 2016),
with one change: a trial that goes on to the next rung is trained anew and not continued. Its learning rate falls to
zero at the end of its steps, so what a shorter run measured is the end of a whole schedule; a continued one would have
none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from torch import nn

from tercet.collectives import started_together
from tercet.data.options import Augmentation
from tercet.data.records import Records, plural
from tercet.encoders.options import EncoderOptions
from tercet.errors import ConfigError, InputError, TrainingError, check_choice
from tercet.mining.options import MiningOptions
from tercet.training.assessment.selection import SELECTIONS
from tercet.training.config import Config, field_names, option_groups, read_config, read_toml
from tercet.training.folder import files
from tercet.training.intake import read_data
from tercet.training.objective.loss import Loss
from tercet.training.reporter import Advance, ConsoleReporter, Reporter
from tercet.training.request import Request, base_request, make_request
from tercet.training.tuning.comparison import Finalist, effects_of, finalists_of, ranked, verdict_of
from tercet.training.tuning.identity import SETTINGS_FILE, check_free, check_same, read_settings, settings_of
from tercet.training.tuning.options import VALUES, TuningOptions
from tercet.training.tuning.result import Tuning
from tercet.training.tuning.space import (
    Rung,
    Settings,
    Space,
    check_one_of_both,
    draw,
    listed,
    rungs_of,
    shown,
    space_of,
    with_penalty,
)
from tercet.training.tuning.trials import Trainer, Trial

STEPS = 500  # of the last rung, as of a training, where none are given
BEST_FILE = "best.toml"
RESULT_FILE = "tuning.json"


def tune(
    source: Any = None,
    *,
    out: str | Path,
    encoder: str | EncoderOptions | nn.Module | None = None,
    encoder_arguments: Mapping[str, Any] | None = None,
    loss: str | Loss | None = None,
    validation: Any = None,
    augmentation: Augmentation | None = None,
    mine: MiningOptions | None = None,
    config: str | Path | Config | None = None,
    tuning: TuningOptions | None = None,
    resume: bool = False,
    progress: bool = True,
    **options: Any,
) -> Tuning:
    """Try margin, mining, temperature and learning rate on validation data, and say what was found.

    What belongs to the loss and is left open is tried; what is given as one value is kept. Trials are drawn from the
    grid of the values and go through successive halving; the best of the last rung are trained with further seeds. All
    are measured on the same validation data. The best settings are in best.toml:

        tercet.train(source, out=..., config=tuning.best)

    Args:
        source: see `tercet.train`, as for all that is not named here.
        out: the folder to write, which must not exist yet, unless `resume`.
        encoder: each trial trains a copy of a module of yours.
        encoder_arguments: see `tercet.train`.
        loss: beside a loss as an object only the learning rate is tried.
        validation: see `tercet.train`; what is held out of the source is the same for every trial and seed.
        augmentation: see `tercet.train`.
        mine: see `tercet.train`.
        config: see `tercet.train`; a value in it counts as given, save where values to try of that setting are given.
        tuning: what is tried, as an object.
        resume: go on with `out`: finished trials are read, and one that is not goes on from its checkpoint.
        progress: show it.
        **options: any setting of config.toml and any of `TuningOptions` by its name: steps (of the last rung), trials,
            margins, minings, learning_rates, ...

    Raises:
        DataError, InputError, ConfigError, RunError: what was given, what is allowed, and what to do.
        TrainingError: every trial failed.
        StorageError: the disk is full; go on with `resume`.
    """
    folder = Path(out)
    stored = read_settings(folder) if resume else None
    for word in options:
        check_choice("option", word, _known_options())
    given = {name: options.pop(name) for name in field_names(TuningOptions) if name in options}
    chosen = tuning or (stored[1] if stored else TuningOptions())
    chosen = TuningOptions.of({**dataclasses.asdict(chosen), **given})
    base = _resumed(stored[0], source) if stored else base_request(source, config, folder, False)
    request = make_request(base, encoder, encoder_arguments or {}, loss, validation, augmentation, mine, options)
    check_one_of_both(request, base, chosen)
    return tune_request(request, chosen, folder, resume, ConsoleReporter() if progress else Reporter())


def tune_request(request: Request, options: TuningOptions, folder: Path, resume: bool, reporter: Reporter) -> Tuning:
    """Tune what was asked for; see `tune`."""
    if started_together():
        raise InputError(
            "a tuning is one process, and torchrun has started several, which would be in each other's way; start it "
            "without torchrun."
        )
    resuming = resume and (folder / SETTINGS_FILE).exists()
    if not resuming:
        check_free(folder)
    if request.training.epochs is not None:
        raise ConfigError(
            f"epochs is {request.training.epochs}, and a tuning counts in steps, which rungs can divide; give steps."
        )
    train, held = read_data(request, reporter)  # once for all: a trial's own seed would split them otherwise
    asked = {name for name, option in VALUES.items() if getattr(options, option) is not None}
    request = with_penalty(request, asked, train.form)
    steps = request.training.steps or STEPS
    metric = _metric(request, options, held)
    space = space_of(request, options, train)
    drawn = draw(space, options.trials, request.training.seed)
    rungs = rungs_of(options, len(drawn), steps)
    settings = settings_of(request, options, train, held)
    if resuming:
        check_same(settings, read_toml(folder / SETTINGS_FILE), folder)
    files.write_text(folder / SETTINGS_FILE, tomli_w.dumps(settings))
    trainer = Trainer(request, train, held, metric, folder, reporter)
    with _removed_if_nothing_began(folder, resuming):
        return _Search(trainer, options, space, drawn, rungs, reporter).run()


class _Search:
    """The rungs one after another, the final, and the files that say what was found."""

    def __init__(
        self, trainer: Trainer, options: TuningOptions, space: Space, drawn: list[Settings], rungs: Sequence[Rung],
        reporter: Reporter,
    ) -> None:  # fmt: skip
        self.trainer, self.options, self.space, self.drawn = trainer, options, space, drawn
        self.rungs, self.reporter = rungs, reporter
        self.seed = trainer.request.training.seed

    def run(self) -> Tuning:
        self._say_what()
        climbed, last = self._climb()
        finalists = finalists_of(self._final(last), self.trainer.metric)
        return self._written(climbed, finalists)

    def _say_what(self) -> None:
        tried = "; ".join(f"{name} {', '.join(map(shown, values))}" for name, values in self.space.items())
        self.reporter.say(f"to try: {tried}")
        combinations = math.prod(map(len, self.space.values()))
        plan = ", then ".join(f"{rung.trials} for {rung.steps:,}" for rung in self.rungs)
        finalists, last = self.options.finalists, self.rungs[-1].trials
        if finalists > last:
            self.reporter.warn(f"finalists is {finalists}, and there are {plural(last, 'trial')}, so all are finalists")
        final = min(finalists, last) * (self.options.seeds - 1)
        total = sum(rung.trials * rung.steps for rung in self.rungs) + final * self.rungs[-1].steps
        self.reporter.say(
            f"{len(self.drawn)} of {combinations:,} combinations; trained are {plan} steps, then {final} more for "
            f"{self.rungs[-1].steps:,} with further seeds: {total:,} steps in all, at most"
        )

    def _climb(self) -> tuple[tuple[tuple[Trial, ...], ...], list[Trial]]:
        """The trials of each rung, and those of the last that are left, the best first."""
        climbed: list[tuple[Trial, ...]] = []
        left = list(range(1, len(self.drawn) + 1))
        best: list[Trial] = []
        for place, rung in enumerate(self.rungs):
            numbers = sorted(left[: rung.trials])
            title = f"rung {place + 1} of {len(self.rungs)}, {rung.steps:,} steps"
            trials = self._train(title, [(number, self.seed) for number in numbers], rung.steps)
            best = ranked(trials, self.trainer.metric)
            climbed.append(tuple(trials))
            self._say_rung(title, trials, best)
            kept = self.rungs[place + 1].trials if place + 1 < len(self.rungs) else self.options.finalists
            self._warn_of_ties(best, kept)
            left = [trial.number for trial in best]
            if rung is not self.rungs[-1]:
                for trial in trials:
                    self.trainer.forget_weights(trial)
        return tuple(climbed), best

    def _say_rung(self, title: str, trials: Sequence[Trial], best: Sequence[Trial]) -> None:
        if not best:
            reasons = "; ".join(dict.fromkeys(trial.failure for trial in trials if trial.failure))
            raise TrainingError(
                f"every trial failed: {reasons} ({self.trainer.folder / 'trials'} holds their histories)"
            )
        failed = f"; {len(trials) - len(best)} failed" if len(best) < len(trials) else ""
        self.reporter.say(
            f"{title}: best {self.trainer.metric} {best[0].value:.3f} (trial {best[0].number}: "
            f"{listed(best[0].settings)}), worst {best[-1].value:.3f}{failed}"
        )

    def _warn_of_ties(self, best: Sequence[Trial], kept: int) -> None:
        """Say where it is not the figures that decide who goes on."""
        if kept < len(best) and best[kept - 1].value == best[kept].value:
            equal = sum(trial.value == best[kept].value for trial in best)
            self.reporter.warn(
                f"{equal} trials have the same {self.trainer.metric}, {best[kept].value:.3f}, so that the order they "
                f"were drawn in decides which of them go on. Give validation data that is harder, or another metric"
            )

    def _final(self, last: Sequence[Trial]) -> list[list[Trial]]:
        """For each finalist its runs, one a seed; that of the tuning's own seed is there already."""
        chosen = last[: self.options.finalists]
        seeds = [(self.seed + further) % 2**63 for further in range(1, self.options.seeds)]
        wanted = [(trial.number, seed) for trial in chosen for seed in seeds]
        further = self._train("further seeds", wanted, self.rungs[-1].steps) if wanted else []
        return [[trial, *(run for run in further if run.number == trial.number)] for trial in chosen]

    def _train(self, title: str, wanted: Sequence[tuple[int, int]], steps: int) -> list[Trial]:
        """Train trials, given by number and seed, one after another."""
        trials: list[Trial] = []
        with self.reporter.progress(title) as advance:
            for number, seed in wanted:
                note = _noted(advance, len(trials), len(wanted))
                trials.append(self.trainer.run(number, self.drawn[number - 1], steps, seed, note))
            advance(len(wanted), len(wanted))
        return trials

    def _written(self, climbed: tuple[tuple[Trial, ...], ...], finalists: tuple[Finalist, ...]) -> Tuning:
        trainer, folder = self.trainer, self.trainer.folder
        config = read_config(folder / finalists[0].runs[0].run / "config.toml")
        wanted = trainer.request.training.on_collapse
        best = dataclasses.replace(config, training=dataclasses.replace(config.training, on_collapse=wanted))
        found = Tuning(
            path=folder, metric=trainer.metric, validation=trainer.held.count(), space=self.space, rungs=climbed,
            finalists=finalists, effects=effects_of(climbed[0], self.space, trainer.metric),
            verdict=verdict_of(finalists), best=best,
        )  # fmt: skip
        files.write_text(folder / BEST_FILE, best.to_toml())
        files.write_json(folder / RESULT_FILE, found.to_json())
        return found


def _known_options() -> list[str]:
    """What can be given by name alone."""
    of_training = [name for group in option_groups().values() for name in field_names(group)]
    return [*field_names(TuningOptions), *of_training]


def _resumed(request: Request, source: Any) -> Request:
    return request if source is None else dataclasses.replace(request, source=source)


@contextlib.contextmanager
def _removed_if_nothing_began(folder: Path, resuming: bool) -> Iterator[None]:
    """Remove what was written if an error ends the tuning before its first trial began."""
    try:
        yield
    except Exception:
        if not resuming and not any(folder.glob("trials/*/*/config.toml")):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _metric(request: Request, options: TuningOptions, held: Records) -> str:
    """What trials are ranked by.

    Raises:
        ConfigError: validation data of this form does not tell it.
    """
    selection = request.training.selection
    usual = SELECTIONS[held.form][0] if selection in (None, "loss") else str(selection)
    metric, known = options.metric or usual, SELECTIONS[held.form]
    if metric not in known:
        raise ConfigError(
            f"metric is {metric!r}, and the validation data ({held.count()}) tells {', '.join(known)}; choose one of "
            "these."
        )
    return metric


def _noted(advance: Advance, done: int, total: int) -> Callable[..., None]:
    """Shows a note beside what of the rung is done."""
    return lambda note="": advance(done, total, note)
