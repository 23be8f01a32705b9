"""Batch normalisation: what an encoder is evaluated and saved with."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import tercet
from tercet.encoders.options import ImageOptions, TowersOptions
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
        (ROWS, LABELS), validation=(ROWS[:12] + 1, LABELS[:12]), out=out, learning_rate=0.05,
        **{"encoder": Net()} | settings | options,
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


class Aside(nn.Module):
    """Has a layer that only training comes to, with statistics that it was brought along with."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.aside = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        nn.init.constant_(self.aside.running_mean, 7.0)
        self.aside.momentum = 0.0

    def forward(self, rows: Tensor) -> Tensor:
        normed = self.norm(self.first(rows))
        return self.aside(normed) if self.training else normed


def test_a_layer_that_items_do_not_come_to_keeps_what_it_has(tmp_path: Path) -> None:
    layers = trained(tmp_path / "run", encoder=Aside()).encoder.network
    torch.testing.assert_close(layers.aside.running_mean, torch.full((4,), 7.0))
    assert int(layers.aside.num_batches_tracked) > 0


def test_what_fails_on_the_way_leaves_the_layers_as_they_were(tmp_path: Path) -> None:
    class Failing:
        def batch(self, positions: np.ndarray) -> Tensor:
            raise KeyboardInterrupt

    net = Net()
    net.norm(torch.randn(8, 4))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    model = SimpleNamespace(encoder=net, forward=net)
    statistics = batch_norm.BatchNormStatistics(model, SimpleNamespace(records=range(9), loader=Failing()), 0)
    net.train()
    with pytest.raises(KeyboardInterrupt), statistics.taken():
        pass
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.norm.momentum == 0.1
    assert net.norm.training
    assert not net.kept.training


class Pixels(nn.Module):
    """What Tercet uses of a timm model, with a layer that normalises by its batch."""

    pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(pixels.mean((2, 3)))


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pairs of pictures, 20 on the left and 3 on the right, and a network with batch normalisation for them."""
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=lambda *_, **__: Pixels()))
    save_file(Pixels().state_dict(), tmp_path / "weights.safetensors")
    draws = np.random.default_rng(0)
    for name in [f"l{number}" for number in range(20)] + ["r0", "r1", "r2"] + [f"v{number}" for number in range(6)]:
        Image.fromarray(draws.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    lines = [f"l{number}.png,r{number % 3}.png" for number in range(20)]
    (tmp_path / "pairs.csv").write_text("\n".join(["query,answer", *lines]))
    (tmp_path / "others.csv").write_text("query,answer\nv0.png,v1.png\nv2.png,v3.png\nv4.png,v5.png")
    return tmp_path


def test_each_of_two_towers_has_the_statistics_of_its_side(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "EMBED_BATCH", 8)
    tower = ImageOptions(weights=f"timm:any@{pictures / 'weights.safetensors'}", head="none", dim=3)
    run = tercet.train(
        pictures / "pairs.csv", validation=pictures / "others.csv", form="pairs", columns=("query", "answer"),
        towers="separate", encoder=TowersOptions(left=tower, right=tower), loss="infonce", steps=2, rows_per_batch=6,
        progress=False, out=pictures / "run",
    )  # fmt: skip

    def mean(names: list[str]) -> Tensor:
        pixels = [np.asarray(Image.open(pictures / f"{name}.png")) / 127.5 - 1 for name in names]
        return torch.tensor(np.stack(pixels).mean(axis=(1, 2)), dtype=torch.float32)

    of_right = mean(["r0", "r1", "r2"])
    left, right = (
        [m for m in tower.modules() if isinstance(m, nn.BatchNorm1d)] for tower in (run.encoder.left, run.encoder.right)
    )
    torch.testing.assert_close(right[0].running_mean, of_right.mean(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(right[0].running_var, of_right.var(dim=0), rtol=1e-4, atol=1e-5)
    assert int(right[0].num_batches_tracked) == 1
    assert int(left[0].num_batches_tracked) == 3


def test_evaluating_a_run_anew_gives_the_figures_of_its_end(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    again = tercet.load(tmp_path / "run", encoder=Net()).evaluate((ROWS[:12] + 1, LABELS[:12])).metrics
    assert again["map_at_r"] == run.metrics["validation.map_at_r"]
    assert again["auc"] == run.metrics["validation.auc"]


def test_one_item_alone_has_no_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "EMBED_BATCH", 1)
    net = Net().eval()
    model, train = SimpleNamespace(encoder=net, forward=net), SimpleNamespace(records=range(3), loader=None)
    statistics = batch_norm.BatchNormStatistics(model, train, 0)
    assert statistics.said() is None
    assert not net.training
    with statistics.taken():
        assert int(net.norm.num_batches_tracked) == 0


class Drawing(Net):
    """Draws in evaluation too."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows + torch.randn(rows.shape))


def test_what_an_encoder_draws_by_itself_is_of_the_seed(tmp_path: Path) -> None:
    net, rows = Drawing(), torch.from_numpy(ROWS)
    model = SimpleNamespace(encoder=net, forward=net)
    loader = SimpleNamespace(batch=lambda positions: rows[positions])
    statistics = batch_norm.BatchNormStatistics(model, SimpleNamespace(records=rows, loader=loader), 3)
    state, means = torch.get_rng_state(), []
    for _ in range(2):
        with statistics.taken():
            means.append(net.norm.running_mean.clone())
    assert torch.equal(means[0], means[1])
    assert torch.equal(torch.get_rng_state(), state)
