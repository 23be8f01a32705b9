"""A long tail against balanced data of the same size, and what sampling by class does about it.

    python benchmarks/long_tail.py icons/ --seeds 0 1

The data is a folder with a subfolder for each class, such as benchmarks/icons.py makes. Two of three classes are
trained on, the largest first; of each, `--held` items are held out. The long tail gives these classes from `--largest`
down to `--smallest` items, in equal ratios; the balanced data gives every class the same number, and as many in all.
Each is trained for as many steps of batches of one size, and the last weights are taken. Measured are

* the held-out items of the classes that were trained on, among each other, so that each class is searched among equally
  many: recall@1 by thirds of the classes, which are those of the long tail's sizes for all runs alike;
* whole classes that no run saw, the third of the classes that is left.

The same classes are rare in one run and not in the other, and the same queries are asked, so differences are of
queries, and their 95 % intervals are by a bootstrap over classes. A rare class has a fraction of the items that it has
in balanced data: that it is found less often is a cost of the data; what sampling can do is to keep it small.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

import tercet
from tercet.encoders.options import ImageOptions
from tercet.evaluation import mean_intervals, retrieval
from tercet.evaluation.thirds import THIRDS, _third_of

RECIPE = {"distance": "cosine", "margin": 0.3, "penalty": "logsumexp", "temperature": 0.05, "samples_per_class": 4}
RUNS = {"balanced": "size", "long tail, size": "size", "long tail, root": "root", "long tail, class": "class"}


class Sets:
    """What is trained on and what is measured: paths by class."""

    def __init__(self, data: Path, largest: int, smallest: int, held: int, seed: int) -> None:
        found = [sorted(map(str, folder.glob("*.png"))) for folder in sorted(data.iterdir()) if folder.is_dir()]
        shuffled = [np.random.default_rng([seed, i]).permutation(paths).tolist() for i, paths in enumerate(found)]
        shuffled.sort(key=len, reverse=True)
        self.unseen = [paths for place, paths in enumerate(shuffled) if place % 3 == 2]
        known = [paths for place, paths in enumerate(shuffled) if place % 3 != 2]
        ratio = (smallest / largest) ** (1 / (len(known) - 1))
        self.sizes = np.array([round(largest * ratio**place) for place in range(len(known))])
        self.held = [paths[:held] for paths in known]
        each = round(self.sizes.sum() / len(known))
        if any(len(paths) - held < max(size, each) for paths, size in zip(known, self.sizes, strict=True)):
            raise SystemExit("a class has too few items: lower --largest or --held, or bring larger classes")
        pairs = list(zip(known, self.sizes, strict=True))
        self.long_tail = [paths[held : held + size] for paths, size in pairs]
        self.balanced = [paths[held : held + each] for paths, _ in pairs]


def flat(classes: list[list[str]]) -> tuple[list[str], list[str]]:
    """Paths and labels."""
    return [path for one in classes for path in one], [f"{c:03d}" for c, one in enumerate(classes) for _ in one]


def hits(run: tercet.Run, classes: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Whether the nearest of each item is of its class, and its class."""
    paths, labels = flat(classes)
    found = retrieval(run.embed(paths), labels, (1,), run.distance)
    return found.recall[:, 0], found.query_classes


def measure(name: str, sets: Sets, options: argparse.Namespace, seed: int, folder: Path) -> dict[str, np.ndarray]:
    """Train one run; its hits on the held-out items and on unseen classes."""
    run = tercet.train(
        flat(sets.balanced if name == "balanced" else sets.long_tail), validation=flat(sets.unseen[:5]),
        out=folder / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}", progress=False, encoder=ImageOptions(),
        steps=options.steps, evaluate_every=options.steps, classes_per_batch=options.classes_per_batch, seed=seed,
        class_sampling=RUNS[name], **RECIPE,
    )  # fmt: skip
    (held, of_held), (unseen, of_unseen) = hits(run, sets.held), hits(run, sets.unseen)
    return {"held": held, "classes": of_held, "unseen": unseen, "unseen classes": of_unseen}


def row(found: list[dict[str, np.ndarray]], base: list[dict[str, np.ndarray]], third: np.ndarray) -> list[str]:
    """Recall@1 of the thirds, of all held-out items and of unseen classes, with the difference from balanced data."""
    cells = []
    classes = found[0]["classes"]
    for part in (*range(len(THIRDS)), None, "unseen"):
        key = "unseen" if part == "unseen" else "held"
        units = found[0]["unseen classes"] if part == "unseen" else classes
        inside = third[classes] == part if isinstance(part, int) else np.ones(len(units), dtype=bool)
        own, other = (np.mean([one[key] for one in runs], axis=0)[inside] for runs in (found, base))
        cell = f"{own.mean():.3f}"
        if found is not base:
            low, high = mean_intervals({"difference": own - other}, units[inside])["difference"]
            cell += f" ({(own - other).mean():+.3f} [{low:+.3f}, {high:+.3f}])"
        cells.append(cell)
    return cells


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--classes-per-batch", type=int, default=16)
    parser.add_argument("--largest", type=int, default=100)
    parser.add_argument("--smallest", type=int, default=2)
    parser.add_argument("--held", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sets = Sets(options.data, options.largest, options.smallest, options.held, seed=0)
    third = _third_of(sets.sizes)
    print(f"trained on {len(sets.sizes)} classes, {sets.sizes.sum()} items in the long tail and "
          f"{sum(map(len, sets.balanced))} balanced; {len(sets.unseen)} classes unseen")  # fmt: skip
    for number, name in enumerate(THIRDS):
        sizes = sets.sizes[third == number]
        print(f"  {name}: {len(sizes)} classes of {sizes.min()} to {sizes.max()} items")
    found: dict[str, list[dict[str, np.ndarray]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in RUNS:
            found[name] = [measure(name, sets, options, seed, Path(folder)) for seed in options.seeds]
            cells = row(found[name], found["balanced"], third)
            print(" | ".join([f"{name:<17}", *cells]), flush=True)


if __name__ == "__main__":
    main()
