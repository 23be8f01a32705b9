"""Small data sets and runs that the tests share. Everything is made here: no network, no GPU."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Read when NumPy and PyTorch are loaded: several processes of tests share the cores, and threads that wait for work by
# spinning, as both libraries' do for milliseconds, take the cores from those that have some.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tercet.report.chart import Chart, as_script

torch.set_num_threads(2)

QUICK = {"steps": 6, "classes_per_batch": 4, "samples_per_class": 3, "evaluate_every": 3}
QUICK_FLAGS = [
    "--steps",
    "6",
    "--classes-per-batch",
    "4",
    "--samples-per-class",
    "3",
    "--evaluate-every",
    "3",
]


def write_images(folder: Path, classes: range, samples: int = 6, size: int = 24) -> Path:
    """A folder with a subfolder for each class; images of a class are its pattern and noise."""
    for number in classes:
        pattern = np.random.default_rng([1, number]).integers(0, 256, (6, 6))
        large = np.kron(pattern, np.ones((size // 6, size // 6)))
        target = folder / f"class{number:02d}"
        target.mkdir(parents=True)
        for sample in range(samples):
            noise = np.random.default_rng([2, number, sample]).normal(0, 40, large.shape)
            Image.fromarray(np.clip(large + noise, 0, 255).astype(np.uint8)).save(target / f"{sample}.png")
    return folder


def killed_at(step: int, words: list[str], threads: int = 2) -> subprocess.CompletedProcess:
    """The command line in a process of its own, ended by SIGKILL once it has recorded this step, if it comes to it."""
    code = (
        "import os, signal, torch, tercet.cli\n"
        f"torch.set_num_threads({threads})\n"  # as here: sums over more threads round otherwise
        "from tercet.training.folder.history import History\n"
        "add = History.add\n"
        "def kill(self, step, figures):\n"
        "    add(self, step, figures)\n"
        f"    if step == {step} and 'loss' in figures: os.kill(os.getpid(), signal.SIGKILL)\n"
        "History.add = kill\n"
        f"raise SystemExit(tercet.cli.main({words!r}))\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


WORDS = (
    "apple", "river", "stone", "cloud", "tiger", "piano", "green", "seven", "horse", "metal", "candle", "winter",
    "rocket", "garden", "salt", "tower",
)  # fmt: skip


def text_of(number: int, sample: int) -> str:
    """A sentence of a topic: mostly the topic's own words."""
    generator = np.random.default_rng([3, number, sample])
    own = [WORDS[(3 * number + i) % len(WORDS)] for i in range(3)]
    return " ".join(generator.choice([*own, *own, *WORDS], size=7))


def write_texts(path: Path, classes: range, samples: int = 6) -> Path:
    """A CSV of sentences and topics."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["sentence", "topic_label", "label"])
        for number in classes:
            for sample in range(samples):
                rows.writerow([text_of(number, sample), f"ignored {sample}", f"topic {number}"])
    return path


def write_numbers(path: Path, classes: range, samples: int = 6) -> Path:
    """A CSV of four features and a class."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["length", "width", "height", "weight", "species"])
        for number in classes:
            centre = np.random.default_rng([4, number]).normal(0, 3, 4)
            for sample in range(samples):
                values = centre + np.random.default_rng([5, number, sample]).normal(0, 0.5, 4)
                rows.writerow([*(f"{value:.4f}" for value in values), f"kind{number}"])
    return path


BY_BOKEH = Chart._item


def outlined(chart: Chart) -> str:
    """What stands in a page for a plot: its numbers, which are as finite as Bokeh must have them."""
    series = [
        [one.label, [float(x) for x in one.x], [float(y) for y in one.y]] for one in (*chart.series, *chart.points)
    ]
    return as_script(json.dumps([chart.name, series, [float(mark) for mark in chart.marks]], allow_nan=False))


@pytest.fixture(scope="session", autouse=True)
def _outlined_plots():
    """Bokeh takes three quarters of a small training: reports are written, but their plots drawn where asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chart, "_item", outlined)
        yield


@pytest.fixture
def drawn_plots(monkeypatch) -> None:
    """Plots by Bokeh, as a user has them."""
    monkeypatch.setattr(Chart, "_item", BY_BOKEH)


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Eight classes of six images."""
    return write_images(tmp_path_factory.mktemp("images") / "train", range(8))


@pytest.fixture(scope="session")
def unseen_images(tmp_path_factory) -> Path:
    """Five other classes."""
    return write_images(tmp_path_factory.mktemp("images") / "test", range(20, 25))


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.csv", range(7))


@pytest.fixture(scope="session")
def numbers(tmp_path_factory) -> Path:
    return write_numbers(tmp_path_factory.mktemp("numbers") / "numbers.csv", range(7))


@pytest.fixture(scope="session")
def image_run(images, tmp_path_factory) -> Path:
    """A small trained run, which tests must not change; copy it if they do."""
    import tercet

    path = tmp_path_factory.mktemp("runs") / "images"
    tercet.train(str(images), out=path, progress=False, **QUICK)
    return path


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys) -> Callable[..., Done]:
    """Runs a command of Tercet in this process."""
    from tercet.cli import main

    def run(*words: object) -> Done:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stopped:  # the parser leaves this way
            code = int(stopped.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)

    return run


def digest(folder: Path) -> dict[str, str]:
    """A hash of every file of a run, by its path."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Scaled(nn.Module):
    """A user's own loss, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        same = (labels[:, None] == labels[None]).float()
        return ((embeddings @ embeddings.T) * self.scale - same).square().mean()
