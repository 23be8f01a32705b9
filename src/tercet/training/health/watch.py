"""The doctor at the bedside: looks at a training's history every so often, and does what `on_collapse` says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tercet.doctor import Case, Diagnosis, Finding, diagnose
from tercet.doctor.illnesses import PointCollapse
from tercet.errors import RunError
from tercet.training.config import Config, read_partial_config
from tercet.training.folder.history import read_history
from tercet.training.objective.loss import LOSS_FILE, make_distance
from tercet.training.objective.loss_state import START_FILE, read_state
from tercet.training.reporter import Reporter

LOOKS = 50
"""How often a run is looked at, at most: a diagnosis then costs little beside the steps between two of them."""
RATE_FACTOR = 0.1
"""What the learning rate of a collapsed run is multiplied by: users report a tenth. That alone does not bring one back
(docs/doctor.md has figures): by then the norms before normalisation have grown, and steps do even less."""
MILDER = {"hard": "semihard"}
"""The hardest negatives bring collapse, and the semi-hard avoid it (Schroff et al. 2015, section 3.2)."""
MANY = 1 << 20  # dimensions, where an encoder of the user's own does not say: the range then is no smaller
MOST_REMEDIES = 3
"""After so many remedies in vain another one is no help."""


class Watch:
    """What the doctor has said of a training and done for it, and when to look again.

    Args:
        case: the run.
        on_collapse: "warn", "stop" or "remedy".
        reporter: warned once of each illness.
        notes: kept in the checkpoint; what they tell is said again on resume, so that the report holds it too.
    """

    def __init__(self, case: Case, on_collapse: str, reporter: Reporter, notes: dict[str, Any]) -> None:
        self.case, self.on_collapse, self.reporter, self.notes = case, on_collapse, reporter, notes
        notes.setdefault("said", {})
        notes.setdefault("remedies", [])
        for sentence in notes["said"].values():
            reporter.warn(sentence)

    @property
    def remedies(self) -> list[dict[str, Any]]:
        """Those that were applied, in order."""
        return list(self.notes["remedies"])

    @property
    def stopped(self) -> str | None:
        """The illness that ended the training, if one did."""
        return self.notes.get("stopped")

    def is_due(self, step: int) -> bool:
        """Whether it is time to look."""
        return not step % math.ceil(self.case.steps / LOOKS) or step == self.case.steps

    def look(self, rows: Sequence[Mapping[str, Any]], step: int) -> dict[str, Any] | None:
        """Say what is found, once; the remedy to apply from here on, if there is one, as a row of the history."""
        if not self.is_due(step):
            return None
        remedies = self.notes["remedies"]
        since = remedies[-1]["step"] if remedies else 0
        remedy, case = None, replace(self.case, since=since, mining=mining_of(rows) or self.case.mining)
        for finding in diagnose(rows, case).findings:
            self._say(finding)
            if finding.fatal and self.on_collapse == "stop":
                self.notes.setdefault("stopped", finding.illness)
            if finding.illness == PointCollapse.name and self.on_collapse == "remedy" and len(remedies) < MOST_REMEDIES:
                remedy = self._remedy(step, finding, case.mining)
        return remedy

    def _say(self, finding: Finding) -> None:
        if finding.illness not in self.notes["said"]:
            sentence = f"{finding.sentence}. Try: {finding.remedies[0]}; more with tercet doctor"
            self.notes["said"][finding.illness] = sentence
            self.reporter.warn(sentence)

    def _remedy(self, step: int, finding: Finding, mining: str | None) -> dict[str, Any]:
        """The next remedy: the weights of the start, a lower learning rate, and milder mining where there is one."""
        remedy = {
            "step": step, "remedy_against": finding.illness, "learning_rate_factor": RATE_FACTOR,
            "mining": MILDER.get(mining or ""),
        }  # fmt: skip
        self.notes["remedies"].append(remedy)
        milder = f", and mines {remedy['mining']} triplets" if remedy["mining"] else ""
        self.reporter.say(
            f"step {step}: against {finding.illness}, training goes back to the weights of the start, goes on with "
            f"{RATE_FACTOR:g} times the learning rate{milder}"
        )
        return remedy


def mining_of(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """What was mined last, where the history tells: by a remedy, or by a schedule."""
    return next((row["mining"] for row in reversed(rows) if row.get("mining")), None)


def case_of(config: Config, steps: int, state: Mapping[str, Tensor] | None = None) -> Case:
    """What the doctor is to know of a run.

    Args:
        config: of the run.
        steps: how many it was to make.
        state: of the loss, which holds the map of a Mahalanobis distance.
    """
    loss, batch, dim = config.loss, config.batch, getattr(config.encoder, "dim", None)
    distance = make_distance(loss, state)
    labelled = config.data.form == "labels"
    return Case(
        steps=steps, loss=loss.loss, margin=loss.margin, distance=distance.name,
        largest=distance.sphere_range(dim or MANY) if config.encoder.normalize else distance.largest, dim=dim,
        batch=batch.classes_per_batch * batch.samples_per_class * batch.views if labelled else None, mining=loss.mining,
    )  # fmt: skip


def diagnose_folder(folder: Path) -> Diagnosis:
    """The diagnosis of a run folder, finished or not: it takes config.toml and history.jsonl alone.

    Raises:
        RunError: there is no such run, or no history of it.
    """
    config = read_partial_config(folder / "config.toml")  # of an earlier Tercet, perhaps, with fewer options
    if config.loss.distance is None:
        raise RunError(f"{folder / 'config.toml'} names no distance, so it is not that of a run.")
    rows = read_history(folder / "history.jsonl")
    if not rows:
        raise RunError(f"{folder} holds no history.jsonl with anything in it: no step of its training is known.")
    steps = config.training.steps or max(int(row["step"]) for row in rows)
    remedied = [row["step"] for row in rows if "remedy_against" in row]
    state = read_state(folder / LOSS_FILE) or read_state(folder / START_FILE)
    case = case_of(config, steps, state)
    return diagnose(rows, replace(case, since=max(remedied, default=0), mining=mining_of(rows) or case.mining))
