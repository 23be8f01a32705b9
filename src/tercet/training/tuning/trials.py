"""One trial: a run of its own in the tuning's folder, and what came of it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.data.records import Records
from tercet.errors import DataError, InputError, TrainingError
from tercet.training.folder import files
from tercet.training.folder.metrics import read_metrics
from tercet.training.loop import Outcome
from tercet.training.reporter import Advance, Reporter
from tercet.training.request import Request
from tercet.training.session import run_session
from tercet.training.tuning.options import VALUES
from tercet.training.tuning.space import Settings, applied

WEIGHTS = ("model.safetensors", "loss.safetensors")


@dataclass(frozen=True)
class Trial:
    """A run with one value for each setting, and its figure on the validation data.

    Attributes:
        number: which trial it is, from 1, in the order they were drawn.
        settings: what was tried.
        steps: for how many steps it was trained.
        seed: of the run.
        value: the metric on the validation data; None if the trial failed.
        interval: of the value, 95 %, over the validation data's classes; None where there is none.
        failure: why it failed, if it did.
        run: its run folder, within the tuning's.
    """

    number: int
    settings: Settings
    steps: int
    seed: int
    value: float | None
    interval: tuple[float, float] | None
    failure: str | None
    run: str

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return dataclasses.asdict(self) | {"interval": None if self.interval is None else list(self.interval)}


class TrialReporter(Reporter):
    """Lets through what a trial says of the data, once, and shows the rest as a note beside the tuning's progress.

    Before config.toml is there a run has looked at settings and data alone. Later warnings are those of one trial among
    many, of which some must do badly; its summary.json has them.
    """

    def __init__(self, outer: Reporter, folder: Path, said: set[str], advance: Advance, name: str) -> None:
        super().__init__()
        self.outer, self.folder, self.said, self.advance, self.name = outer, folder, said, advance, name

    def warn(self, sentence: str) -> None:
        """Keep the sentence; pass it on if it is of the data and new."""
        self.warnings.append(sentence)
        if sentence not in self.said and not (self.folder / "config.toml").exists():
            self.said.add(sentence)
            self.outer.warn(sentence)

    @contextlib.contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        """The title and its figures, as a note."""
        yield lambda done, total, note="": self.advance(f"{self.name}: {title} {done}/{total}  {note}".rstrip())


class Trainer:
    """Trains trials on the same data, each once: what is finished is read again, what is not goes on.

    Args:
        request: what the user asks for, but for the settings that are tried.
        train: what to train on.
        held: what every trial is measured on, whatever its seed.
        metric: the figure of the validation data that trials are ranked by.
        folder: the tuning.
        reporter: told what a trial says of the data.
    """

    def __init__(
        self, request: Request, train: Records, held: Records, metric: str, folder: Path, reporter: Reporter
    ) -> None:
        self.request, self.metric, self.folder, self.reporter = request, metric, folder, reporter
        self.train, self.held = train, held
        self.said: set[str] = set()

    def run(self, number: int, settings: Settings, steps: int, seed: int, advance: Advance) -> Trial:
        """The trial, trained or read.

        Raises:
            KeyboardInterrupt: a stop was asked for; the trial goes on from its last checkpoint another time.
            TercetError: what is no matter of the settings that are tried, such as a full disk or unfit data.
        """
        folder = self.folder / "trials" / f"{number:02d}" / f"steps-{steps}-seed-{seed}"
        record = folder.with_name(folder.name + ".json")
        if not record.exists():
            reporter = TrialReporter(self.reporter, folder, self.said, advance, f"trial {number}")
            failure = self._trained(settings, steps, seed, folder, reporter)
            value, interval = (None, None) if failure else self._figure(folder)
            name = folder.relative_to(self.folder).as_posix()
            trial = Trial(number, settings, steps, seed, value, interval, failure, name)
            files.write_json(record, trial.to_json())
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a trial that needs no going on
        return _read_trial(record)

    def forget_weights(self, trial: Trial) -> None:
        """Remove the weights of a trial that is not among the last; what it measured stays."""
        for name in WEIGHTS:
            (self.folder / trial.run / name).unlink(missing_ok=True)

    def _trained(self, settings: Settings, steps: int, seed: int, folder: Path, reporter: Reporter) -> str | None:
        """Train in the folder, going on with what is there; why it failed, if it did."""
        config = folder / "config.toml"
        if not config.exists():  # killed before there was anything to go on with
            shutil.rmtree(folder, ignore_errors=True)
        try:
            outcome = run_session(self._request(settings, steps, seed), folder, True, reporter)
        except (TrainingError, InputError) as cause:  # InputError: of embeddings that are no numbers any more
            if not config.exists():
                raise  # of the data or of settings that all trials share: no trial would fare better
            return str(cause)
        return _failure(outcome)

    def _request(self, settings: Settings, steps: int, seed: int) -> Request:
        """The request of one trial; modules are copied, since training changes them in place."""
        request = applied(self.request, settings)
        training = request.training
        watched: Any = "stop" if training.on_collapse == "warn" else training.on_collapse
        return dataclasses.replace(
            request,
            source=self.train, validation=self.held,
            training=dataclasses.replace(training, steps=steps, seed=seed, on_collapse=watched),
            module=copy.deepcopy(request.module), custom_loss=copy.deepcopy(request.custom_loss),
        )  # fmt: skip

    def _figure(self, folder: Path) -> tuple[float, tuple[float, float] | None]:
        metrics = read_metrics(folder)
        value, ends = metrics.get(f"validation.{self.metric}"), metrics.get(f"validation.{self.metric}_interval")
        if value is None or not math.isfinite(value):
            raise DataError(
                f"the validation data ({self.held.count()}) has no {self.metric}: it takes items that are alike, and "
                "others that are not. Give other validation data, or hold out more."
            )
        return float(value), None if ends is None else (ends[0], ends[1])


def _failure(outcome: Outcome) -> str | None:
    """Why a training that ended is no use; None of one that is."""
    if outcome.reason == "interrupted":
        raise KeyboardInterrupt
    return outcome.reason if outcome.reason.startswith("stopped: ") else None


def _read_trial(record: Path) -> Trial:
    content = json.loads(record.read_text(encoding="utf-8"))
    interval, settings = content.pop("interval"), content.pop("settings")
    first = [name for name in VALUES if name in settings]  # JSON is written in order of the names
    ordered = {name: settings[name] for name in dict.fromkeys((*first, *settings))}
    return Trial(**content, settings=ordered, interval=None if interval is None else (interval[0], interval[1]))
