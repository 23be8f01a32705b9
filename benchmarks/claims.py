"""What is said of training on triplets, tried: the variants of each claim, trained alike on icons, seed by seed.

    python benchmarks/claims.py icons/ --results claims.jsonl --plots docs/claims/

`icons/` is what `python benchmarks/icons.py package/ icons/ --least-families 8 --size 48` draws. Training takes 300
classes of the first half and validation 50 others of it, the test 250 of the second half; the neighbours of an icon are
those of other design families only. All variants have the same small network, images, learning rate and number of steps
(but for the sizes of batches, which see as many images). A result is a line of the file; what is there is not trained
again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import tercet
from tercet.data.images import decode
from tercet.encoders.options import ImageOptions
from tercet.evaluation import Evaluation, evaluate_embeddings
from tercet.training.batches.pacing import CurriculumOptions

Options = dict[str, Any]
TRAIN_CLASSES, VALIDATION_CLASSES, TEST_CLASSES = 300, 50, 250
SHOWN = ("map_at_r", "recall_at_1", "seconds")
IMAGES = 128  # of a batch
FREE = {"normalize": False}


def hinge(**options: Any) -> Options:
    """All triplets with a hinge, the classic loss."""
    return {"penalty": "hinge", "distance": "euclidean", "margin": 0.1} | options


def smooth(temperature: float, **options: Any) -> Options:
    """The negatives of a pair taken together by a log-sum-exp."""
    return {"penalty": "logsumexp", "temperature": temperature, "reduction": "mean", "margin": 0.0} | options


def free(mining: str | None, **options: Any) -> Options:
    """Embeddings of any length, a high learning rate and no warm-up: where collapses are told of."""
    fast = {"learning_rate": 3e-3, "warmup": 0.0}
    return hinge(mining=mining, margin=0.5, network=FREE, **fast) | options


def paced(order: str) -> Options:
    """A curriculum by the loss of a run of the same seed that was trained on everything."""
    return hinge(curriculum={"pacing": "linear", "order": order, "scoring": None if order == "random" else "loss"})


DISTANCES = {"euclidean": (0.1, 0.2), "squared-euclidean": (0.1, 0.2), "cosine": (0.1, 0.2)}
MININGS = ("all", "semihard", "hard", "easy-positive", "distance-weighted")
CLAIMS: dict[str, dict[str, Options]] = {
    "distance": {
        f"{distance}, margin {margin}": hinge(distance=distance, margin=margin)
        for distance, margins in DISTANCES.items()
        for margin in margins
    },
    "normalisation": {
        "length 1, margin 0.1": hinge(),
        "free lengths, margin 0.1": hinge(network=FREE),
        "free lengths, margin 1": hinge(margin=1.0, network=FREE),
    },
    "batch": {
        f"{size} images": hinge(classes_per_batch=size // 4, samples_per_class=4, images=size)
        for size in (64, 128, 256, 600, 1800)
    },
    "margin": {f"margin {margin}": hinge(margin=margin) for margin in (0.01, 0.1, 0.2, 0.4, 1.2)},
    "mining": {f"{mining}, margin 0.2": hinge(mining=mining, margin=0.2) for mining in MININGS},
    "hardest-first": {
        "all": free("all"),
        "semihard": free("semihard"),
        "hard": free("hard"),
        "easy, semihard, then hard": free(None, mining_schedule="easy-positive:0,semihard:0.3,hard:0.7"),
    },
    "loss": {
        "triplets, hinge, margin 0.1": hinge(),
        **{f"triplets, log-sum-exp, temperature {t}": smooth(t) for t in (0.05, 0.1)},
        **{f"contrastive, margin {m}": {"loss": "contrastive", "margin": m} for m in (0.5, 0.7)},
        **{f"InfoNCE, temperature {t}": {"loss": "infonce", "temperature": t} for t in (0.05, 0.1)},
        **{f"SupCon, temperature {t}": {"loss": "supcon", "temperature": t} for t in (0.05, 0.1)},
    },
    "offline": {
        "online": hinge(),
        "mined every epoch": hinge(mine_every=1),
        "online, hard": hinge(mining="hard"),
        "mined every epoch, hard": hinge(mining="hard", mine_every=1),
    },
    "curriculum": {
        "everything from the start": hinge(),
        "easy first": paced("curriculum"),
        "hard first": paced("anti"),
        "random first": paced("random"),
    },
}


class Icons:
    """The folder's classes as three sets that share none, decoded once."""

    def __init__(
        self, source: Path, size: int, n_train: int = TRAIN_CLASSES, n_validation: int = VALIDATION_CLASSES
    ) -> None:
        names = sorted(path.name for path in source.iterdir() if path.is_dir())
        half = len(names) // 2
        known = random.Random(0).sample(names[:half], min(n_train + n_validation, half))
        parts = {
            "train": known[n_validation:],
            "validation": known[:n_validation],
            "test": random.Random(0).sample(names[half:], min(TEST_CLASSES, len(names) - half)),
        }
        self.paths = {
            part: [path for name in sorted(classes) for path in sorted((source / name).iterdir())]
            for part, classes in parts.items()
        }
        self.pictures = {
            part: np.stack([decode(str(path), (size, size), channels=1)[0] for path in paths])
            for part, paths in self.paths.items()
        }

    def labelled(self, part: str) -> tuple[np.ndarray, list[str]]:
        """Pictures (N, H, W) and what they show."""
        return self.pictures[part], [path.parent.name for path in self.paths[part]]

    def figures(self, run: tercet.Run, part: str) -> dict[str, float]:
        """MAP@R and recall@1 of a part, neighbours from other design families."""
        found = self.evaluate(part, run.embed(list(self.pictures[part])), run.distance, intervals=False)
        return {name: float(found.metrics[name] or 0) for name in ("map_at_r", "recall_at_1")}

    def evaluate(self, part: str, rows: Any, distance: str, intervals: bool = True) -> Evaluation:
        """How well the embeddings of a part find icons of the same class from other design families."""
        return evaluate_embeddings(
            rows, self.labelled(part)[1], distance=distance, intervals=intervals,
            groups=[path.name.split(".")[0] for path in self.paths[part]], exclude="group",
        )  # fmt: skip


def train(icons: Icons, folder: Path, variant: Options, seed: int, given: argparse.Namespace) -> tercet.Run:
    """A run of a variant; the folder keeps references of curricula."""
    options = dict(variant)
    network = ImageOptions(size=(given.size, given.size), **options.pop("network", {}))
    steps = max(1, given.steps * IMAGES // options.pop("images", IMAGES))
    common = {
        "validation": icons.labelled("validation"), "kind": "image", "encoder": network, "seed": seed, "steps": steps,
        "evaluate_every": steps, "progress": False,
    }  # fmt: skip
    pacing = options.pop("curriculum", None)
    if pacing is not None:
        reference = folder / f"reference-{seed}"
        if pacing["scoring"] and not reference.exists():
            tercet.train(icons.labelled("train"), out=reference, **common, **options)
        extra = {"reference": str(reference)} if pacing["scoring"] else {}
        options["curriculum"] = CurriculumOptions(**pacing, **extra)
    out = folder / f"run-{len(list(folder.iterdir()))}"
    return tercet.train(icons.labelled("train"), out=out, **common, **options)


def measure(icons: Icons, given: argparse.Namespace) -> None:
    """Train what is not in the results yet."""
    known = {(one["claim"], one["variant"], one["seed"]) for one in read(given.results)}
    shared: dict[tuple[str, int], dict[str, Any]] = {}  # equal options are trained once
    with tempfile.TemporaryDirectory() as name:
        for seed in given.seeds:
            for claim in given.only:
                for variant, options in CLAIMS[claim].items():
                    if (claim, variant, seed) in known:
                        continue
                    key = (json.dumps(options, sort_keys=True), seed)
                    if key not in shared:
                        started = time.monotonic()
                        run = train(icons, Path(name), options, seed, given)
                        seconds = time.monotonic() - started
                        findings = [finding.illness for finding in run.doctor().findings]
                        shared[key] = icons.figures(run, "test") | {"seconds": round(seconds), "doctor": findings}
                    line = {"claim": claim, "variant": variant, "seed": seed} | shared[key]
                    with given.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
                    print(line, flush=True)


def read(results: Path) -> list[dict[str, Any]]:
    """The lines of the results."""
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []


def half_width(values: list[float]) -> float:
    """Of a 95 % interval of the mean, by Student's t."""
    if len(values) < 2:
        return math.nan
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def table(claim: str, lines: list[dict[str, Any]]) -> str:
    """A Markdown table: the mean of each variant, and its paired difference to the first."""
    of = {name: {one["seed"]: one for one in lines if one["claim"] == claim and one["variant"] == name}
          for name in CLAIMS[claim]}  # fmt: skip
    first = next(iter(of.values()))
    rows = ["| | MAP@R | difference | recall@1 | seconds |", "|---|---|---|---|---|"]
    for name, found in of.items():
        if not found:
            continue
        mean = {key: statistics.mean(one[key] for one in found.values()) for key in SHOWN}
        gaps = [found[seed]["map_at_r"] - first[seed]["map_at_r"] for seed in found if seed in first]
        width = half_width(gaps)
        bold = "**" if abs(statistics.mean(gaps)) > width else ""
        gap = "" if found is first else f"{bold}{statistics.mean(gaps):+.3f} ± {width:.3f}{bold}"
        ill = sorted({illness for one in found.values() for illness in one["doctor"]})
        rows.append(f"| {name}{' (' + ', '.join(ill) + ')' if ill else ''} | {mean['map_at_r']:.3f} | {gap} | "
                    f"{mean['recall_at_1']:.3f} | {mean['seconds']:.0f} |")  # fmt: skip
    return "\n".join(rows)


def plot(claim: str, lines: list[dict[str, Any]]) -> str:
    """An SVG: a row for each variant, a dot for each seed, a line at their mean."""
    found = {name: [one["map_at_r"] for one in lines if (one["claim"], one["variant"]) == (claim, name)]
             for name in CLAIMS[claim]}  # fmt: skip
    top = max(0.05, math.ceil(20 * max((max(values) for values in found.values() if values), default=0)) / 20)
    left, right, row = 330, 790, 26
    height = row * len(found) + 50

    def across(value: float) -> float:
        return round(left + value / top * (right - left), 1)

    ticks = np.linspace(0, top, 6)
    parts = [f'<line x1="{across(t)}" y1="8" x2="{across(t)}" y2="{height - 36}" stroke="#ddd"/>'
             f'<text x="{across(t)}" y="{height - 20}" text-anchor="middle">{t:.2f}</text>' for t in ticks]  # fmt: skip
    for number, (name, values) in enumerate(found.items()):
        y = row * number + 22
        parts.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{name}</text>')
        parts += [
            f'<circle cx="{across(value)}" cy="{y}" r="4" fill="#0072b2" fill-opacity="0.7"/>' for value in values
        ]
        if values:
            x = across(statistics.mean(values))
            parts.append(f'<line x1="{x}" y1="{y - 9}" x2="{x}" y2="{y + 9}" stroke="#d55e00" stroke-width="2"/>')
    middle = (left + right) / 2
    parts.append(f'<text x="{middle}" y="{height - 4}" text-anchor="middle">MAP@R on classes never seen</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 {height}" font-family="sans-serif" font-size="13">'
        f'<title>{claim}</title><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Train what is missing, print the tables, draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icons", type=Path)
    parser.add_argument("--results", type=Path, default=Path("claims.jsonl"))
    parser.add_argument("--plots", type=Path, help="a folder for an SVG of each claim")
    parser.add_argument("--only", nargs="+", choices=tuple(CLAIMS), default=tuple(CLAIMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--size", type=int, default=24, help="of the images in pixels")
    given = parser.parse_args()
    measure(Icons(given.icons, given.size), given)
    lines = read(given.results)
    for claim in given.only:
        print(f"\n{claim}\n\n{table(claim, lines)}")
        if given.plots:
            given.plots.mkdir(parents=True, exist_ok=True)
            (given.plots / f"{claim}.svg").write_text(plot(claim, lines), encoding="utf-8")


if __name__ == "__main__":
    main()
