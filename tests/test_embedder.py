"""TripletEmbedder as scikit-learn's users meet it."""

import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_wine
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import tercet
from conftest import text_of, write_images
from tercet import TripletEmbedder
from tercet.encoders.options import ImageOptions, TabularOptions
from tercet.errors import ConfigError, DataError, InputError, RunError, TercetWarning

WINE = load_wine(return_X_y=True)
QUICK = {"steps": 4, "dim": 4, "random_state": 0, "device": "cpu"}
TEXTS = [text_of(number, sample) for number in range(4) for sample in range(6)]
TOPICS = np.repeat(["fruit", "water", "rock", "sky"], 6)


class OwnEncoder(nn.Module):
    """Of a user's own."""

    def __init__(self, features: int = 13, dim: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(features, dim)

    def forward(self, batch):
        return self.linear(batch)


def own_loss(embeddings, labels):
    """Of a user's own: pulls all that is alike."""
    same = labels[:, None] == labels
    return (torch.cdist(embeddings, embeddings) * same).mean()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks as small as these gain nothing by more, and lose much where others use the machine too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def fitted():
    return TripletEmbedder(**QUICK).fit(*WINE)


@parametrize_with_checks([TripletEmbedder(steps=2, dim=4, classes_per_batch=2, device="cpu")])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)  # none is excluded


def test_it_brings_neighbours_near():
    plain = cross_val_score(KNeighborsClassifier(3), *WINE, cv=2).mean()
    embedder = TripletEmbedder(steps=30, random_state=0, device="cpu")
    assert cross_val_score(make_pipeline(embedder, KNeighborsClassifier(3)), *WINE, cv=2).mean() > plain + 0.2


def test_embeddings_are_those_of_the_run_that_it_saves(fitted, tmp_path):
    X, _ = WINE
    run = tercet.load(fitted.save(tmp_path / "run"))
    assert fitted.transform(X).dtype == np.float32
    assert np.array_equal(run.embed(X), fitted.transform(X))
    assert (tmp_path / "run" / "report.html").exists()
    with pytest.raises(RunError, match="exists already"):
        fitted.save(tmp_path / "run")
    with pytest.raises(RunError, match="saved it without validation data"):
        run.threshold  # noqa: B018


def test_validation_data_calibrate_what_is_saved(fitted, tmp_path):
    X, y = WINE
    with pytest.warns(TercetWarning, match="are also in the training data"):
        run = tercet.load(fitted.save(tmp_path / "run", validation=(X[::3], y[::3])))
    assert run.threshold > 0
    assert run.metrics["validation.map_at_r"] == pytest.approx(fitted.score(X[::3], y[::3]))
    with pytest.raises(InputError, match="holds 60 items and y 59 labels"):
        fitted.save(tmp_path / "other", validation=(X[::3], y[::3][:-1]))
    with pytest.raises(DataError, match="does not exist"):
        fitted.save(tmp_path / "other", validation=tmp_path / "none.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_score_is_map_at_r(fitted):
    X, y = WINE
    Z = fitted.transform(X[:40])
    labels = np.arange(40) % 3
    distances = np.linalg.norm(Z[:, None].astype(float) - Z, axis=2)
    np.fill_diagonal(distances, np.inf)
    precisions = []
    for i, order in enumerate(distances.argsort(axis=1)):
        count = (labels == labels[i]).sum() - 1
        hits = labels[order[:count]] == labels[i]
        precisions.append((hits * np.cumsum(hits) / np.arange(1, count + 1)).sum() / count)
    assert fitted.score(X[:40], labels) == pytest.approx(np.mean(precisions), abs=1e-6)
    with pytest.raises(InputError, match="no class with two items"):
        fitted.score(X[:3], [0, 1, 2])
    assert np.array_equal(np.unique(y), fitted.classes_)


def test_equal_seeds_are_equal_bytes_and_copies_need_no_folder(fitted):
    X, y = WINE
    assert TripletEmbedder(**QUICK).fit(X, y).files_ == fitted.files_
    assert TripletEmbedder(**{**QUICK, "random_state": 1}).fit(X, y).files_ != fitted.files_
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.transform(X), fitted.transform(X))
    assert b"torch" not in pickle.dumps(fitted).replace(b"torch_dtype", b"")
    assert clone(fitted).get_params() == fitted.get_params()


def test_skops_keeps_it(fitted):
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(fitted)
    assert set(skops.get_untrusted_types(data=data)) <= {"tercet.estimators.embedder.TripletEmbedder"}
    again = skops.loads(data, trusted=["tercet.estimators.embedder.TripletEmbedder"])
    assert np.array_equal(again.transform(WINE[0]), fitted.transform(WINE[0]))


def test_partial_fit_goes_on():
    X, y = WINE
    first = TripletEmbedder(**QUICK).partial_fit(X[y < 2], y[y < 2])
    before = first.transform(X)
    assert np.array_equal(before, TripletEmbedder(**QUICK).fit(X[y < 2], y[y < 2]).transform(X))
    second = pickle.loads(pickle.dumps(first)).partial_fit(X, y)
    assert second.classes_.tolist() == [0, 1, 2]
    assert second.n_steps_ == 8
    change = np.abs(second.transform(X) - before).max()
    assert 0 < change < np.abs(TripletEmbedder(**{**QUICK, "random_state": 9}).fit(X, y).transform(X) - before).max()
    assert np.array_equal(first.partial_fit(X, y).transform(X), second.transform(X))
    assert "before" not in second.files_["config.toml"].decode()
    resting = pickle.loads(pickle.dumps(second)).set_params(learning_rate=1e-12).partial_fit(X, y)
    assert np.allclose(resting.transform(X), second.transform(X), atol=1e-6)
    with pytest.raises(InputError, match="not those of the encoder so far"):
        second.set_params(dim=5).partial_fit(X, y)


def test_partial_fit_keeps_what_the_loss_learned():
    X, y = WINE
    settings = {**QUICK, "loss": "supcon", "options": {"learn_temperature": True}, "learning_rate": 0.1}
    model = TripletEmbedder(**settings).fit(X, y)
    learned = model.files_["loss.safetensors"]
    model.set_params(learning_rate=1e-12).partial_fit(X, y)
    fresh = TripletEmbedder(**{**settings, "learning_rate": 1e-12}).fit(X, y).files_["loss.safetensors"]
    kept = [next(iter(load(content).values())) for content in (learned, model.files_["loss.safetensors"], fresh)]
    assert torch.allclose(kept[0], kept[1])
    assert not torch.allclose(kept[0], kept[2], rtol=1e-3)


def test_texts_in_lists_series_arrays_and_columns():
    model = TripletEmbedder(**QUICK).fit(TEXTS, TOPICS)
    expected = model.transform(TEXTS)
    assert expected.shape == (24, 4)
    frame = pd.DataFrame({"text": TEXTS, "length": [len(text) for text in TEXTS]})
    for X in (frame["text"], frame[["text"]], np.array(TEXTS), np.array(TEXTS, dtype=object)[:, None], tuple(TEXTS)):
        assert np.array_equal(model.transform(X), expected)
    for X in (frame["text"], frame[["text"]]):
        assert np.array_equal(TripletEmbedder(**QUICK).fit(X, TOPICS).transform(TEXTS), expected)
    assert not hasattr(model, "n_features_in_")
    columns = ColumnTransformer([("text", TripletEmbedder(**QUICK), "text")], remainder="passthrough")
    assert np.array_equal(columns.fit_transform(frame, TOPICS)[:, :4], expected)


def test_images_as_paths_pictures_and_arrays(tmp_path):
    folder = write_images(tmp_path / "images", range(3), samples=4)
    paths = sorted(folder.rglob("*.png"))
    y = [path.parent.name for path in paths]
    model = TripletEmbedder(ImageOptions(dim=4, width=8), steps=2, random_state=0, device="cpu").fit(paths, y)
    expected = model.transform([str(path) for path in paths])
    pictures = [Image.open(path) for path in paths]
    assert np.array_equal(model.transform(pictures), expected)
    assert np.array_equal(model.transform(np.stack([np.asarray(picture) for picture in pictures])), expected)
    assert TripletEmbedder("image").__sklearn_tags__().input_tags.three_d_array
    with pytest.raises(DataError, match="cannot be read"):
        model.transform([tmp_path / "none.png"])


def test_data_frames_in_and_out(tmp_path):
    X, y = load_wine(return_X_y=True, as_frame=True)
    model = TripletEmbedder(**QUICK).set_output(transform="pandas").fit(X, y)
    found = model.transform(X[5:])
    assert found.columns.tolist() == [f"tripletembedder{i}" for i in range(4)] == model.get_feature_names_out().tolist()
    assert found.index[0] == 5
    assert model.feature_names_in_.tolist() == list(X.columns)
    X.assign(cultivar=y).to_csv(tmp_path / "wine.csv", index=False)
    run = tercet.load(model.save(tmp_path / "run"))
    assert np.allclose(run.embed_records(tmp_path / "wine.csv").vectors, model.transform(X), atol=1e-6)
    with pytest.raises(ValueError, match="feature names"):
        model.transform(X[X.columns[::-1]])


def test_polars_in_and_out():
    polars = pytest.importorskip("polars")
    X, y = WINE
    frame = polars.DataFrame(X, schema=[f"c{i}" for i in range(13)])
    model = TripletEmbedder(**QUICK).set_output(transform="polars").fit(frame, y)
    assert isinstance(model.transform(frame), polars.DataFrame)
    assert np.array_equal(model.transform(frame).to_numpy(), TripletEmbedder(**QUICK).fit(X, y).transform(X))
    texts = TripletEmbedder(**QUICK).fit(polars.Series(TEXTS), TOPICS)
    assert np.array_equal(texts.transform(polars.DataFrame({"text": TEXTS})), texts.transform(TEXTS))


def test_grid_search_by_its_own_score():
    X, y = WINE
    grid = GridSearchCV(TripletEmbedder(steps=2, random_state=0, device="cpu"), {"dim": [2, 4]}, cv=2, refit=False)
    grid.fit(X, y)
    assert (grid.cv_results_["mean_test_score"] > 0.3).all()


def test_what_is_held_out_is_measured_and_chooses():
    X, y = WINE
    model = TripletEmbedder(**QUICK, validation_fraction=0.25, options={"evaluate_every": 2}).fit(X, y)
    assert 0 < model.metrics_["validation.map_at_r"] <= 1
    assert "evaluations/validation.json" in model.files_
    plain = TripletEmbedder(**QUICK).fit(X, y)
    assert plain.metrics_ == {}
    assert plain.files_["history.jsonl"].count(b"map_at_r") == 1  # only the last weights are looked at
    assert model.files_["history.jsonl"].count(b"map_at_r") == 2
    stopped = TripletEmbedder(
        **{**QUICK, "steps": 40, "learning_rate": 1e-9}, validation_fraction=0.25, patience=1,
        options={"evaluate_every": 2},
    ).fit(X, y)  # fmt: skip
    assert stopped.n_steps_ < 40


def test_a_run_folder_is_left_where_it_is_asked_for(tmp_path):
    model = TripletEmbedder(**QUICK, out=tmp_path / "run").fit(*WINE)
    assert np.array_equal(tercet.load(tmp_path / "run").embed(WINE[0]), model.transform(WINE[0]))
    assert (tmp_path / "run" / "checkpoints").exists()
    with pytest.raises(RunError, match="exists already"):
        model.fit(*WINE)
    with pytest.raises(InputError, match="use save"):
        model.partial_fit(*WINE)


def test_an_encoder_and_a_loss_of_ones_own():
    X, y = WINE
    module, loss = OwnEncoder(), tercet.InfoNCE(learn_temperature=True)
    before = module.linear.weight.detach().clone()
    model = TripletEmbedder(module, loss=loss, steps=3, random_state=0, device="cpu").fit(X, y)
    assert torch.equal(module.linear.weight, before)  # a copy was trained
    assert model.transform(X).shape == (178, 3)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.transform(X), model.transform(X))
    named = TripletEmbedder("test_embedder:OwnEncoder", encoder_arguments={"dim": 2}, loss=own_loss, steps=2)
    assert "test_embedder" in sys.modules
    assert named.fit(X, y).partial_fit(X, y).transform(X).shape == (178, 2)


def test_rows_told_apart_by_each_named_setting():
    X, y = WINE
    quick = {**QUICK, "steps": 1}
    plain = TripletEmbedder(**quick).fit(X, y).transform(X)
    for name, value in {
        "normalize": False, "margin": 0.9, "mining": "hard", "distance": "cosine", "penalty": "softplus",
        "learning_rate": 0.1, "classes_per_batch": 2, "samples_per_class": 8, "loss": "supcon",
        "options": {"weight_decay": 10.0},
    }.items():  # fmt: skip
        assert not np.array_equal(TripletEmbedder(**{**quick, name: value}).fit(X, y).transform(X), plain), name
    hot = TripletEmbedder(**quick, penalty="logsumexp", temperature=5.0).fit(X, y)
    assert not np.array_equal(hot.transform(X), TripletEmbedder(**quick, penalty="logsumexp").fit(X, y).transform(X))
    epochs = TripletEmbedder(epochs=3, classes_per_batch=3, dim=4, random_state=0).fit(X, y)
    assert epochs.n_steps_ > 3


def test_it_speaks_when_asked_and_hands_figures_to_a_tracker(capsys):
    seen = []
    TripletEmbedder(**QUICK, tracker=lambda step, figures: seen.append(step)).fit(*WINE)
    assert max(seen) == 4
    assert capsys.readouterr().err == ""
    TripletEmbedder(**QUICK, verbose=1).fit(*WINE)
    said = capsys.readouterr().err
    assert "training data: 178 rows" in said
    assert "flatter" not in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "tabluar"}, "Did you mean 'tabular'"),
        ({"encoder": TabularOptions(), "dim": 3}, "dim belong to an encoder of Tercet's"),
        ({"loss": "triplets"}, "Did you mean 'triplet'"),
        ({"margin": -1.0}, "margin is -1.0"),
        ({"steps": 3, "epochs": 2}, "give one of them"),
        ({"patience": 2}, "patience would do nothing without validation_fraction"),
        ({"options": {"evaluate_every": 2}}, "evaluate_every would do nothing without validation_fraction"),
        ({"options": {"seed": 2}}, "has a parameter of its own, random_state"),
        ({"options": {"margin": 2}}, "has a parameter of its own, margin"),
        ({"options": {"init": "runs/x"}}, "has partial_fit for it"),
        ({"options": {"stepz": 2}}, "unknown option 'stepz'"),
        ({"validation_fraction": 1.5}, "holdout is 1.5, it must be between 0 and 1"),
    ],
)
def test_settings_that_are_not_allowed(settings, message):
    with pytest.raises((InputError, ConfigError), match=message):
        TripletEmbedder(device="cpu", random_state=0, **settings).fit(*WINE)


def test_the_likely_mistakes_with_data(fitted):
    X, y = WINE
    with pytest.raises(InputError, match="a single one"):
        TripletEmbedder().fit("a text", ["a"])
    with pytest.raises(InputError, match="item 1 of X is None"):
        TripletEmbedder().fit(["a", None, "b"], [0, 1, 1])
    with pytest.raises(InputError, match="y is None"):
        TripletEmbedder().fit(TEXTS, None)
    with pytest.raises(InputError, match="24 items and y 23"):
        TripletEmbedder().fit(TEXTS, TOPICS[:-1])
    with pytest.raises(ValueError, match="single class"):
        TripletEmbedder().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="NaN"):
        TripletEmbedder().fit(np.where(X > 1000, np.nan, X), y)
    with pytest.raises(ValueError, match="float32 cannot hold"):
        fitted.transform(X * 1e40)
    with pytest.raises(ValueError, match="13"):
        fitted.transform(X[:, :5])
    with pytest.raises(NotFittedError):
        TripletEmbedder().save("x")
    with pytest.raises(InputError, match="X holds no texts"):
        TripletEmbedder(**QUICK).fit(TEXTS, TOPICS).transform(X)
