"""metrics.json and evaluations/: what was measured of a run, by the name of the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tercet.data.records import Records
from tercet.training.assessment.assessment import Assessment
from tercet.training.assessment.map import remove_map
from tercet.training.folder import files

CLASSES_FILE = "classes.json"  # in a run, how many items of each class it was trained on
NAME_OF_CALIBRATION = "calibration"  # of the figures of a threshold that was calibrated after training


def read_class_sizes(folder: Path) -> dict[str, int]:
    """How many items of each class a run was trained on; nothing for data without labels, or where it is not known."""
    path = folder / CLASSES_FILE
    return files.read_json(path) if path.exists() else {}


def read_metrics(folder: Path) -> dict[str, Any]:
    """The contents of metrics.json; empty before the first evaluation."""
    path = folder / "metrics.json"
    return files.read_json(path) if path.exists() else {}


def read_summary(folder: Path) -> dict[str, Any]:
    """What was trained on what; empty of a run whose training has not ended."""
    path = folder / "summary.json"
    return files.read_json(path) if path.exists() else {}


def write_assessment(folder: Path, name: str, assessment: Assessment, records: Records, duplicates: int) -> None:
    """Write evaluations/`name`.json with its map, and its figures into metrics.json as `name`.<metric>."""
    if assessment.map is None:
        remove_map(folder, name)
    else:
        assessment.map.write(folder, name)
    skipped = [{"name": one.name, "reason": one.reason} for one in records.skipped]
    files.write_json(folder / "evaluations" / f"{name}.json", assessment.to_json(name, duplicates, skipped))
    evaluation = assessment.evaluation
    figures: dict[str, Any] = {f"{name}.{metric}": value for metric, value in evaluation.metrics.items()}
    figures |= {f"{name}.{metric}_interval": list(ends) for metric, ends in evaluation.intervals.items() if ends}
    files.write_json(folder / "metrics.json", _metrics_but(folder, name) | figures)


def replace_figures(folder: Path, name: str, figures: dict[str, Any]) -> None:
    """Put figures into metrics.json as `name`.<metric>, in the place of all that were there by this name."""
    after = _metrics_but(folder, name) | {f"{name}.{metric}": value for metric, value in figures.items()}
    if after != read_metrics(folder):
        files.write_json(folder / "metrics.json", after)


def remove_assessment(folder: Path, name: str) -> None:
    """Remove an evaluation and its figures, if there is one."""
    (folder / "evaluations" / f"{name}.json").unlink(missing_ok=True)
    remove_map(folder, name)
    replace_figures(folder, name, {})


def drop_evaluations(folder: Path) -> None:
    """Remove what was measured with other weights."""
    for path in (folder / "evaluations").glob("*.json"):
        remove_assessment(folder, path.stem)


def _metrics_but(folder: Path, name: str) -> dict[str, Any]:
    """The run's figures without those of one evaluation."""
    return {key: value for key, value in read_metrics(folder).items() if not key.startswith(f"{name}.")}
