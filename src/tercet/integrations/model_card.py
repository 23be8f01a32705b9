"""A run's model in a folder of its own, to give away, and the card that says what a model is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tercet.errors import RunError
from tercet.training.config import Config
from tercet.training.folder import files
from tercet.training.folder.metrics import read_metrics, read_summary
from tercet.training.model import WEIGHTS_FILE, read_weights
from tercet.training.objective.loss import LOSS_FILE

KEPT = ("config.toml", WEIGHTS_FILE, LOSS_FILE, "calibration.json", "metrics.json", "classes.json", "encoder")
"""What a run needs to embed, verify and tell its figures; not its history, checkpoints or hashes of training items."""
SHOWN = ("recall_at_1", "r_precision", "map_at_r", "auc", "eer", "tar_at_far_0.01", "triplet_accuracy", "spearman")
HEADS = {
    "tercet": ["library_name: tercet", "tags: [embeddings, metric-learning, triplet-loss]"],
    "sentence-transformers": ["library_name: sentence-transformers", "pipeline_tag: sentence-similarity"],
}
"""What tells a hub of models about the folder, by the library that opens it."""
OPENED = {
    "tercet": ["import tercet", 'tercet.load("PATH OF THIS FOLDER").embed([...])'],
    "sentence-transformers": [
        "from sentence_transformers import SentenceTransformer",
        'SentenceTransformer("PATH OF THIS FOLDER").encode(["a text"])',
    ],
}
"""How that library opens it."""


def write_model_folder(run: Path, config: Config, folder: Path) -> None:
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
        files.write_text(target / "README.md", model_card(run, config, folder.name))


def model_card(run: Path, config: Config, name: str, library: str = "tercet") -> str:
    """What the model was trained on, how good it is, what it is not for, and what made it, as Markdown.

    Args:
        run: the run's folder.
        config: of the run.
        name: the card's title.
        library: which one opens the folder that the card lies in, a key of `HEADS`.
    """
    summary, metrics = read_summary(run), read_metrics(run)
    versions = [f"- {name} {version}" for name, version in summary.get("versions", {}).items()]
    return "\n".join([
        "---", *HEADS[library], "---", "", f"# {name}", "", *(f"    {line}" for line in OPENED[library]), "",
        "## Data", "", *_data(summary), "",
        "## Training", "", *_training(config, summary), "",
        "## Figures, with 95 % intervals", "", *_figures(metrics), "",
        "## Limits", "", *_limits(metrics, summary), "",
        "## Made with", "", *versions, "",
    ])  # fmt: skip


def _data(summary: dict[str, Any]) -> list[str]:
    if not summary:
        return ["- not known: the run has no summary.json"]
    skipped = len(summary.get("skipped", ()))
    lines = [f"- training: {summary['train']}", f"- validation, held out: {summary['validation']}"]
    return [*lines, f"- left out, as unreadable: {skipped}"] if skipped else lines


def _training(config: Config, summary: dict[str, Any]) -> list[str]:
    loss, distance = config.custom_loss or config.loss.loss, config.loss.distance
    lines = [f"- the {loss} loss" + (f" with the {distance} distance" if distance else "")]
    if "steps" in summary:
        lines.append(f"- {summary['steps']} steps; the weights are those of step {summary.get('best_step', '?')}")
    return lines


def _figures(metrics: dict[str, Any]) -> list[str]:
    keys = [key for key in sorted(metrics) if key.rpartition(".")[2] in SHOWN and metrics[key] is not None]
    if not keys:
        return ["None: the run was not evaluated."]
    rows = []
    for key in keys:
        ends = metrics.get(f"{key}_interval")
        data, _, metric = key.rpartition(".")
        interval = f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else "-"
        rows.append(f"| {data} | {metric} | {metrics[key]:.4f} | {interval} |")
    return ["| data | metric | value | interval |", "|---|---|---|---|", *rows]


def _limits(metrics: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    lines = [
        "- The figures hold for data like that above; measure on your own: tercet evaluate FOLDER --data DATA.",
        "- Those of the validation data are optimistic, as they chose the weights and the threshold.",
        "- If the encoder began with pretrained weights, their licence holds for this model too.",
    ]
    if not any(key.startswith("test.") for key in metrics):
        lines.append("- It was not evaluated on data that it never saw.")
    return lines + [f"- Warned of in training: {warning}" for warning in summary.get("warnings", ())]
