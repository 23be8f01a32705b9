"""Scikit-learn's face: LMNN as a transformer, and as a classifier.

Shapes: N rows, D features, d components, C classes, Q rows to classify, k neighbours.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tercet.data.records import plural
from tercet.errors import InputError, check_choice
from tercet.lmnn.energy import energies
from tercet.lmnn.learning import Learned, Settings, learn
from tercet.lmnn.loops import Array
from tercet.lmnn.workers import workers

if TYPE_CHECKING:
    from sklearn.preprocessing import StandardScaler

    from tercet.distances import Mahalanobis

RULES = ("knn", "energy")
FLOATS = (np.float64, np.float32)


class LMNN(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A linear map under which the k nearest neighbours of a row are of its own class, by a margin.

    Minimises, over the map L of shape (d, D) and with d(i, j) = |L (x_i - x_j)|²,

        (1 - mu) sum_{i, j} d(i, j) + mu sum_{i, j} sum_{l: y_l != y_i} penalty(1 + d(i, j) - d(i, l))

    with j over the target neighbours of i, the k rows of its class that are nearest in the data as given. Every
    impostor l counts, at every step: none is sampled, and those are searched that lie within the distance of the
    farthest target under the present map, plus 1.

    Cost of an iteration: O(N D d) and the impostors, and where they have to be searched anew O(N² d); memory O(N D).
    The fit computes in float64. It does not depend on n_jobs, to the bit.

    Args:
        n_neighbors: k, target neighbours of each row; every class needs more rows than that.
        n_components: d, dimensions of the learned space; None for D, or for the rows of an array given as init.
        init: the first map: `auto`, `pca`, `lda`, `identity`, `random`, or an array of shape (d, D). `auto` is lda
            where n_components is below the number of classes, else pca where it is below N and D, else identity.
        mu: weight of the push, from 0 to 1; the pull has 1 - mu.
        penalty: `hinge`, as published, or `squared-hinge`, as in PyLMNN, which is smooth.
        n_refresh: how many times to choose the target neighbours anew, under the map learned so far, and go on.
        solver: `lbfgs`, exact; or `stochastic`, batches of rows that are one another's impostors, for many rows.
        rescale: measure the data in units of their own, and start where the mean squared distance to the targets is 4,
            so that it does not matter in which units the data are. False starts from the first map as it is.
        max_iter: iterations at most, in each round of target neighbours; epochs, if stochastic.
        tol: lbfgs ends once five iterations gain no more than this share of the objective; three epochs of the
            stochastic solver that gain no more halve its rate.
        warm_start: go on from the map of the last fit, if there is one, instead of init.
        early_stopping: hold out rows of each class, and end with the map that classifies them best by k neighbours.
        validation_fraction: the share to hold out, with early_stopping; None for 0.2.
        n_iter_no_change: end after so many checks that were no better (a check every 5 iterations, or every epoch),
            with early_stopping; None for 5.
        batch_size: rows of a batch, if stochastic; None for 1024.
        learning_rate: the share by which a step may change the map, about, if stochastic; None for 0.1.
        callback: called as callback(components, iteration) after each iteration; StopIteration raised in it ends the
            fit with the map so far.
        n_jobs: threads; None for 1, -1 for all cores.
        random_state: of what is random: init="random", the rows held out, the batches.
        verbose: 1 writes a line on stderr after each iteration.

    Attributes:
        components_: the map, of shape (d, D); distances of rows times its transpose are the learned ones.
        objective_: the objective there; if stochastic, its mean estimate in the last epoch; with early_stopping that of
            the last iteration.
        objectives_: after each iteration, of shape (n_iter_,).
        n_iter_: iterations.
        target_neighbors_: of shape (N, k), the target neighbours that were used last; -1 in rows held out.
        classes_: of shape (C,).
        mean_: of shape (D,), the mean of the rows; distances do not depend on it, and a saved run is centred by it.
        n_features_in_: D.
        feature_names_in_: of shape (D,), where X is a data frame with names.

    References:
        K. Q. Weinberger, J. Blitzer and L. K. Saul. Distance Metric Learning for Large Margin Nearest Neighbor
        Classification. NIPS 18, 2005. K. Q. Weinberger and L. K. Saul. Journal of Machine Learning Research 10, 207 to
        244, 2009.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> import tercet
        >>> X, y = load_iris(return_X_y=True)
        >>> tercet.LMNN(n_neighbors=3, n_components=2).fit(X, y).transform(X).shape
        (150, 2)
    """

    def __init__(
        self,
        n_neighbors: int = 3,
        *,
        n_components: int | None = None,
        init: Any = "auto",
        mu: float = 0.5,
        penalty: str = "hinge",
        n_refresh: int = 0,
        solver: str = "lbfgs",
        rescale: bool = True,
        max_iter: int = 1000,
        tol: float = 1e-4,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float | None = None,
        n_iter_no_change: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        callback: Callable[[Array, int], None] | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.n_components = n_components
        self.init = init
        self.mu = mu
        self.penalty = penalty
        self.n_refresh = n_refresh
        self.solver = solver
        self.rescale = rescale
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.callback = callback
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> LMNN:
        """Learn the map from rows X of shape (N, D) and their classes y of shape (N,); returns self.

        Raises:
            InputError: a setting that is not allowed or would do nothing; a single class; a class with no more than
                n_neighbors rows. It is a ValueError, as are scikit-learn's for NaN and shapes.
        """
        X, codes = self._checked(X, y)
        warm = self._warm(X.shape[1])
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with workers(effective_n_jobs(self.n_jobs)) as threads:
            found = learn(X, codes, self._settings(), seed=seed, workers=threads, tell=self._teller(), warm=warm)
        self._keep(found)
        self.mean_ = X.mean(axis=0, dtype=np.float64)
        return self

    def transform(self, X: Any) -> Array:
        """Map rows X of shape (Q, D) to the learned space: X times the transpose of components_, of shape (Q, d)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=FLOATS, reset=False)
        return X @ self.components_.T.astype(X.dtype)

    def mahalanobis(self, learned: bool = False) -> Mahalanobis:
        """The learned distance, for any loss, evaluation or search of Tercet.

        It is |L (x - y)|, the root of what the fit compares, since a distance of Tercet's is a metric.

        Args:
            learned: let a training go on learning the map.
        """
        import torch

        from tercet.distances import Mahalanobis

        check_is_fitted(self)
        return Mahalanobis(components=torch.from_numpy(self.components_.copy()), learned=learned)

    def save(
        self, out: str | Path, *, scaler: StandardScaler | None = None, train: Any = None, validation: Any = None
    ) -> Path:
        """Write the map as a run folder, which `tercet.load`, embed, index, search, verify and evaluate take.

        Its encoder is linear: an embedding is, in float32 and but for a constant, what `transform` gives, so that all
        Euclidean distances are the learned ones. Columns have the names of the data frame of the fit.

        Args:
            out: the folder, which must not exist yet.
            scaler: the fitted `StandardScaler` that came before the map, in a pipeline: the run then takes rows as they
                are before it.
            train: the rows of the fit, of shape (N, D), as the run will meet them: by them an evaluation notices items
                that were trained on. Without them it cannot.
            validation: labelled rows (X, y) that the fit has not seen, or whatever `tercet.train` takes as such: they
                calibrate the threshold of `verify`. Without them there is none.

        Returns:
            the path of the folder.

        Raises:
            InputError: a scaler of other columns than the map's, rows of another width.
            RunError: the folder is in the way.
        """
        from tercet.estimators.runs import save_map

        check_is_fitted(self)
        return save_map(self, Path(out), scaler, train, validation)

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _settings(self) -> Settings:
        names = Settings.__dataclass_fields__
        return Settings(**{name: getattr(self, name) for name in names})

    def _checked(self, X: Any, y: Any) -> tuple[Array, Array]:
        """X, finite, and the classes' numbers; sets classes_."""
        X, y = validate_data(self, X, y, dtype=FLOATS, ensure_min_samples=2)
        check_classification_targets(y)
        self._settings().check()
        self.classes_, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
        if len(self.classes_) < 2:
            raise InputError(
                f"y holds a single class, {str(self.classes_[0])!r}: there is nothing to keep apart. Give rows of at "
                "least two classes."
            )
        if counts.min() <= self.n_neighbors:
            smallest, most = self.classes_[counts.argmin()], counts.min() - 1
            remedy = f"Give n_neighbors={most} or fewer, or leave" if most else "Leave"
            raise InputError(
                f"n_neighbors is {self.n_neighbors}, but class {str(smallest)!r} has {plural(most + 1, 'row')}, and a "
                f"row is no neighbour of its own. {remedy} that class out. (n_samples = {X.shape[0]}, n_features = "
                f"{X.shape[1]})"
            )
        return X, codes

    def _warm(self, n_features: int) -> Array | None:
        if not self.warm_start or not hasattr(self, "components_"):
            return None
        wanted = (self.n_components or self.components_.shape[0], n_features)
        if self.components_.shape != wanted:
            raise InputError(
                f"warm_start goes on from a map of shape {self.components_.shape}, and {wanted} is asked for now; set "
                "warm_start=False to begin anew."
            )
        return self.components_

    def _teller(self) -> Callable[[Array, float, int, int], None]:
        began = time.perf_counter()

        def tell(components: Array, objective: float, n_active: int, iteration: int) -> None:
            if self.verbose:
                sys.stderr.write(
                    f"[{type(self).__name__}] iteration {iteration:4d}  objective {objective:.6e}  "
                    f"active triplets {n_active}  {time.perf_counter() - began:.1f} s\n"
                )
            if self.callback is not None:
                self.callback(components, iteration)

        return tell

    def _keep(self, found: Learned) -> None:
        self.components_ = found.components
        self.objective_, self.objectives_, self.n_iter_ = found.objective, found.objectives, found.n_iter
        self.target_neighbors_ = found.targets
        if not found.converged:
            warnings.warn(
                f"{type(self).__name__} has not converged in max_iter={self.max_iter} iterations; raise max_iter "
                "or tol.",
                ConvergenceWarning,
                stacklevel=3,
            )


def _votes(estimator: LMNNClassifier) -> bool:
    return estimator.rule == "knn"


def _weighs(estimator: LMNNClassifier) -> bool:
    return estimator.rule == "energy"


class LMNNClassifier(ClassifierMixin, LMNN):
    """Classification under the map that `LMNN` learns: by the nearest neighbours, or by energy.

    With rule="knn" the n_neighbors nearest training rows under the map vote. With rule="energy" a row gets the class in
    which it would add least to the objective: its own pull, its impostors, and the impostor that it would be to others
    (Weinberger and Saul 2009, section 3.5); that sees more of the training rows, and in the paper it errs less.

    Args:
        n_neighbors: as of LMNN, and how many neighbours vote.
        rule: `knn` or `energy`.
        n_components: this and all that follow are as of LMNN.
        init: as of LMNN.
        mu: as of LMNN; the energy has the same.
        penalty: as of LMNN; the energy has the same.
        n_refresh: as of LMNN.
        solver: as of LMNN.
        rescale: as of LMNN.
        max_iter: as of LMNN.
        tol: as of LMNN.
        warm_start: as of LMNN.
        early_stopping: as of LMNN; the rows held out vote, and have target neighbours of their own in the energy.
        validation_fraction: as of LMNN.
        n_iter_no_change: as of LMNN.
        batch_size: as of LMNN.
        learning_rate: as of LMNN.
        callback: as of LMNN.
        n_jobs: as of LMNN.
        random_state: as of LMNN.
        verbose: as of LMNN.

    Attributes:
        components_: this and the others are as of LMNN.
    """

    def __init__(
        self,
        n_neighbors: int = 3,
        *,
        rule: str = "knn",
        n_components: int | None = None,
        init: Any = "auto",
        mu: float = 0.5,
        penalty: str = "hinge",
        n_refresh: int = 0,
        solver: str = "lbfgs",
        rescale: bool = True,
        max_iter: int = 1000,
        tol: float = 1e-4,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float | None = None,
        n_iter_no_change: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        callback: Callable[[Array, int], None] | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            n_neighbors, n_components=n_components, init=init, mu=mu, penalty=penalty, n_refresh=n_refresh,
            solver=solver, rescale=rescale, max_iter=max_iter, tol=tol, warm_start=warm_start,
            early_stopping=early_stopping, validation_fraction=validation_fraction, n_iter_no_change=n_iter_no_change,
            batch_size=batch_size, learning_rate=learning_rate, callback=callback, n_jobs=n_jobs,
            random_state=random_state, verbose=verbose,
        )  # fmt: skip
        self.rule = rule

    def fit(self, X: Any, y: Any) -> LMNNClassifier:
        """Learn the map and keep the training rows under it; arguments and errors are those of `LMNN.fit`."""
        check_choice("rule", self.rule, RULES)
        super().fit(X, y)
        X = validate_data(self, X, dtype=FLOATS, reset=False)
        codes = np.searchsorted(self.classes_, np.asarray(y).ravel())
        self._training = X.astype(np.float64) @ self.components_.T, codes
        if self.rule == "knn":
            self._voters = KNeighborsClassifier(self.n_neighbors, n_jobs=self.n_jobs).fit(*self._training)
        else:
            self._targets = self._targets_of_all()
        return self

    def predict(self, X: Any) -> Array:
        """The classes of rows X of shape (Q, D), of shape (Q,)."""
        check_is_fitted(self)
        if self.rule == "energy":
            return self.classes_[self._energies(X).argmin(axis=1)]
        return self.classes_[self._voters.predict(self._mapped(X))]

    @available_if(_votes)
    def predict_proba(self, X: Any) -> Array:
        """The share of the votes for each class, of shape (Q, C); not with rule="energy", which is no probability."""
        check_is_fitted(self)
        return self._voters.predict_proba(self._mapped(X))

    @available_if(_weighs)
    def decision_function(self, X: Any) -> Array:
        """Minus the energy of each class, of shape (Q, C), or of two classes the difference (Q,); with rule="energy".

        Time O(Q N d), memory O(Q C).
        """
        found = self._energies(X)
        return found[:, 0] - found[:, 1] if found.shape[1] == 2 else -found

    def _mapped(self, X: Any) -> Array:
        check_is_fitted(self)
        return validate_data(self, X, dtype=FLOATS, reset=False).astype(np.float64) @ self.components_.T

    def _energies(self, X: Any) -> Array:
        queries = self._mapped(X)
        rows, codes = self._training
        with workers(effective_n_jobs(self.n_jobs)) as threads:
            return energies(queries, rows, codes, self._targets, self.mu, self.penalty, threads)

    def _targets_of_all(self) -> Array:
        """The target neighbours of the fit, and where rows were held out from it, the nearest now."""
        from tercet.lmnn.targets import target_neighbours

        if (self.target_neighbors_ >= 0).all():
            return self.target_neighbors_
        rows, codes = self._training
        order = np.argsort(codes, kind="stable")
        with workers(effective_n_jobs(self.n_jobs)) as threads:
            found = target_neighbours(rows[order] - rows.mean(axis=0), codes[order], self.n_neighbors, threads)
        targets = np.empty_like(self.target_neighbors_)
        targets[order] = order[found]
        return np.where(self.target_neighbors_ >= 0, self.target_neighbors_, targets)
