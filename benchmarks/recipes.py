"""The default of `tercet train` beside losses of pytorch-metric-learning, on icons and on faces of people never seen.

    python benchmarks/recipes.py icons/ --results recipes.jsonl

`icons/` is that of benchmarks/claims.py, which see; faces are those of the demo (tercet[demo]). All have the same small
network, batches, number of steps and learning rate, so that wall-clock times differ by the loss alone. The margin or
temperature of each rival is the one of three with the best MAP@R on the validation classes with seed 0; Tercet's is its
default. Then three seeds on the test classes, and paired differences by seed. A result is a line of the file; what is
there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_metric_learning.losses as pml
from pytorch_metric_learning.miners import BatchHardMiner
from torch import Tensor, nn

import tercet
from claims import Icons, half_width, read
from tercet.data.faces import export_faces
from tercet.encoders.options import ImageOptions

OURS = "tercet train"
TRAIN_CLASSES, VALIDATION_CLASSES = 500, 100  # of icons
SIZE = 32  # of their pictures


class Hardest(nn.Module):
    """Their triplet loss on the hardest of each anchor."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.loss, self.miner = pml.TripletMarginLoss(margin=margin), BatchHardMiner()

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of what was mined."""
        return self.loss(embeddings, labels, self.miner(embeddings, labels))


RIVALS: dict[str, tuple[tuple[float, ...], Callable[[float], nn.Module]]] = {
    "contrastive": ((0.5, 0.7, 0.9), lambda margin: pml.ContrastiveLoss(pos_margin=0, neg_margin=margin)),
    "SupCon": ((0.05, 0.1, 0.2), lambda temperature: pml.SupConLoss(temperature=temperature)),
    "batch hard": ((0.05, 0.1, 0.2), Hardest),
    "all triplets": ((0.05, 0.1, 0.2), lambda margin: pml.TripletMarginLoss(margin=margin)),
}


class Task:
    """A data set, its network and its length of training."""

    def __init__(self, name: str, given: argparse.Namespace, folder: Path) -> None:
        self.name, self.folder = name, folder / name
        self.train: Any
        self.validation: Any
        if name == "icons":
            self.icons = Icons(given.icons, SIZE, TRAIN_CLASSES, VALIDATION_CLASSES)
            self.train, self.validation = self.icons.labelled("train"), self.icons.labelled("validation")
            self.network, self.steps = ImageOptions(size=(SIZE, SIZE)), given.steps
        else:
            export_faces(self.folder)
            self.train, self.validation = (str(self.folder / part) for part in ("train", "validation"))
            self.network, self.steps = ImageOptions(size=(56, 46)), given.steps

    def measure(self, loss: nn.Module | None, seed: int, part: str) -> dict[str, float]:
        """MAP@R on a part of a run with this loss, and the seconds that it took to train."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as out:
            run = tercet.train(
                self.train, validation=self.validation, kind="image", out=f"{out}/run",
                encoder=self.network, steps=self.steps, evaluate_every=self.steps, seed=seed, loss=loss, progress=False,
            )  # fmt: skip
            seconds = time.monotonic() - started
            if self.name == "icons":
                return {**self.icons.figures(run, part), "seconds": round(seconds)}
            found = run.evaluate(str(self.folder / part), baseline=False).metrics
            return {"map_at_r": float(found["map_at_r"] or 0), "seconds": round(seconds)}


def known(results: Path, **asked: Any) -> dict[str, Any] | None:
    """The line of the results that says this."""
    return next((one for one in read(results) if asked.items() <= one.items()), None)


def result(task: Task, method: str, value: float | None, seed: int, part: str, results: Path) -> dict[str, Any]:
    """What a method gives, from the results or measured and added to them."""
    asked = {"task": task.name, "method": method, "value": value, "seed": seed, "part": part, "steps": task.steps}
    found = known(results, **asked)
    if found is None:
        loss = None if method == OURS or value is None else RIVALS[method][1](value)
        found = asked | task.measure(loss, seed, part)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print(found, flush=True)
    return found


def compare(task: Task, given: argparse.Namespace) -> None:
    """Choose each rival's value on validation classes, then measure all on the test classes, seed by seed."""
    chosen: dict[str, float | None] = {OURS: None}
    for method, (values, _) in RIVALS.items():
        scores = {one: result(task, method, one, 0, "validation", given.results)["map_at_r"] for one in values}
        chosen[method] = max(scores, key=lambda one: scores[one])
    found = {
        method: [result(task, method, value, seed, "test", given.results) for seed in given.seeds]
        for method, value in chosen.items()
    }
    print(f"\n{task.name}, {task.steps} steps\n\n| | MAP@R | Tercet's less this | seconds |\n|---|---|---|---|")
    for method, runs in found.items():
        gaps = [ours["map_at_r"] - one["map_at_r"] for ours, one in zip(found[OURS], runs, strict=True)]
        gap = "" if method == OURS else f"{statistics.mean(gaps):+.3f} ± {half_width(gaps):.3f}"
        value = "" if chosen[method] is None else f", {chosen[method]}"
        print(f"| {method}{value} | {statistics.mean(one['map_at_r'] for one in runs):.3f} | {gap} | "
              f"{statistics.mean(one['seconds'] for one in runs):.0f} |")  # fmt: skip


def main() -> None:
    """Compare on each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icons", type=Path)
    parser.add_argument("--results", type=Path, default=Path("recipes.jsonl"))
    parser.add_argument("--tasks", nargs="+", choices=("icons", "faces"), default=("icons", "faces"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for task in given.tasks:
            compare(Task(task, given, Path(name)), given)


if __name__ == "__main__":
    main()
