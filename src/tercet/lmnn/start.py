"""The map that learning starts from.

Shapes: N rows, D features, d dimensions of the learned space.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from tercet.data.randomness import keyed
from tercet.errors import InputError, check_choice
from tercet.lmnn.loops import Array

INITS = ("auto", "pca", "lda", "identity", "random")


def starting_map(X: Array, classes: Array, init: Any, n_components: int | None, seed: int) -> Array:
    """The first map, of shape (d, D), float64.

    Args:
        X: of shape (N, D), centred.
        classes: of shape (N,).
        init: `pca`, the leading principal axes; `lda`, the discriminant axes; `identity`, the first features as they
            are; `random`, entries from a normal distribution of variance 1 / D; `auto`, lda where n_components is below
            the number of classes, else pca where it is below N and D, else identity; or an array of shape (d, D).
        n_components: d; None for D, or for that of the array.
        seed: for random.

    Raises:
        InputError: an unknown init, or more components than it can give.
    """
    n_features = X.shape[1]
    if not isinstance(init, str):
        return _given(init, n_components, n_features)
    check_choice("init", init, INITS)
    d = n_features if n_components is None else n_components
    if d > n_features:
        raise InputError(f"n_components is {d}, but the data have {n_features} features; give at most that many.")
    n_discriminants = min(int(classes.max()), n_features)
    if init == "auto":
        init = "lda" if n_components and d <= n_discriminants else "pca" if d < min(X.shape) else "identity"
    if init == "identity":
        return np.eye(d, n_features)
    if init == "random":
        return keyed(seed, "lmnn").normal(size=(d, n_features)) / np.sqrt(n_features)
    most = n_discriminants if init == "lda" else min(X.shape)
    if d > most:
        raise InputError(
            f"init={init!r} gives at most {most} components here, and {d} are asked for; give n_components of at most "
            f"{most}, or init='identity'."
        )
    found = _discriminants(X, classes, d) if init == "lda" else PCA(d, svd_solver="full").fit(X).components_
    return np.ascontiguousarray(found, dtype=np.float64)


def _discriminants(X: Array, classes: Array, d: int) -> Array:
    """The leading discriminant axes; where the classes span fewer, principal axes for the rest would be no better."""
    axes = LinearDiscriminantAnalysis().fit(X, classes).scalings_.T[:d]
    if len(axes) < d or not np.isfinite(axes).all():
        raise InputError(
            f"init='lda' finds only {len(axes)} discriminant axes in these data, and {d} are asked for; give "
            "n_components of at most that, or init='pca'."
        )
    return axes


def _given(init: Any, n_components: int | None, n_features: int) -> Array:
    try:
        found = np.array(init, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"init is {init!r}; allowed are {', '.join(INITS)}, or an array of numbers.") from None
    d = n_components or (len(found) if found.ndim else 0)
    if found.ndim != 2 or found.shape != (d, n_features) or not 1 <= d <= n_features:
        raise InputError(
            f"init is an array of shape {found.shape}; allowed is ({n_components or 'n_components'}, {n_features}) "
            f"with at most {n_features} rows."
        )
    if not np.isfinite(found).all() or not found.any():
        raise InputError("init is an array that holds nothing but zeros, or numbers that are not finite.")
    return found
