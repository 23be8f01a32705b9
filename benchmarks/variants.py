r"""Variants of a training, compared on faces of people that none of them saw, seed by seed.

    python benchmarks/variants.py --seeds 0 1 2 --base "--steps 150 --batch-size 16 --samples-per-class 2" \
        --variant "--memory 128" --variant "--mine-every 2"

Each variant adds its words to those of the base; the table has MAP@R and the equal error rate on the test people of the
demo (tercet[demo]), their mean over the seeds, and the mean difference to the base with its standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tercet.data.faces import export_faces

FIGURES = ("test.map_at_r", "test.eer")


def tercet(*words: str) -> str:
    """What a command prints."""
    done = subprocess.run([sys.executable, "-m", "tercet", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"tercet {' '.join(words)}\n{done.stderr}")
    return done.stdout


def measure(folder: Path, name: str, words: list[str], seed: int) -> list[float]:
    """The figures of a run with these words."""
    run, faces = folder / f"{name}-{seed}", folder / "faces"
    common = ["--validation", str(faces / "validation"), "--out", str(run), "--seed", str(seed)]
    tercet("train", str(faces / "train"), *common, *words)
    tercet("evaluate", str(run), "--data", str(faces / "test"))
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return [metrics[figure] for figure in FIGURES]


def difference(values: list[float], base: list[float]) -> str:
    """The mean of paired differences, and its standard error."""
    gaps = [value - other for value, other in zip(values, base, strict=True)]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
    return f"{statistics.mean(gaps):+.3f} ± {error:.3f}"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", default="--steps 150 --batch-size 16 --samples-per-class 2")
    parser.add_argument("--variant", action="append", default=[])
    given = parser.parse_args()
    found: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_faces(folder / "faces")
        print(f"base: {given.base}\n{'':<40} MAP@R                     EER")
        for number, words in enumerate(["", *given.variant]):
            runs = [measure(folder, str(number), [*given.base.split(), *words.split()], seed) for seed in given.seeds]
            found[words] = [list(column) for column in zip(*runs, strict=True)]
            cells = [
                f"{statistics.mean(values):.3f} " + (difference(values, found[""][place]) if words else "").ljust(18)
                for place, values in enumerate(found[words])
            ]
            print(f"{words or 'base':<40} {'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
