"""Losses in training: what they learn is optimised, saved and resumed to the byte; no setting is lost on the way."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tercet
from conftest import Scaled, digest
from tercet.encoders.options import TabularOptions
from tercet.errors import ConfigError, InputError, RunError, TercetWarning
from tercet.evaluation import evaluate_embeddings, evaluate_tuples, retrieval
from tercet.index import Index
from tercet.training.folder.history import read_history
from tercet.training.reporter import Reporter
from tercet.training.request import base_request, make_request
from tercet.training.session import run_session

SHORT = {"steps": 6, "evaluate_every": 3, "classes_per_batch": 4, "samples_per_class": 3, "learning_rate": 0.02}
GENERATOR = np.random.default_rng(8)
LABELS = np.arange(42) % 7
ROWS = (GENERATOR.normal(size=(7, 4))[LABELS] + 1.2 * GENERATOR.normal(size=(42, 4))).astype(np.float32)
DATA = (ROWS, LABELS)  # classes that overlap, so that triplets are active
UNSEEN = (ROWS + 0.1, LABELS)


def train(out, loss=None, resume=False, data=DATA, encoder=None, **options):
    """`tercet.train` without its report; the path of the run."""
    encoder = encoder or TabularOptions(dim=4, hidden=())
    base = base_request(data, None, out, resume)
    options = options if resume else SHORT | options
    run_session(make_request(base, None if resume else encoder, loss=loss, options=options), out, resume, Reporter())
    return out


class OtherScaled(Scaled):
    """Another."""


def with_map():
    return tercet.TripletLoss(distance=tercet.Mahalanobis(learned=True, dim=4))


LEARNING = {
    "infonce": (lambda: tercet.InfoNCE(0.2, learn_temperature=True), "log_scale"),
    "logsumexp": (lambda: tercet.TripletLoss(0.1, penalty="logsumexp", learn_temperature=True), "log_scale"),
    "margins": (lambda: tercet.TripletLoss(tercet.PerClassMargin(7, 0.3), distance="cosine"), "margins.raw"),
    "map": (with_map, "map.components"),
    "draws": (lambda: tercet.TripletLoss(mining="distance-weighted", seed=5), "draws._extra_state"),
    "own": (Scaled, "scale"),
}


# Parameters.


@pytest.mark.parametrize("name", LEARNING)
def test_what_a_loss_learns_is_saved_and_resumed_to_the_same_bytes(tmp_path, name):
    """As if killed after the first checkpoint, and before it, then resumed with a fresh loss and with the used one."""
    make, parameter = LEARNING[name]
    loss = make()
    whole = train(tmp_path / "whole", loss)
    start = load_file(whole / "checkpoints" / "start.safetensors")
    last = load_file(whole / "checkpoints" / "step-00000006" / "state.safetensors")
    best = load_file(whole / "loss.safetensors")
    assert torch.equal(start[parameter], make().state_dict()[parameter])
    assert not torch.equal(last[f"modules.loss.{parameter}"], start[parameter])
    assert torch.equal(best[parameter], loss.state_dict()[parameter])  # the loss is left as the weights are: the best
    if name != "draws":
        assert last[f"optimizer.loss.{parameter}.exp_avg"].abs().max() > 0
    for left, again in ((["step-00000003"], make()), ([], loss)):
        part = shutil.copytree(whole, tmp_path / f"killed-{len(left)}")
        for checkpoint in (part / "checkpoints").glob("step-*"):
            if checkpoint.name not in left:
                shutil.rmtree(checkpoint)
        train(part, again, resume=True)
        assert digest(part) == digest(whole)


def test_parameters_under_two_names_are_saved_too(tmp_path):
    class Tied(Scaled):
        def __init__(self):
            super().__init__()
            self.again = self.scale

    path = train(tmp_path / "run", Tied())
    state = load_file(path / "loss.safetensors")
    assert torch.equal(state["again"], state["scale"])
    earlier = digest(path)
    shutil.rmtree(path / "checkpoints" / "step-00000006")
    train(path, Tied(), resume=True)
    assert digest(path) == earlier


@pytest.mark.filterwarnings("ignore:for loss.scale. copying from a non-meta parameter")
def test_the_optimisers_state_of_a_single_number_goes_where_it_is():
    """A learned temperature has no dimension, like AdamW's count of steps, which alone stays on the CPU."""
    from tercet.training.folder.checkpoint import _restore

    loss = Scaled().to("meta")  # another device, on any machine
    modules = nn.ModuleDict({"loss": loss})
    optimizer = torch.optim.AdamW(modules.parameters())
    state = {"exp_avg": torch.tensor(1.0), "exp_avg_sq": torch.tensor(1.0), "step": torch.tensor(3.0)}
    tensors = {f"optimizer.loss.scale.{name}": tensor for name, tensor in state.items()}
    _restore({"modules.loss.scale": torch.tensor(2.0), **tensors}, modules, optimizer, Path("checkpoint"))
    devices = {name: tensor.device.type for name, tensor in optimizer.state[loss.scale].items()}
    assert devices == {"exp_avg": "meta", "exp_avg_sq": "meta", "step": "cpu"}


def test_options_resume_what_they_learn_without_python(tmp_path):
    whole = train(tmp_path / "whole", loss="supcon", learn_temperature=True, temperature=0.3)
    part = shutil.copytree(whole, tmp_path / "part")
    shutil.rmtree(part / "checkpoints" / "step-00000006")
    train(part, resume=True)
    assert digest(part) == digest(whole)
    rows = [row for row in read_history(whole / "history.jsonl") if "loss" in row]
    temperatures = [row["temperature"] for row in rows]
    assert len(set(temperatures)) == 6
    assert temperatures[0] == pytest.approx(0.3, rel=0.05)


def test_what_a_loss_learns_does_not_decay(tmp_path):
    from tercet.training.step.learner import make_optimizer

    loss = tercet.TripletLoss(
        tercet.PerClassMargin(7), distance=tercet.Mahalanobis(learned=True, dim=4), penalty="logsumexp",
        learn_temperature=True, reduction="mean",
    )  # fmt: skip
    path = train(tmp_path / "run", loss)
    modules = nn.ModuleDict({"encoder": tercet.load(path).encoder, "loss": loss})
    decay = {id(one): group["weight_decay"] for group in make_optimizer(modules, 0.01)
             .param_groups for one in group["params"]}  # fmt: skip
    own = dict(loss.named_parameters())
    assert {name: decay[id(one)] for name, one in own.items()} == dict.fromkeys(
        ("log_scale", "map.components", "margins.raw"), 0.0
    )
    assert 0.01 in decay.values()


def test_a_loss_that_was_trained_before_is_said_to_be(tmp_path):
    loss = tercet.InfoNCE(0.2, learn_temperature=True)
    train(tmp_path / "one", loss)
    message = (
        r"has been trained before and starts with a temperature of 0\.\d+ instead of 0\.2, which config\.toml does not "
        r"tell; checkpoints/start\.safetensors does"
    )
    with pytest.warns(TercetWarning, match=message):
        train(tmp_path / "two", loss)
    margins = tercet.TripletLoss(tercet.PerClassMargin(7, 0.3), distance="cosine", mining="distance-weighted")
    train(tmp_path / "three", margins)
    with pytest.warns(TercetWarning, match=r"starts with margins that it has learned and draw \d+, which"):
        train(tmp_path / "four", margins)


# A map is part of the run's distance, wherever that is needed.


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A run with a learned map."""
    return train(tmp_path_factory.mktemp("mapped") / "run", with_map())


def test_the_map_of_a_run_measures_everywhere(mapped, tmp_path):
    run = tercet.load(shutil.copytree(mapped, tmp_path / "run"))
    components = load_file(run.path / "loss.safetensors")["map.components"].numpy()
    assert np.abs(components - np.eye(4)).max() > 0.01
    vectors = run.embed(ROWS)
    far = np.linalg.norm((vectors[:1] - vectors) @ components.T, axis=1)
    assert run.verify(ROWS[0], ROWS[9]).distance == pytest.approx(far[9], rel=1e-5)

    found = run.evaluate(UNSEEN).metrics
    unseen = run.embed(UNSEEN[0])
    expected = evaluate_embeddings(unseen @ components.T, LABELS).metrics
    plain = evaluate_embeddings(unseen, LABELS).metrics
    for name in ("auc", "eer_threshold"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
        assert abs(plain[name] - expected[name]) > 1e-3 * expected[name]

    index, _ = run.index(DATA)
    index.save(tmp_path / "i.index")
    opened = Index.open(tmp_path / "i.index")
    nearest = opened.search(vectors[:1], 42)[0]
    assert [one.position for one in nearest] == np.argsort(far, kind="stable").tolist()
    assert [one.distance for one in nearest] == pytest.approx(np.sort(far).tolist(), rel=1e-4, abs=1e-6)
    with pytest.raises(InputError, match="distance of an approximate search is 'mahalanobis'"):
        opened.approximated()


def test_validation_measures_with_the_map_of_the_best_weights(mapped):
    run = tercet.load(mapped)
    held = [row for row in read_history(mapped / "history.jsonl") if "validation.auc" in row]
    best = max(held, key=lambda row: (row["validation.map_at_r"], row["step"]))
    assert run.metrics["validation.auc"] == pytest.approx(best["validation.auc"], rel=1e-6)
    assert 0 < run.threshold < 3


def test_an_index_is_bound_to_the_map_too(mapped, tmp_path):
    path = shutil.copytree(mapped, tmp_path / "run")
    index, _ = tercet.load(path).index(DATA)
    state = load_file(path / "loss.safetensors")
    save_file({name: 2 * tensor for name, tensor in state.items()}, path / "loss.safetensors")
    with pytest.raises(RunError, match="their distances mean nothing to each other"):
        index.check_weights(tercet.load(path).weights)
    (path / "loss.safetensors").unlink()
    with pytest.raises(RunError, match=r"whose map is kept in loss\.safetensors, and it is not there"):
        tercet.load(path).distance  # noqa: B018  a property that reads


def test_a_map_of_another_size_is_refused_before_anything_is_written(tmp_path):
    loss = tercet.TripletLoss(distance=tercet.Mahalanobis(learned=True, dim=5))
    with pytest.raises(InputError, match=r"what the encoder gives has shape \(\d+, 4\); .* is one of 5 features"):
        train(tmp_path / "run", loss)
    assert not (tmp_path / "run").exists()


# What config.toml can tell of a loss, and what it cannot.


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (lambda: tercet.ContrastiveLoss(0.05, 0.9, distance="cosine"),
         {"loss": "contrastive", "margin": 0.9, "positive_margin": 0.05, "distance": "cosine"}),
        (lambda: tercet.SupConLoss(0.3), {"loss": "supcon", "temperature": 0.3}),
        (lambda: tercet.TripletLoss(1, mining="distance-weighted", seed=4, distance=tercet.Chebyshev()),
         {"margin": 1, "mining": "distance-weighted", "draw_seed": 4, "distance": "chebyshev"}),
        (lambda: tercet.TripletLoss(like="pytorch-metric-learning", mining="easy-positive-semihard"),
         {"margin": 0.05, "mining": "easy-positive-semihard", "reduction": "mean-active", "normalize": True}),
    ],
)  # fmt: skip
def test_an_object_and_its_options_make_equal_runs(tmp_path, loss, options):
    assert digest(train(tmp_path / "object", loss())) == digest(train(tmp_path / "options", **options))


def test_a_loss_that_options_cannot_make_is_asked_for_again(tmp_path, command):
    path = train(tmp_path / "run", with_map())
    recorded = tercet.load(path).config.custom_loss
    assert recorded.startswith("TripletLoss(margin=0.2, mining='all', distance=Mahalanobis(")
    message = (
        r"config\.toml was written with the loss TripletLoss\(.*, which its options cannot make again; from Python, "
    )
    with pytest.raises(InputError, match=message + "give it"):
        train(path, resume=True)
    with pytest.raises(InputError, match=message + "give it"):
        make_request(base_request(DATA, path / "config.toml", tmp_path / "new", resume=False))
    done = command("train", "--resume", "--out", path)
    assert done.code == 2
    assert "which its options cannot make again" in done.err


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (Scaled, OtherScaled, "the loss was .*:Scaled and is now .*:OtherScaled"),
        (Scaled, tercet.TripletLoss, "loss.margin was None and is now 0.2; .*the loss was .*:Scaled and is now made of "
         "options, 'triplet'"),
        (lambda: tercet.TripletLoss([0.1] * 7), lambda: tercet.TripletLoss([0.1] * 6 + [0.2]), "the loss was Triplet"),
        (lambda: tercet.TripletLoss(distance=tercet.Mahalanobis(matrix=np.eye(4).tolist())),
         lambda: tercet.TripletLoss(distance=tercet.Mahalanobis(matrix=(2 * np.eye(4)).tolist())),
         "can be resumed with its own loss only: map.components of the loss given is not the run's"),
    ],
)  # fmt: skip
def test_resuming_with_another_loss_is_refused(tmp_path, before, after, message):
    path = train(tmp_path / "run", before())
    earlier = digest(path)
    with pytest.raises(ConfigError, match=message):
        train(path, after(), resume=True)
    assert digest(path) == earlier


def test_margins_of_very_many_classes_do_not_fill_the_configuration():
    from tercet.training.objective.loss import described

    one, other = (described(tercet.TripletLoss([0.1] * 3000 + [last])) for last in (0.2, 0.3))
    assert len(one) < 2100
    assert one != other


def test_beside_a_loss_of_ones_own_only_the_distance_counts(tmp_path):
    with pytest.raises(InputError) as raised:
        train(tmp_path / "run", Scaled(), margin=0.3, statistics="full", distance="cosine")
    assert str(raised.value) == (
        "margin, statistics would do nothing: the loss Scaled is your own and takes its own settings. Beside it only "
        "distance and p count, for evaluation and search."
    )
    assert not (tmp_path / "run").exists()
    path = train(tmp_path / "run", Scaled(), distance="minkowski", p=4.0)
    assert tercet.load(path).distance == tercet.Minkowski(4.0)
    assert tercet.load(train(tmp_path / "plain", Scaled())).distance == tercet.Euclidean()


def test_a_class_of_tercets_losses_with_changes_of_ones_own(tmp_path):
    class Doubled(tercet.TripletLoss):
        def forward(self, *arguments, **others):
            return 2 * super().forward(*arguments, **others)

    path = train(tmp_path / "run", Doubled(0.4, distance="cosine"))
    config = tercet.load(path).config
    assert (config.loss.loss, config.loss.distance) == (None, "cosine")
    assert config.custom_loss.startswith("Doubled(margin=0.4")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (tercet.TripletLoss, r"given is the class TripletLoss\. Make one: TripletLoss\(\.\.\.\)\."),
        (3, "given is a int"),
        (tercet.TripletLoss(distance=lambda a, b: (a - b).norm(dim=1)), r"cannot be written to config\.toml"),
        (tercet.ClipLoss(), "ClipLoss compares two sides"),
        (tercet.TripletLoss(across_ranks=True), r"across_ranks is set, and tercet\.train divides the work"),
    ],
)
def test_losses_that_cannot_be_trained_with(tmp_path, loss, message):
    with pytest.raises(InputError, match=message):
        train(tmp_path / "run", loss)
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_no_loss(tmp_path):
    with pytest.raises(ConfigError, match=r"loss is 'infonse'; it must be 'triplet' or .*Did you mean 'infonce'\?"):
        train(tmp_path / "run", "infonse")


def test_state_that_is_no_tensor_is_refused(tmp_path):
    class Wordy(Scaled):
        def get_extra_state(self):
            return {"words": 3}

        def set_extra_state(self, state):
            pass

    with pytest.raises(InputError, match="the loss Wordy keeps '_extra_state', a dict, in its state"):
        train(tmp_path / "run", Wordy())
    assert not (tmp_path / "run").exists()


def test_margins_of_classes_and_the_loss_as_the_selection(tmp_path):
    """The loss of held-out classes needs their margins as well."""
    everything = tercet.TripletLoss(tercet.PerClassMargin(7, 0.3), distance="cosine")
    train(tmp_path / "all", everything, selection="loss", holdout=0.3)
    rows = [row for row in read_history(tmp_path / "all" / "history.jsonl") if "mean_margin" in row]
    assert rows[0]["mean_margin"] == pytest.approx(0.3, abs=0.03)
    trained = [int(name) for name in np.unique(LABELS) if name not in held_classes(tmp_path / "all")]
    some = tercet.TripletLoss(dict.fromkeys(trained, 0.3))
    train(tmp_path / "some", some, holdout=0.3)
    with pytest.raises(InputError, match="the validation data also has the classes"):
        train(tmp_path / "other", some, selection="loss", holdout=0.3)


def held_classes(path):
    from tercet.data import read
    from tercet.data.split import hold_out

    assert (path / "config.toml").exists()
    return {int(name) for name in hold_out(read(DATA), 0.3, "auto", 0)[1].classes}


# Full figures, margins out of reach, and rows of which length.


def test_full_statistics_are_in_the_history(tmp_path):
    path = train(tmp_path / "run", statistics="full", margin=0.4)
    rows = [row for row in read_history(path / "history.jsonl") if "loss" in row]
    for row in rows:
        assert row["n_hard"] + row["n_semihard"] + row["n_easy"] == row["n_valid"] > 0
        assert row["n_hard"] + row["n_semihard"] == row["n_active"] > 0
    assert "n_hard" not in read_history(train(tmp_path / "free") / "history.jsonl")[0]


def test_a_contrastive_margin_out_of_reach_is_warned_of(tmp_path):
    with pytest.warns(TercetWarning, match=r"the margin is 2\.5, .* at most 2: every negative pair costs something"):
        train(tmp_path / "run", loss="contrastive", margin=2.5)


def test_draws_off_the_sphere_are_warned_of(tmp_path):
    with pytest.warns(TercetWarning, match="of negatives farther than 1.4 none is drawn"):
        train(tmp_path / "run", mining="distance-weighted", encoder=TabularOptions(dim=4, hidden=(), normalize=False))


def test_unit_rows_are_the_encoders_to_make(tmp_path):
    loose = TabularOptions(dim=4, hidden=(), normalize=False)
    with pytest.raises(InputError, match="normalize is set for the loss and not for the encoder"):
        train(tmp_path / "run", normalize=True, encoder=loose)
    train(tmp_path / "run", loss="contrastive", normalize=True)


def test_what_computes_the_loss_is_said(tmp_path):
    class Listening(Reporter):
        def say(self, sentence):
            said.append(sentence)

    said: list[str] = []
    request = make_request(base_request(DATA, None, tmp_path / "run", False), TabularOptions(dim=4, hidden=()),
                           options=SHORT | {"implementation": "torch"})  # fmt: skip
    run_session(request, tmp_path / "run", False, Listening())
    assert said.count("the loss is computed by: torch") == 1


# Distances with a domain.


class Rectified(nn.Module):
    """Features of 0 or more, as the Jaccard distance compares them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(batch.float())) + 0.01


def jaccard(x, y):
    return 1 - np.minimum(x, y).sum() / np.maximum(x, y).sum()


def test_a_distance_with_a_domain_from_training_to_search(tmp_path):
    torch.manual_seed(0)
    path = train(tmp_path / "run", loss="contrastive", distance="jaccard", encoder=Rectified())
    run = tercet.load(path)
    vectors = run.embed(ROWS)
    assert run.verify(ROWS[0], ROWS[9]).distance == pytest.approx(jaccard(vectors[0], vectors[9]), rel=1e-4)
    assert run.evaluate(UNSEEN).metrics["auc"] is not None
    index, _ = run.index(DATA)
    far = [jaccard(vectors[3], one) for one in vectors]
    assert index.search(vectors[3:4], 2)[0][1].distance == pytest.approx(sorted(far)[1], rel=1e-4)
    with pytest.raises(InputError, match="queries holds 6 negative features"):
        index.search(-vectors[3:4], 2)


def test_rows_outside_the_domain_are_refused_where_they_come_in(tmp_path):
    below = -np.ones((4, 3), dtype=np.float32)
    with pytest.raises(InputError, match="embeddings holds 12 negative features"):
        evaluate_embeddings(below, [0, 0, 1, 1], distance="jaccard", intervals=False)
    with pytest.raises(InputError, match="embeddings holds 12 negative features"):
        evaluate_tuples(below, [[0, 1, 2]], distance="jaccard", intervals=False)
    with pytest.raises(InputError, match="embeddings holds 12 negative features"):
        retrieval(below, [0, 0, 1, 1], distance="jaccard")
    with pytest.raises(InputError, match="the index holds 12 negative features"):
        Index(below, list("abcd"), None, "run", "weights", "jaccard")
    with pytest.raises(InputError, match=r"what the encoder gives holds \d+ negative features.*End the encoder with a"):
        train(tmp_path / "run", distance="jaccard")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="what the encoder gives holds"):
        train(tmp_path / "run", Scaled(), distance="jaccard")  # whatever the loss
