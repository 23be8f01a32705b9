"""tercet tune."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

from tercet.cli.console import Json, figure, parse, reporter, show, show_json
from tercet.cli.train import Train, from_config, request_of, value_of
from tercet.training.tuning.options import TuningOptions

if TYPE_CHECKING:
    from rich.table import Table

    from tercet.training.tuning.result import Tuning


WIDTH = 120  # characters of a table that goes into a file


@dataclass(frozen=True)
class Tune(Train):
    """Try margin, mining, temperature and learning rate on validation data, and say what was found, with intervals.

    Short trainings of many combinations, longer ones of the best (successive halving), and further seeds for the last
    few. What is given as a single value, such as --margin 0.2, is kept; all else is as in tercet train.

        tercet tune faces/ --out tuned/
        tercet train faces/ --config tuned/best.toml --out runs/best
    """

    out: str = tyro.MISSING
    """The folder to write; it must not exist yet, unless --resume."""

    resume: FlagCreatePairsOff[bool] = False
    """Go on with the tuning in --out: finished trials are kept, and one that is not goes on from its checkpoint."""

    json: Json = False

    tuning: OmitArgPrefixes[TuningOptions] = field(default_factory=TuningOptions)


def main(words: Sequence[str]) -> int:
    """Tune as the words say; the exit code."""
    default = _defaults(words)
    command = parse(Tune, words, default=default)
    from tercet.training.request import Request
    from tercet.training.tuning.search import tune_request
    from tercet.training.tuning.space import check_one_of_both

    request = request_of(command)
    check_one_of_both(request, Request(None) if default is None else request_of(default), command.tuning)
    found = tune_request(request, command.tuning, Path(command.out), command.resume, reporter(command.json))
    if command.json:
        show_json(found.to_json())
    else:
        _show(found, command)
    return 0


def _defaults(words: Sequence[str]) -> Tune | None:
    """The defaults that --resume or --config puts in place of Tercet's own."""
    out, named = value_of(words, "--out"), value_of(words, "--config")
    if "--resume" in words and out and (Path(out) / "settings.toml").exists():
        return _of_settings(Path(out))
    if named is not None:
        from tercet.training.config import read_partial_config

        return _tune(from_config(read_partial_config(Path(named)), out))
    return None


def _of_settings(out: Path) -> Tune:
    from tercet.training.request import check_recorded_loss
    from tercet.training.tuning.identity import read_settings

    stored = read_settings(out)
    assert stored is not None
    request, options = stored
    check_recorded_loss(request.recorded_loss)
    groups: dict[str, Any] = {
        entry.name: value
        for entry in dataclasses.fields(Train)
        if dataclasses.is_dataclass(value := getattr(request, entry.name, None))
    }
    encoders: dict[str, Any] = {kind: value for kind, value in request.encoders.items() if kind != "custom"}
    return Tune(source=request.source, out=str(out), tuning=options, **groups, **encoders)


def _tune(train: Train) -> Tune:
    """The tuning with the values of a training."""
    return Tune(**{entry.name: getattr(train, entry.name) for entry in dataclasses.fields(Train)})


def _show(found: Tuning, command: Tune) -> None:
    """The tables, the verdict, and what to do next."""
    from rich.console import Console

    from tercet.training.tuning.result import OPTIMISTIC

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    for table in (*_rungs(found), *_effects(found), _finalists(found)):
        console.print(table)
    best = found.path / "best.toml"
    show(f"{found.verdict}.\n{OPTIMISTIC}.")
    show(f"best    {best}")
    show(f"next    {shlex.join(['tercet', 'train', command.source, '--config', str(best), '--out', 'runs/best'])}")


def _rungs(found: Tuning) -> list[Table]:
    """For each rung its trials, the best first, and those that failed with the reason."""
    tables = []
    for place, trials in enumerate(found.rungs):
        table = _table(f"rung {place + 1} of {len(found.rungs)}: {len(trials)} trials of {trials[0].steps:,} steps")
        for heading in ("trial", *found.space, f"{found.metric} [95 %]"):
            table.add_column(heading)
        for trial in found.ranked(trials):
            outcome = f"failed: {trial.failure}" if trial.failure else figure(trial.value, trial.interval)
            table.add_row(str(trial.number), *_settings(trial.settings), outcome)
        tables.append(table)
    return tables


def _effects(found: Tuning) -> list[Table]:
    """For each setting, what its values came to."""
    tables = []
    for name, effects in found.effects.items():
        table = _table(f"{name}, in the first rung")
        for heading in (name, "trials", "failed", f"mean {found.metric}", "best"):
            table.add_column(heading)
        for one in effects:
            cells = (str(one.trials), str(one.failed), figure(one.mean), figure(one.best))
            table.add_row(*_settings({name: one.value}), *cells)
        tables.append(table)
    return tables


def _finalists(found: Tuning) -> Table:
    """The finalists over seeds."""
    table = _table("finalists, over seeds")
    seeds = [run.seed for run in found.finalists[0].runs]
    headings = [f"seed {seed}" for seed in seeds]
    for heading in ("trial", *found.space, *headings, f"mean {found.metric} [95 %]", "behind the best by"):
        table.add_column(heading)
    for one in found.finalists:
        values = [figure(run.value) if run.failure is None else "failed" for run in one.runs]
        behind = figure(one.difference, one.difference_interval)
        table.add_row(str(one.number), *_settings(one.settings), *values, figure(one.mean, one.interval), behind)
    return table


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, header_style="")


def _settings(settings: dict[str, Any]) -> list[str]:
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in settings.values()]
