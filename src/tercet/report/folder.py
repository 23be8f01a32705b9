"""What a run folder holds for its report. Every file but config.toml may be absent."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercet.errors import RunError
from tercet.training.assessment.map import FOLDER as MAPS
from tercet.training.folder.copies import COPIES_FILE
from tercet.training.folder.metrics import CLASSES_FILE
from tercet.training.health.regions import TRIPLETS_FILE

BEFORE = {"test": "baseline"}  # the evaluation of the raw inputs that belongs to one; otherwise NAME-baseline


@dataclass(frozen=True)
class RunFolder:
    """The contents, as read.

    Attributes:
        config_text: config.toml as it stands.
        metrics: flat keys such as "test.eer" and "test.eer_interval".
        history: rows of history.jsonl in order of their steps.
        evaluations: evaluations/NAME.json by name.
        summary: free facts, see `tercet.training`.
        class_sizes: how many items of each class it was trained on.
        copies: among the data it was trained on, see `tercet.training.folder.copies`.
        triplets: some of a batch, see `tercet.training.health.regions`.
        maps: by the name of an evaluation, see `tercet.training.assessment.map`.
        absent: sentences about files that are not there or not whole.
    """

    path: Path
    config_text: str
    metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    class_sizes: dict[str, int] = field(default_factory=dict)
    copies: dict[str, Any] = field(default_factory=dict)
    triplets: dict[str, Any] = field(default_factory=dict)
    maps: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)

    @property
    def main(self) -> str | None:
        """The evaluation that the report is about: test, else another one, else validation."""
        names = [name for name in self.evaluations if not name.endswith("baseline")]
        others = [name for name in names if name not in ("test", "validation")]
        return next((name for name in ("test", *others, "validation") if name in names), None)

    @property
    def before(self) -> dict[str, str]:
        """By the name of an evaluation, that of the one of the raw inputs."""
        pairs = {name: BEFORE.get(name, f"{name}-baseline") for name in self.evaluations}
        return {name: raw for name, raw in pairs.items() if raw in self.evaluations}

    def figure(self, name: str, metric: str) -> Any:
        """A metric of an evaluation: as metrics.json has it, else as the evaluation has it, else None."""
        if f"{name}.{metric}" in self.metrics:
            return self.metrics[f"{name}.{metric}"]
        return self.outcome(name).get("metrics", {}).get(metric)

    def interval(self, name: str, metric: str) -> list[float] | None:
        """The 95 % interval of a metric, if there is one."""
        found = self.metrics.get(f"{name}.{metric}_interval")
        return found or self.outcome(name).get("intervals", {}).get(metric)

    def outcome(self, name: str | None) -> dict[str, Any]:
        """What `Evaluation.to_json` gave for an evaluation; empty if there is none of that name."""
        return self.evaluations.get(name or "", {}).get("evaluation", {})


def read_folder(folder: str | Path) -> RunFolder:
    """Read a run folder.

    Raises:
        RunError: there is no config.toml, or a file cannot be read as what it should be.
    """
    path = Path(folder)
    config = path / "config.toml"
    if not config.is_file():
        raise RunError(
            f"{path} is not a run folder: it holds no config.toml. Give the folder that was made by "
            "tercet train SOURCE --out FOLDER."
        )
    absent: list[str] = []
    return RunFolder(
        path=path,
        config_text=_config_text(config),
        metrics=_json(path / "metrics.json", absent, "figures"),
        history=_history(path / "history.jsonl", absent),
        evaluations=_evaluations(path / "evaluations", absent),
        summary=_json(path / "summary.json", absent, "what was trained on what"),
        class_sizes=_own(path / CLASSES_FILE),
        copies=_own(path / COPIES_FILE),
        triplets=_own(path / TRIPLETS_FILE),
        maps={file.stem: _json(file, None) for file in sorted((path / MAPS).glob("*.json"))},
        absent=absent,
    )


def _config_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
        raise RunError(f"{path} cannot be read: {cause}.") from None
    return text


def _json(path: Path, absent: list[str] | None, holds: str = "") -> dict[str, Any]:
    if not path.is_file() and absent is not None:
        absent.append(f"There is no {path.name}: {holds} may be missing below.")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise RunError(f"{path} cannot be read: {cause}.") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} should hold a JSON object; it holds a {type(content).__name__}.")
    return content


def _own(path: Path) -> dict[str, Any]:
    """The contents of a file that earlier versions did not write, and whose absence is no loss worth a word."""
    return _json(path, None) if path.is_file() else {}


def _evaluations(path: Path, absent: list[str]) -> dict[str, dict[str, Any]]:
    found = {file.stem: _json(file, None) for file in sorted(path.glob("*.json"))}
    if not found:
        absent.append("There are no evaluations: distances, ROC and hardest pairs are left out.")
    return found


def _history(path: Path, absent: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        absent.append("There is no history.jsonl: the curves of training are left out.")
        return []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({"step": int(row["step"]), **row})
        except (ValueError, KeyError, TypeError):
            absent.append(f"Line {number} of history.jsonl cannot be read and is left out.")
    return sorted(rows, key=lambda row: row["step"])
