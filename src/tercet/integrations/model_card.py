"""A run's model in a folder of its own, to give away: weights, what rebuilds it, and a card that says what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tercet.errors import RunError
from tercet.training.folder import files
from tercet.training.folder.metrics import read_metrics
from tercet.training.model import WEIGHTS_FILE, read_weights
from tercet.training.objective.loss import LOSS_FILE

KEPT = ("config.toml", WEIGHTS_FILE, LOSS_FILE, "calibration.json", "metrics.json", "classes.json", "encoder")
"""What a run needs to embed, verify and tell its figures; not its history, checkpoints or hashes of training items."""
SHOWN = ("recall_at_1", "r_precision", "map_at_r", "auc", "eer", "tar_at_far_0.01", "triplet_accuracy")


def write_model_folder(run: Path, folder: Path) -> None:
    """Write the model to a folder that `tercet.load` opens, with README.md, a model card.

    Raises:
        RunError: the folder exists, or the run has no weights.
    """
    if folder.exists():
        raise RunError(f"{folder} exists already; choose another name, or remove it first.")
    read_weights(run)
    with files.new_folder(folder) as target:
        for name in KEPT:
            source = run / name
            if source.is_dir():
                shutil.copytree(source, target / name)
            elif source.exists():
                shutil.copyfile(source, target / name)
        (target / "README.md").write_text(model_card(run), encoding="utf-8")


def model_card(run: Path) -> str:
    """What the model was trained on, how good it is, what it is not for, and what made it, as Markdown."""
    path = run / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return "\n".join([
        "---", "library_name: tercet", "tags: [embeddings, metric-learning, triplet-loss]", "---", "",
        f"# {summary.get('title', 'An embedding')}", "",
        "    import tercet", "    tercet.load(\"this folder\").embed([...])", "",
        "## Data", "", *_data(summary),
        "", "## Figures, with 95 % intervals", "", *_figures(read_metrics(run)),
        "", "## Limits", "", *_limits(run, summary),
        "", "## Made with", "", *(f"- {name} {version}" for name, version in summary.get("versions", {}).items()), "",
    ])  # fmt: skip


def _data(summary: dict[str, Any]) -> list[str]:
    if not summary:
        return ["- not known: the run has no summary.json"]
    skipped = len(summary.get("skipped", ()))
    lines = [f"- training: {summary['train']}", f"- validation, held out: {summary['validation']}"]
    return [*lines, f"- left out, as unreadable: {skipped}"] if skipped else lines


def _figures(metrics: dict[str, Any]) -> list[str]:
    keys = [key for key in sorted(metrics) if key.rpartition(".")[2] in SHOWN and metrics[key] is not None]
    if not keys:
        return ["None: the run was not evaluated."]
    rows = []
    for key in keys:
        ends = metrics.get(f"{key}_interval")
        data, _, metric = key.rpartition(".")
        rows.append(
            f"| {data} | {metric} | {metrics[key]:.3f} | {f'{ends[0]:.3f} to {ends[1]:.3f}' if ends else '-'} |"
        )
    return ["| data | metric | value | interval |", "|---|---|---|---|", *rows]


def _limits(run: Path, summary: dict[str, Any]) -> list[str]:
    lines = [
        "- The figures hold for data like that above; measure on your own: tercet evaluate FOLDER --data DATA.",
        "- Those of the validation data are optimistic, as they chose the weights and the threshold.",
    ]
    if not any(key.startswith("test.") for key in read_metrics(run)):
        lines.append("- It was not evaluated on data that it never saw.")
    return lines + [f"- Warned of in training: {warning}" for warning in summary.get("warnings", ())]
