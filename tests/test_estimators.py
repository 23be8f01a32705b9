"""LMNN and LMNNClassifier as scikit-learn's users meet them."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import tercet
from tercet import LMNN, LMNNClassifier
from tercet.cli import main
from tercet.errors import InputError, RunError, TercetWarning

UNCONVERGED = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
IRIS = load_iris(return_X_y=True)
WINE = load_wine(return_X_y=True)


@parametrize_with_checks(
    [LMNN(), LMNN(n_components=1, penalty="squared-hinge"), LMNNClassifier(), LMNNClassifier(rule="energy")]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)  # none is excluded


def test_it_brings_neighbours_near():
    plain = cross_val_score(KNeighborsClassifier(3), *WINE).mean()
    settings = {"tol": 1e-2, "n_jobs": 2}
    for estimator in (LMNNClassifier(**settings), LMNNClassifier(rule="energy", **settings)):
        assert cross_val_score(estimator, *WINE).mean() > plain + 0.2
    pipeline = make_pipeline(LMNN(**settings), KNeighborsClassifier(3))
    assert np.array_equal(pipeline.fit(*WINE).predict(WINE[0]), LMNNClassifier(**settings).fit(*WINE).predict(WINE[0]))


@UNCONVERGED
@pytest.mark.parametrize("solver", ["lbfgs", "stochastic"])
def test_units_of_the_data_change_nothing(solver):
    X, y = WINE
    settings = {"solver": solver, "max_iter": 20, "random_state": 0, "n_components": 4, "tol": 0.0}
    plain = LMNN(**settings).fit(X, y)
    larger = LMNN(**settings).fit(1024 * X, y)  # a power of two, so that not a bit may change
    thousand = LMNNClassifier(**settings).fit(1000 * X, y)
    assert np.array_equal(plain.components_, 1024 * larger.components_)
    assert thousand.objective_ == pytest.approx(plain.objective_, rel=1e-3)
    assert np.array_equal(thousand.predict(1000 * X), LMNNClassifier(**settings).fit(X, y).predict(X))


@UNCONVERGED
def test_without_rescaling_the_start_is_the_first_map_as_it_is():
    X, y = IRIS
    ends, targets = [], LMNN(tol=0.9).fit(X, y).target_neighbors_
    start = np.mean([((X - X[targets[:, j]]) ** 2).sum(axis=1) for j in range(3)])
    for rescale, wanted in ((False, start), (True, 4.0)):
        first = LMNN(mu=0.0, init="identity", rescale=rescale, tol=0.9, max_iter=50).fit(X, y)
        # With pull alone the first step of the search, of length 1 or less, shrinks the map from where it started.
        assert 0.2 * wanted < first.objectives_[0] / 450 < wanted
        ends.append(LMNN(init="identity", rescale=rescale, tol=1e-7, max_iter=3000).fit(X, y).objective_)
    assert ends[0] == pytest.approx(ends[1], rel=2e-2)  # the full problem is convex: one end, but for the kinks


def test_the_objective_is_that_of_the_data_as_given():
    X, y = IRIS
    model = LMNN(n_components=2, mu=0.3, max_iter=2000).fit(X, y)
    Z = model.transform(X)
    total = 0.0
    for i, targets in enumerate(model.target_neighbors_):
        others = ((Z[y != y[i]] - Z[i]) ** 2).sum(axis=1)
        for j in targets:
            assert y[i] == y[j]
            near = ((Z[i] - Z[j]) ** 2).sum()
            total += 0.7 * near + 0.3 * np.maximum(1 + near - others, 0).sum()
    assert model.objective_ == pytest.approx(total, rel=1e-9)
    assert model.objectives_[-1] == model.objective_
    assert len(model.objectives_) == model.n_iter_
    assert (np.diff(model.objectives_) <= 0).all()


@UNCONVERGED
@pytest.mark.parametrize("solver", ["lbfgs", "stochastic"])
def test_jobs_change_no_bit(solver):
    X, y = WINE
    settings = {"solver": solver, "max_iter": 8, "random_state": 3, "n_components": 5, "init": "random", "tol": 0.0}
    maps = [LMNN(n_jobs=n_jobs, **settings).fit(X, y).components_ for n_jobs in (None, 2, 3)]
    other = LMNN(**{**settings, "random_state": 4}).fit(X, y).components_
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])
    assert not np.array_equal(maps[0], other)


def test_order_and_names_of_the_classes_change_nothing_that_matters():
    X, y = IRIS
    order = np.random.default_rng(0).permutation(len(X))
    names = np.array(["setosa", "versicolor", "virginica"])
    plain = LMNNClassifier(rule="energy").fit(X, y)
    other = LMNNClassifier(rule="energy").fit(X[order], names[y[order]])
    assert other.classes_.tolist() == names.tolist()
    assert (names[plain.predict(X)] == other.predict(X)).mean() > 0.98


def test_pandas_pipeline_grid_pickle_and_names():
    X, y = load_iris(return_X_y=True, as_frame=True)
    model = LMNN(n_components=2).set_output(transform="pandas").fit(X, y)
    assert isinstance(model.transform(X), pd.DataFrame)
    assert model.get_feature_names_out().tolist() == ["lmnn0", "lmnn1"]
    assert model.feature_names_in_.tolist() == list(X.columns)
    again = pickle.loads(pickle.dumps(model))
    assert again.transform(X).equals(model.transform(X))
    assert clone(model).get_params() == model.get_params()
    grid = GridSearchCV(
        make_pipeline(StandardScaler(), LMNNClassifier()), {"lmnnclassifier__mu": [0.3, 0.7]}, cv=3
    ).fit(X, y)
    assert grid.best_score_ > 0.9


def test_single_precision_stays_and_columns_may_be_constant():
    X, y = IRIS
    X = np.column_stack([X, np.full(len(X), 7.0)]).astype(np.float32)
    model = LMNN().fit(X, y)
    assert model.transform(X).dtype == np.float32
    assert np.isfinite(model.components_).all()
    assert LMNNClassifier().fit(X, y).score(X, y) > 0.95


def test_refreshed_targets_are_nearest_under_an_earlier_map():
    X, y = WINE
    fixed, refreshed = LMNN().fit(X, y), LMNN(n_refresh=2).fit(X, y)
    assert not np.array_equal(fixed.target_neighbors_, refreshed.target_neighbors_)
    assert refreshed.objective_ < fixed.objective_
    assert refreshed.n_iter_ > fixed.n_iter_
    Z = fixed.transform(X)
    once = LMNN(n_refresh=1).fit(X, y).target_neighbors_
    distances = ((Z[:, None] - Z) ** 2).sum(axis=2) + np.where(y[:, None] == y, 0, np.inf)
    np.fill_diagonal(distances, np.inf)
    assert (np.sort(once) == np.sort(distances.argsort(axis=1)[:, :3])).mean() > 0.99


@UNCONVERGED
def test_warm_start_goes_on():
    X, y = IRIS
    model = LMNN(max_iter=5, tol=0.0, warm_start=True)
    with pytest.warns(ConvergenceWarning, match="max_iter=5"):
        first = model.fit(X, y).objective_
    second = model.fit(X, y)
    assert second.objectives_[0] < first
    with pytest.raises(InputError, match="warm_start goes on from a map of shape"):
        model.set_params(n_components=2).fit(X, y)


def test_early_stopping_holds_out_rows_of_each_class():
    X, y = WINE
    settings = {"early_stopping": True, "random_state": 0, "tol": 0.0, "max_iter": 400}
    model = LMNNClassifier(validation_fraction=0.3, n_iter_no_change=2, rule="energy", **settings).fit(X, y)
    held_out = (model.target_neighbors_ < 0).all(axis=1)
    assert np.bincount(y[held_out]).tolist() == [round(0.3 * count) for count in np.bincount(y)]
    assert model.n_iter_ < 200
    assert model.score(X, y) > 0.9
    patient = LMNN(validation_fraction=0.3, n_iter_no_change=6, **settings).fit(X, y)
    assert patient.n_iter_ > model.n_iter_


def test_callback_verbose_and_stopping(capsys):
    X, y = IRIS
    seen = []

    def stop_at_four(components, iteration):
        seen.append((components.shape, iteration))
        if iteration == 4:
            raise StopIteration

    model = LMNN(callback=stop_at_four, verbose=1, tol=0.0, n_refresh=3).fit(X, y)
    assert seen == [((4, 4), i) for i in (1, 2, 3, 4)]
    assert model.n_iter_ == 4
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "objective" in lines[0]


def test_votes_are_shares_and_energies_decide():
    X, y = IRIS
    voter = LMNNClassifier(n_neighbors=5).fit(X, y)
    assert set(np.unique(voter.predict_proba(X))) <= {i / 5 for i in range(6)}
    weigher = LMNNClassifier(rule="energy").fit(X, y)
    assert weigher.decision_function(X).shape == (150, 3)
    assert np.array_equal(weigher.predict(X), weigher.decision_function(X).argmax(axis=1))
    two = LMNNClassifier(rule="energy").fit(X[50:], y[50:])
    assert np.array_equal(two.predict(X), np.where(two.decision_function(X) > 0, 2, 1))
    assert not hasattr(weigher, "predict_proba")
    assert not hasattr(voter, "decision_function")


def test_the_learned_distance_works_in_a_loss_and_in_search():
    X, y = IRIS
    model = LMNN(n_components=3).fit(X, y)
    distance = model.mahalanobis()
    rows = torch.from_numpy(X)
    expected = torch.from_numpy(np.linalg.norm(model.transform(X[:10]) - model.transform(X[10:20]), axis=1))
    assert torch.allclose(distance.pairs(rows[:10], rows[10:20]), expected)
    loss = tercet.TripletLoss(margin=0.5, distance=distance, implementation="torch")
    mapped = tercet.TripletLoss(margin=0.5, distance="euclidean", implementation="torch")
    labels = torch.from_numpy(y)
    assert float(loss(rows, labels)) == pytest.approx(float(mapped(torch.from_numpy(model.transform(X)), labels)))
    assert [p.requires_grad for p in tercet.TripletLoss(distance=model.mahalanobis(learned=True)).parameters()] == [
        True
    ]


def test_a_fit_is_saved_as_a_run_that_every_command_takes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = load_wine(return_X_y=True, as_frame=True)
    train = np.arange(len(X)) % 3 != 0
    pipeline = make_pipeline(StandardScaler(), LMNN(n_components=3)).fit(X[train], y[train])
    scaler, model = pipeline
    out = model.save("run", scaler=scaler, train=X[train], validation=(X[~train], y[~train]))
    run, rows = tercet.load(out), pipeline.transform(X)
    vectors = run.embed(X.to_numpy()).astype(float)
    assert np.allclose(pdist(vectors), pdist(rows), rtol=1e-4, atol=1e-4)
    assert run.metrics["validation.n_items"] == (~train).sum()

    X.assign(label=y).to_csv("wine.csv", index=False)
    first, second = (",".join(map(str, X.iloc[i])) for i in (0, 1))
    with pytest.warns(TercetWarning, match="118 of 178 items of the test data are also in the training data"):
        run.evaluate("wine.csv")
    for words in (["evaluate", "run", "--data", "wine.csv"], ["embed", "run", "wine.csv", "--out", "all.parquet"],
                  ["index", "run", "wine.csv", "--out", "wine.index"], ["verify", "run", first, second],
                  ["search", "wine.index", first, "-k", "2"], ["report", "run"]):  # fmt: skip
        assert main(words) == 0, words
    found = capsys.readouterr().out
    distance = np.linalg.norm(rows[0] - rows[1])
    assert f"distance {distance:.4f} <= threshold {run.threshold:.4f}" in found
    assert "1  0.0000  row 1" in found
    assert np.allclose(np.stack(pd.read_parquet("all.parquet")["embedding"]), vectors, atol=1e-5)
    with pytest.raises(RunError, match="exists already"):
        model.save("run")


def test_what_a_saved_map_needs(tmp_path):
    X, y = IRIS
    far = np.round(8 * X) / 8 + 2**16  # which single precision holds, but not the products of it
    model = LMNNClassifier(n_components=2, tol=1e-2).fit(far, y)
    run = tercet.load(model.save(tmp_path / "run"))
    assert np.allclose(pdist(run.embed(far)), pdist(model.transform(far)), rtol=1e-4, atol=1e-4)
    assert run.config.data.columns == ("feature 1", "feature 2", "feature 3", "feature 4")
    with pytest.raises(RunError, match="saved it without validation data"):
        run.verify(X[0], X[1])
    with pytest.raises(InputError, match=r"rows of shape \(150, 2\) were given; the map takes 4"):
        model.save(tmp_path / "other", validation=(X[:, :2], y))
    with pytest.raises(InputError, match=r"scaler is StandardScaler.* of 13 columns"):
        model.save(tmp_path / "other", scaler=StandardScaler().fit(WINE[0]))
    with pytest.raises(InputError, match="scaler is MinMaxScaler"):
        model.save(tmp_path / "other", scaler=MinMaxScaler().fit(X))
    with pytest.raises(NotFittedError):
        LMNN().save(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    half = StandardScaler(with_mean=False).fit(X)
    scaled = LMNN(tol=1e-2).fit(half.transform(X), y)
    run = tercet.load(scaled.save(tmp_path / "half", scaler=half))
    assert np.allclose(pdist(run.embed(X)), pdist(scaled.transform(half.transform(X))), atol=1e-4)


def test_no_impostors_and_coinciding_rows_are_no_trouble():
    X = np.repeat([[0.0, 0.0], [1e6, 0.0]], 5, axis=0)
    y = np.repeat([0, 1], 5)
    for penalty in ("hinge", "squared-hinge"):
        model = LMNNClassifier(penalty=penalty, init="identity").fit(X, y)
        assert np.isfinite(model.components_).all()
        assert model.objective_ == 0
        assert model.score(X, y) == 1
    together = LMNN().fit(np.zeros((10, 2)), y)  # every triplet costs exactly 1, wherever the map goes
    assert together.objective_ == pytest.approx(0.5 * 10 * 3 * 5)


def test_one_feature():
    X, y = IRIS
    model = LMNNClassifier().fit(X[:, 2:3], y)
    assert model.components_.shape == (1, 1)
    assert model.score(X[:, 2:3], y) > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": "hing"}, "allowed are 'hinge', 'squared-hinge'. Did you mean 'hinge'"),
        ({"solver": "sgd"}, "solver is 'sgd'; allowed are 'lbfgs', 'stochastic'"),
        ({"init": "pc"}, "Did you mean 'pca'"),
        ({"mu": 1.5}, "mu is 1.5; allowed are numbers from 0 to 1"),
        ({"mu": float("nan")}, "mu is nan"),
        ({"n_neighbors": 0}, "n_neighbors is 0; allowed are whole numbers from 1"),
        ({"n_neighbors": 50}, "class '0' has 50 rows.*n_neighbors=49 or fewer"),
        ({"n_components": 5}, "n_components is 5, but the data have 4 features"),
        ({"max_iter": 0}, "max_iter is 0"),
        ({"tol": -1}, "tol is -1"),
        ({"n_refresh": True}, "n_refresh is True"),
        ({"batch_size": 64}, "batch_size is 64, which does nothing without solver='stochastic'"),
        ({"learning_rate": 0.1}, "learning_rate is 0.1, which does nothing without"),
        ({"validation_fraction": 0.1}, "does nothing without early_stopping=True"),
        ({"n_iter_no_change": 2}, "does nothing without early_stopping=True"),
        ({"early_stopping": True, "validation_fraction": 1.0}, "allowed are numbers between 0 and 1"),
        ({"early_stopping": True, "n_neighbors": 49}, "holds out rows"),
    ],
)
def test_settings_that_are_not_allowed(settings, message):
    with pytest.raises(InputError, match=message):
        LMNN(**settings).fit(*IRIS)


def test_the_likely_mistakes_with_data():
    X, y = IRIS
    with pytest.raises(InputError, match="single class, '0'"):
        LMNN().fit(X, np.zeros(len(X), int))
    with pytest.raises(ValueError, match="NaN"):
        LMNN().fit(np.where(X > 7, np.nan, X), y)
    with pytest.raises(InputError, match=r"rule is 'enery'.*Did you mean 'energy'"):
        LMNNClassifier(rule="enery").fit(X, y)
    with pytest.raises(NotFittedError):
        LMNN().mahalanobis()


def test_importing_tercet_imports_none_of_it():
    code = "import sys, tercet; sys.exit(any(name in sys.modules for name in ('sklearn', 'numba', 'torch', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
