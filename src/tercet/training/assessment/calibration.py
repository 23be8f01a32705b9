"""A run's calibration: the threshold for same or different, and the probability of same, in calibration.json.

The file holds what training found on its validation data, and what was calibrated since on other data, which counts
instead until it is taken back. `metrics.json` has the latter's figures as calibration.<metric>.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.errors import InputError, RunError
from tercet.evaluation import Pairs, Probability, calibrate, fit_probability
from tercet.training.assessment.targets import parse_target, target_word
from tercet.training.folder import files
from tercet.training.folder.metrics import NAME_OF_CALIBRATION, read_metrics, replace_figures
from tercet.training.reporter import Reporter

FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """A threshold and a probability, what they were calibrated for, and on what; None of what could not be had."""

    target: str
    data: str
    threshold: float | None
    probability: Probability | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        probability = None if self.probability is None else self.probability.to_json()
        return {"target": self.target, "data": self.data, "threshold": self.threshold, "probability": probability}

    @classmethod
    def from_json(cls, content: Any, where: str) -> Calibration:
        """What `to_json` gave."""
        try:
            target, data, threshold, probability = (content[key] for key in cls.__dataclass_fields__)
        except (KeyError, TypeError):
            raise RunError(f"{where} holds no calibration that can be read.") from None
        return cls(target, data, threshold, None if probability is None else Probability.from_json(probability, where))


def calibrated(pairs: Pairs, target: str | float, data: str) -> Calibration:
    """Calibrated on these pairs; without a probability where there are too few of them.

    Raises:
        InputError: no threshold can be had; see `evaluation.calibrate`.
    """
    wanted = parse_target(target)
    threshold = calibrate(pairs, wanted)
    try:
        probability = fit_probability(pairs)
    except InputError:
        probability = None
    return Calibration(target_word(wanted), data, threshold, probability)


def calibrated_or_warned(pairs: Pairs, target: str | float, data: str, reporter: Reporter) -> Calibration:
    """The same at the end of a training, after which figures without a threshold are better than none."""
    try:
        return calibrated(pairs, target, data)
    except InputError as cause:
        reporter.warn(f"no threshold for same or different was calibrated: {cause}")
        return Calibration(target_word(parse_target(target)), data, None, None)


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration that counts; None of a run that has no threshold. Older runs have one without a probability."""
    kept = _read(folder)
    if kept:
        found = kept.get("chosen") or kept["training"]
        return found if found.threshold is not None else None
    threshold = read_metrics(folder).get("validation.threshold")
    return None if threshold is None else Calibration("eer", "validation data", float(threshold), None)


def write_calibration(folder: Path, found: Calibration) -> None:
    """Write what training calibrated; what was calibrated since, on the same weights, still counts."""
    kept = _read(folder) | {"training": found}
    files.write_json(folder / FILE, {name: one.to_json() for name, one in kept.items()})


def drop_calibration(folder: Path) -> None:
    """Remove what was calibrated with other weights."""
    (folder / FILE).unlink(missing_ok=True)
    replace_figures(folder, NAME_OF_CALIBRATION, {})


def choose_calibration(folder: Path, found: Calibration, figures: dict[str, float]) -> None:
    """Let another calibration count from now on; `figures` are those of its threshold on its own data."""
    kept = _read(folder)
    before = kept.get("training") or read_calibration(folder) or Calibration("eer", "nothing", None, None)
    files.write_json(folder / FILE, {"training": before.to_json(), "chosen": found.to_json()})
    assert found.threshold is not None
    replace_figures(folder, NAME_OF_CALIBRATION, figures | {"threshold": found.threshold})


def restore_calibration(folder: Path) -> Calibration | None:
    """Let what training calibrated count again."""
    kept = _read(folder)
    if "chosen" in kept:
        files.write_json(folder / FILE, {"training": kept["training"].to_json()})
        replace_figures(folder, NAME_OF_CALIBRATION, {})
    return read_calibration(folder)


def _read(folder: Path) -> dict[str, Calibration]:
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: content[name] for name in ("training", "chosen") if name in content}
    except (ValueError, TypeError) as cause:
        raise RunError(f"{path} cannot be read: {cause}.") from None
    if "training" not in parts:
        raise RunError(f"{path} holds no calibration that can be read.")
    return {name: Calibration.from_json(part, str(path)) for name, part in parts.items()}
