"""What a tuning found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.training.assessment.selection import LARGER_IS_BETTER
from tercet.training.config import Config
from tercet.training.tuning.comparison import Effect, Finalist, ranked
from tercet.training.tuning.space import Space
from tercet.training.tuning.trials import Trial

OPTIMISTIC = "these figures chose the settings, so they are optimistic: measure the run on data that had no part in it"


@dataclass(frozen=True)
class Tuning:
    """What was tried, what came of it, and the best settings.

    Attributes:
        path: the folder.
        metric: the figure of the validation data by which trials were ranked.
        validation: what that data is.
        space: the values that were tried of each setting.
        rungs: the trials of each rung, in the order they were drawn.
        finalists: the best of the last rung over seeds, the best first.
        effects: by setting, what each value came to in the first rung.
        verdict: whether the best can be told from the runner-up, in a sentence.
        best: the configuration of the best, which `tercet.train` takes.
    """

    path: Path
    metric: str
    validation: str
    space: Space
    rungs: tuple[tuple[Trial, ...], ...]
    finalists: tuple[Finalist, ...]
    effects: dict[str, tuple[Effect, ...]]
    verdict: str
    best: Config

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every run: rung after rung, then the finalists' further seeds."""
        of_rungs = [trial for rung in self.rungs for trial in rung]
        known = {trial.run for trial in of_rungs}
        further = [run for one in self.finalists for run in one.runs if run.run not in known]
        return tuple(of_rungs + sorted(further, key=lambda run: (run.number, run.seed)))

    @property
    def distinguishable(self) -> bool:
        """Whether the seeds tell the best from the runner-up."""
        return len(self.finalists) > 1 and self.finalists[1].distinguishable

    def ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials, the best first and those that failed last."""
        return [*ranked(trials, self.metric), *(trial for trial in trials if trial.failure)]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, as tuning.json holds it."""
        return {
            "metric": self.metric,
            "larger_is_better": LARGER_IS_BETTER[self.metric],
            "validation": self.validation,
            "space": {name: list(values) for name, values in self.space.items()},
            "rungs": [{"steps": rung[0].steps, "trials": [trial.to_json() for trial in rung]} for rung in self.rungs],
            "finalists": [finalist.to_json() for finalist in self.finalists],
            "effects": {name: [dataclasses.asdict(one) for one in found] for name, found in self.effects.items()},
            "best": {"trial": self.finalists[0].number, "settings": self.finalists[0].settings},
            "distinguishable": self.distinguishable,
            "verdict": self.verdict,
            "note": OPTIMISTIC,
        }
