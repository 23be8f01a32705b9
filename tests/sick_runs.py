"""Small trainings that fail on purpose, one illness each, and healthy ones: what the doctor is tried on.

Every one is a real training of seconds. `benchmarks/doctor.py` runs them all; the tests run some.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import tercet
from tercet.encoders.options import ImageOptions, TabularOptions
from tercet.errors import TrainingError

COLLAPSE, DIMENSIONS = "collapse to a point", "collapse of dimensions"
IDLE, MARGIN = "nothing left to learn", "margin out of the distance's range"
LONE_NEGATIVE, LONE_POSITIVE = "no negative in the batch", "no positive in the batch"
EXPLODING, NOISE = "exploding", "label noise"


@dataclass(frozen=True)
class Trial:
    """A training: its data, its options, and the illness that they bring, if any."""

    name: str
    illness: str | None
    data: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    held: Callable[[], Any] | None = None

    def train(self, folder: Path, seed: int = 0) -> Path:
        """Train; the run folder, also of a training that broke off."""
        shared = {"seed": seed, "steps": 200, "classes_per_batch": 12, "samples_per_class": 4}
        held = self.held and self.held()
        with contextlib.suppress(TrainingError):
            tercet.train(self.data(), out=folder, validation=held, progress=False, **(shared | self.options))
        return folder


@lru_cache
def numbers(classes: int = 40, samples: int = 12, features: int = 12, noise: float = 0.6, seed: int = 0) -> Any:
    """Clouds of points about random centres."""
    draw = np.random.default_rng([seed, classes, features])
    centres = draw.normal(size=(classes, features))
    rows = np.repeat(centres, samples, axis=0) + noise * draw.normal(size=(classes * samples, features))
    return rows.astype(np.float32), [f"class {number}" for number in np.repeat(np.arange(classes), samples)]


@lru_cache
def curved(classes: int = 40, samples: int = 12, noise: float = 0.3, seed: int = 0) -> Any:
    """Clouds behind a random network, so that the raw numbers tell little."""
    rows, labels = numbers(classes, samples, 8, noise, seed)
    draw = np.random.default_rng(seed)
    hidden = np.sin(rows @ draw.normal(size=(8, 24)))
    return (hidden @ draw.normal(size=(24, 16))).astype(np.float32), labels


def mislabelled(data: Any, share: float, seed: int = 0) -> Any:
    """The same with some of the labels drawn anew."""
    rows, labels = data
    draw = np.random.default_rng([seed, 17])
    wrong = draw.random(len(labels)) < share
    names = sorted(set(labels))
    return rows, [str(draw.choice(names)) if one else label for one, label in zip(wrong, labels, strict=True)]


@lru_cache
def patterns(classes: int = 24, samples: int = 8, size: int = 24, noise: float = 50.0, seed: int = 0) -> Any:
    """Pictures of random patterns with noise."""
    draw = np.random.default_rng([seed, classes, size])
    large = [np.kron(draw.integers(0, 256, (6, 6)), np.ones((size // 6, size // 6))) for _ in range(classes)]
    pictures = [np.clip(one + draw.normal(0, noise, one.shape), 0, 255) for one in large for _ in range(samples)]
    return np.stack(pictures).astype(np.uint8), [
        f"pattern {number}" for number in np.repeat(np.arange(classes), samples)
    ]


@lru_cache
def digits() -> Any:
    """The 8 × 8 digits of scikit-learn, as rows of numbers."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.data.astype(np.float32), [f"digit {number}" for number in found.target]


@lru_cache
def faces() -> Any:
    """Twenty-five people of the AT&T Database of Faces, made small."""
    import tempfile

    from PIL import Image

    from tercet.data.faces import export_faces

    with tempfile.TemporaryDirectory() as folder:
        export_faces(Path(folder))
        paths = sorted([*Path(folder, "train").glob("*/*.png"), *Path(folder, "validation").glob("*/*.png")])
        pictures = [np.asarray(Image.open(path).resize((28, 34))) for path in paths]
    return np.stack(pictures), [path.parent.name for path in paths]


@lru_cache
def sentences(classes: int = 30, samples: int = 10, seed: int = 0) -> Any:
    """Sentences of topics, each with words of its own among the common ones."""
    draw = np.random.default_rng([seed, classes])
    words = np.array([f"w{number}" for number in range(150)])
    texts, labels = [], []
    for number in range(classes):
        own = draw.choice(words, 6, replace=False)
        for _ in range(samples):
            texts.append(" ".join([*draw.choice(own, 5), *draw.choice(words, 5)]))
            labels.append(f"topic {number}")
    return texts, labels


def one_large_class(share: int = 30) -> Any:
    """Six small classes and one that fills batch after batch."""
    rows, labels = numbers(classes=7, samples=400, features=8)
    kept = np.array([label == "class 0" or place % 400 < share for place, label in enumerate(labels)])
    return rows[kept], [label for label, one in zip(labels, kept, strict=True) if one]


def names_for_labels(data: Any, shared: int = 8) -> Any:
    """Nearly every item is a class of its own."""
    rows, labels = data
    return rows, [label if place < shared else f"item {place}" for place, label in enumerate(labels)]


def extreme(data: Any, factor: float = 1e18) -> Any:
    """One item whose numbers are beyond measure."""
    rows, labels = data[0].copy(), data[1]
    rows[::50] *= factor
    return rows, labels


class Plane(nn.Module):
    """A network through a bottleneck of two numbers."""

    def __init__(self, features: int = 16, width: int = 2) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.Linear(features, 32), nn.GELU(), nn.Linear(32, width))
        self.wide = nn.Linear(width, 32)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.wide(self.narrow(rows.float()))


SMALL = ImageOptions(width=16, dim=32)
FREE = TabularOptions(normalize=False)
CONVERGED = {"mining": "hard", "margin": 1.0}


def hard_curves() -> Any:
    return curved(noise=1.2)


SICK = (
    Trial("hard mining of what cannot be told apart", COLLAPSE, hard_curves, {**CONVERGED, "learning_rate": 0.03}),
    Trial(
        "the same, another seed and half the rate",
        COLLAPSE,
        lambda: curved(noise=1.4, seed=5),
        {**CONVERGED, "learning_rate": 0.02, "seed": 3},
    ),
    Trial(
        "squared distances, not normalised",
        COLLAPSE,
        hard_curves,
        {**CONVERGED, "learning_rate": 0.03, "distance": "squared-euclidean", "encoder": FREE},
    ),
    Trial(
        "faces, hard mining, a large step",
        COLLAPSE,
        faces,
        {**CONVERGED, "learning_rate": 0.03, "encoder": SMALL, "steps": 120},
    ),
    Trial(
        "noise pictures, hard mining",
        COLLAPSE,
        lambda: patterns(noise=400.0),
        {**CONVERGED, "learning_rate": 0.02, "encoder": SMALL, "steps": 120},
    ),
    Trial(
        "random numbers, Manhattan, not normalised",
        COLLAPSE,
        lambda: numbers(noise=30.0),
        {**CONVERGED, "learning_rate": 0.02, "distance": "manhattan", "encoder": FREE},
    ),
    Trial(
        "a bottleneck of two numbers",
        DIMENSIONS,
        curved,
        {"encoder": "sick_runs:Plane", "encoder_arguments": {"width": 2}},
    ),
    Trial(
        "a bottleneck of one number",
        DIMENSIONS,
        curved,
        {"encoder": "sick_runs:Plane", "encoder_arguments": {"width": 1}, "loss": "contrastive"},
    ),
    Trial("weights decayed to nothing", DIMENSIONS, curved, {"weight_decay": 300.0}),
    Trial(
        "weights decayed to nothing, numbers",
        DIMENSIONS,
        lambda: numbers(noise=1.0, seed=2),
        {"weight_decay": 300.0, "loss": "supcon"},
    ),
    Trial(
        "infonce so warm that only two poles count",
        DIMENSIONS,
        curved,
        {"loss": "infonce", "temperature": 20.0, "learning_rate": 0.03},
    ),
    Trial(
        "supcon so warm that only two poles count",
        DIMENSIONS,
        numbers,
        {"loss": "supcon", "temperature": 20.0, "learning_rate": 0.01},
    ),
    Trial("sentences learned by heart", IDLE, sentences, {}),
    Trial("other sentences learned by heart", IDLE, lambda: sentences(40, 8, 7), {"learning_rate": 0.003}),
    Trial("no margin at all", IDLE, lambda: numbers(noise=0.45), {"margin": 0.0}),
    Trial(
        "a contrastive margin of next to nothing",
        IDLE,
        curved,
        {"loss": "contrastive", "margin": 0.05, "positive_margin": 1.5},
    ),
    Trial("margin 1.6 on the sphere", MARGIN, curved, {"margin": 1.6}),
    Trial("margin 5, cosine, semihard", MARGIN, numbers, {"margin": 5.0, "mining": "semihard", "distance": "cosine"}),
    Trial("margin 3, contrastive", MARGIN, curved, {"margin": 3.0, "loss": "contrastive"}),
    Trial(
        "margin 5, squared, pictures",
        MARGIN,
        patterns,
        {"margin": 5.0, "distance": "squared-euclidean", "encoder": SMALL, "steps": 100},
    ),
    Trial(
        "one class fills whole batches",
        LONE_NEGATIVE,
        one_large_class,
        {"holdout_by": "row", "classes_per_batch": 2, "samples_per_class": 8},
    ),
    Trial(
        "one class fills most batches",
        LONE_NEGATIVE,
        lambda: one_large_class(10),
        {"holdout_by": "row", "classes_per_batch": 3, "loss": "supcon"},
    ),
    Trial(
        "every item a class of its own",
        LONE_POSITIVE,
        lambda: names_for_labels(numbers()),
        {"classes_per_batch": 24},
        lambda: numbers(seed=9),
    ),
    Trial(
        "nearly every sentence a class of its own",
        LONE_POSITIVE,
        lambda: names_for_labels(sentences(), 10),
        {"classes_per_batch": 24, "loss": "infonce"},
        lambda: sentences(20, 6, 9),
    ),
    Trial("a step of 30", EXPLODING, curved, {"learning_rate": 30.0, "encoder": FREE}),
    Trial("a step of a million", EXPLODING, numbers, {"learning_rate": 1e6, "encoder": FREE}),
    Trial(
        "a step of 10, contrastive", EXPLODING, numbers, {"learning_rate": 10.0, "loss": "contrastive", "encoder": FREE}
    ),
    Trial("a step of 300 on the sphere", EXPLODING, curved, {"learning_rate": 300.0}),
    Trial("a fifth of the digits' labels wrong", NOISE, lambda: mislabelled(digits(), 0.2), {"holdout_by": "row"}),
    Trial(
        "a fifth of the patterns' labels wrong",
        NOISE,
        lambda: mislabelled(patterns(), 0.2),
        {"encoder": SMALL, "steps": 120},
    ),
    Trial("an eighth of the curves' labels wrong", NOISE, lambda: mislabelled(curved(seed=4), 0.12, 1), {}),
    Trial(
        "a tenth of the numbers' labels wrong",
        NOISE,
        lambda: mislabelled(numbers(seed=3), 0.1, 1),
        {"loss": "contrastive"},
    ),
    Trial(
        "a fifth of the faces' labels wrong", NOISE, lambda: mislabelled(faces(), 0.2), {"encoder": SMALL, "steps": 120}
    ),
    Trial(
        "a fifth of the numbers' labels wrong, supcon",
        NOISE,
        lambda: mislabelled(numbers(seed=5), 0.2, 2),
        {"loss": "supcon"},
    ),
)

HEALTHY = (
    Trial("numbers", None, numbers),
    Trial("numbers, harder", None, lambda: numbers(noise=1.0), {"loss": "supcon"}),
    Trial("curves", None, curved),
    Trial("curves, hardest mining", None, curved, {"mining": "hard"}),
    Trial("curves, semihard, cosine", None, curved, {"mining": "semihard", "distance": "cosine"}),
    Trial("curves, not normalised", None, curved, {"encoder": FREE, "penalty": "softplus"}),
    Trial("curves, contrastive", None, curved, {"loss": "contrastive"}),
    Trial("curves, infonce, temperature learned", None, curved, {"loss": "infonce", "learn_temperature": True}),
    Trial("curves, hard to tell apart", None, lambda: curved(noise=0.6)),
    Trial("curves, squared, margin 1", None, curved, {"distance": "squared-euclidean", "margin": 1.0, "encoder": FREE}),
    Trial("numbers of two features", None, lambda: numbers(features=2, noise=0.1)),
    Trial("numbers, logsumexp", None, lambda: numbers(noise=1.5), {"penalty": "logsumexp", "distance": "cosine"}),
    Trial("digits", None, digits, {"holdout_by": "row"}),
    Trial("digits, hardest mining", None, digits, {"holdout_by": "row", "mining": "hard"}),
    Trial("patterns", None, patterns, {"encoder": SMALL, "steps": 120}),
    Trial("patterns, supcon", None, lambda: patterns(noise=150.0), {"encoder": SMALL, "steps": 120, "loss": "supcon"}),
    Trial("patterns, very noisy", None, lambda: patterns(noise=200.0), {"encoder": SMALL, "steps": 120}),
    Trial("faces", None, faces, {"encoder": SMALL, "steps": 120}),
    Trial("faces, hardest mining", None, faces, {"encoder": SMALL, "steps": 120, "mining": "hard"}),
    Trial("faces, contrastive", None, faces, {"encoder": SMALL, "steps": 120, "loss": "contrastive"}),
    Trial("sentences, few steps", None, lambda: sentences(60, 10, 1), {"steps": 60}),
    Trial("sentences, supcon", None, sentences, {"loss": "supcon", "steps": 120}),
    Trial(
        "sentences, hardest mining", None, lambda: sentences(60, 10, 2), {"mining": "hard", "margin": 0.5, "steps": 120}
    ),
    Trial("large batches", None, lambda: numbers(classes=80), {"classes_per_batch": 32}),
)
