"""Batch normalisation: what an encoder is evaluated and saved with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tercet
from tercet.training.step import batch_norm

ROWS = np.random.default_rng(0).normal(3, 2, (60, 5)).astype(np.float32)
LABELS = [str(row % 6) for row in range(60)]


class Net(nn.Module):
    """One layer that normalises by its batch, one that is kept as it is, one without running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.out = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.kept, self.bare = nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)

    def train(self, mode: bool = True) -> "Net":
        super().train(mode)
        self.kept.eval()
        return self

    def forward(self, rows: Tensor) -> Tensor:
        normed = self.kept(self.out(self.norm(self.first(rows))))
        return normed + self.bare(normed) if self.training else normed


def trained(out: Path, **options: object) -> tercet.Run:
    """A run of a few steps on all rows, evaluated on some others."""
    torch.manual_seed(0)
    settings = {"steps": 4, "evaluate_every": 4, "classes_per_batch": 3, "samples_per_class": 2, "progress": False}
    return tercet.train(
        (ROWS, LABELS), validation=(ROWS[:12] + 1, LABELS[:12]), encoder=Net(), out=out, learning_rate=0.05,
        **settings | options,
    )  # fmt: skip


def test_saved_statistics_are_those_of_the_training_items_under_the_saved_weights(tmp_path: Path) -> None:
    layers = trained(tmp_path / "run").encoder.network
    with torch.no_grad():
        given = layers.first(torch.from_numpy(ROWS))
    torch.testing.assert_close(layers.norm.running_mean, given.mean(dim=0))
    torch.testing.assert_close(layers.norm.running_var, given.var(dim=0))


def test_statistics_are_the_mean_of_the_batches_of_the_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "EMBED_BATCH", 16)
    monkeypatch.setattr(batch_norm, "ITEMS", 50)
    taken: list[np.ndarray] = []
    split = np.array_split
    monkeypatch.setattr(batch_norm.np, "array_split", lambda *given: taken.append(split(*given)) or taken[-1])
    layers = trained(tmp_path / "run").encoder.network
    parts = taken[-1]
    assert sorted(map(len, parts)) == [12, 12, 13, 13]
    assert len(set(np.concatenate(parts))) == 50
    with torch.no_grad():
        given = [layers.first(torch.from_numpy(ROWS[part])) for part in parts]
    torch.testing.assert_close(layers.norm.running_mean, sum(part.mean(dim=0) for part in given) / 4)
    torch.testing.assert_close(layers.norm.running_var, sum(part.var(dim=0) for part in given) / 4)


def test_layers_kept_in_evaluation_mode_are_left_alone(tmp_path: Path) -> None:
    layers = trained(tmp_path / "run").encoder.network
    torch.testing.assert_close(layers.kept.running_mean, torch.zeros(3))
    torch.testing.assert_close(layers.kept.running_var, torch.ones(3))
    assert layers.norm.momentum == 0.1
    assert layers.bare.running_mean is None


def test_evaluating_changes_nothing_in_the_training(tmp_path: Path) -> None:
    for name, every in (("once", 4), ("often", 1)):
        trained(tmp_path / name, evaluate_every=every)
    states = [
        tercet.training.folder.checkpoint.read_checkpoint(tmp_path / name / "checkpoints")[0].tensors
        for name in ("once", "often")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    gathered = next(value for name, value in states[0].items() if name.endswith("norm.running_mean"))
    assert not torch.allclose(gathered, tercet.load(tmp_path / "once", encoder=Net()).encoder.network.norm.running_mean)


def test_it_is_said_where_there_is_such_a_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "run", progress=True)
    assert "batch normalisation (1 layer): evaluated and saved with the statistics of 60 training items" in (
        capsys.readouterr().err
    )
