"""Curriculum against its controls, and mining schedules against fixed minings, over seeds.

    python benchmarks/curriculum.py --seeds 0 1 2 3 4 --noise 0.4 --steps 150

Digits of scikit-learn (1,797 of 8 × 8 pixels, as rows of numbers): 900 to train on, of whose labels a share is drawn
anew, and 897 with their true labels to measure on, among each other. The reference that scores is a run on the same
noisy labels with another seed. Each line: mean MAP@R over seeds, and the mean difference from the first line with its
standard error, seed by seed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

import tercet
from tercet.evaluation import retrieval
from tercet.training.batches.pacing import CurriculumOptions

MININGS = {
    "all": {},
    "semihard": {"mining": "semihard"},
    "hard": {"mining": "hard"},
    "easy, semihard, hard": {"mining_schedule": "easy-positive:0,semihard:0.3,hard:0.7"},
    "semihard, hard": {"mining_schedule": "semihard:0,hard:0.5"},
}


def measured(data: tuple, folder: Path, seed: int, steps: int, **options: object) -> tuple[tercet.Run, float]:
    """A run on the first part of the data, and its MAP@R on the second."""
    items, noisy, labels, train, test = data
    run = tercet.train(
        (items[train], [str(label) for label in noisy[train]]), out=folder, progress=False, seed=seed, steps=steps,
        validation=(items[test], [str(label) for label in labels[test]]), evaluate_every=max(1, steps // 5),
        selection="map_at_r", classes_per_batch=10, samples_per_class=6, distance="cosine", **options,
    )  # fmt: skip
    vectors = run.model.embed(items[test]).vectors
    return run, float(retrieval(vectors, labels[test], (1,), run.distance).average_precision_at_r.mean())


def curricula(reference: tercet.Run) -> dict[str, dict[str, object]]:
    """Nothing, both scorings, and the controls."""
    made: dict[str, dict[str, object]] = {"no curriculum": {}}
    for scoring in ("loss", "learned"):
        for order in ("curriculum", "anti"):
            options = CurriculumOptions(pacing="linear", order=order, scoring=scoring, reference=str(reference.path))
            made[f"{order}, {scoring}"] = {"curriculum": options}
    return made | {"random": {"curriculum": CurriculumOptions(pacing="linear", order="random")}}


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--noise", type=float, default=0.4)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--only", choices=["curriculum", "mining"], default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    items, labels = load_digits(return_X_y=True)
    items = items.astype(np.float32)
    found: dict[str, list[float]] = {}
    for seed in options.seeds:
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(items))
        noisy = np.where(generator.random(len(items)) < options.noise, generator.integers(0, 10, len(items)), labels)
        data = items, noisy, labels, order[:900], order[900:]
        with tempfile.TemporaryDirectory() as name:
            folder, runs = Path(name), {}
            if options.only != "mining":
                reference, _ = measured(data, folder / "reference", seed + 100, options.steps, record_learned=True)
                runs |= curricula(reference)
            if options.only != "curriculum":
                runs |= {f"mining {mining}": settings for mining, settings in MININGS.items()}
            for number, (run, settings) in enumerate(runs.items()):
                _, value = measured(data, folder / str(number), seed, options.steps, **settings)
                found.setdefault(run, []).append(value)
    first = np.array(next(iter(found.values())))
    for run, values in found.items():
        apart = np.array(values) - first
        error = apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else float("nan")
        print(f"{run:<30} {np.mean(values):.4f}  {apart.mean():+.4f} ± {error:.4f}")


if __name__ == "__main__":
    main()
