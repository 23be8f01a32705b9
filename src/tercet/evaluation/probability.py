"""The probability that two items are the same, from their distance: fitted by scikit-learn, kept as plain numbers.

Same and different pairs are weighted to be equally likely, whatever the data held of either: the probability is one
where half of all pairs are the same, and `at_prior` restates it for another share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tercet.errors import InputError, RunError
from tercet.evaluation.pairs import Pairs

MOST_FITTED = 100_000  # of either kind
FEWEST_OF_A_KIND = 10
FEWEST_FOR_ISOTONIC = 500  # same, and different, pairs to fit it on: with fewer its steps are noise
HELD_OUT = 3  # every third unit
BINS = 10
WORDS = {"logistic": "a logistic curve", "isotonic": "a falling step line"}


@dataclass(frozen=True)
class Probability:
    """P(same | distance) where half of all pairs are the same.

    "logistic": 1 / (1 + exp(-(slope · distance + intercept))). "isotonic": linear between the points (x, y), and y of
    the nearest end beyond them.

    Attributes:
        kind: which of the two.
        x: (slope,) or the distances, ascending.
        y: (intercept,) or the probabilities there, descending.
        brier: on the part of the pairs that was held out to choose between the two; None where none was.
    """

    kind: Literal["logistic", "isotonic"]
    x: tuple[float, ...]
    y: tuple[float, ...]
    brier: float | None = None

    def __call__(self, distance: Any, prior: float = 0.5) -> np.ndarray:
        """The probability at each distance, float64 of the same shape, where a share `prior` of all pairs is the same.

        Raises:
            InputError: a prior that is not between 0 and 1.
        """
        at = np.asarray(distance, dtype=np.float64)
        if self.kind == "logistic":
            even = 1 / (1 + np.exp(-np.clip(self.x[0] * at + self.y[0], -700, 700)))
        else:
            even = np.interp(at, self.x, self.y)
        return at_prior(even, prior)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, "x": list(self.x), "y": list(self.y), "brier": self.brier, "prior": 0.5}

    @classmethod
    def from_json(cls, content: Any, where: str) -> Probability:
        """What `to_json` gave.

        Raises:
            RunError: anything else; `where` names the file.
        """
        try:
            kind, x, y = content["kind"], np.array(content["x"], dtype=float), np.array(content["y"], dtype=float)
            good = kind in WORDS and x.shape == y.shape and x.ndim == 1 and len(x) > (kind == "isotonic")
            if good and np.isfinite(x).all() and np.isfinite(y).all() and (np.diff(x) >= 0).all():
                return cls(kind, tuple(x.tolist()), tuple(y.tolist()), content.get("brier"))
        except (KeyError, TypeError, ValueError, AttributeError):
            pass
        raise RunError(f"{where} holds no calibration that can be read. Write it anew with: tercet calibrate")


def at_prior(probability: np.ndarray, prior: float) -> np.ndarray:
    """By Bayes' rule, a probability for pairs of which half are the same, restated for a share of `prior`.

    Raises:
        InputError: a prior that is not between 0 and 1.
    """
    if not 0 < prior < 1:
        raise InputError(f"prior is {prior!r}; it is the share of all pairs that are the same, between 0 and 1.")
    for_same, for_different = prior * probability, (1 - prior) * (1 - probability)
    return for_same / (for_same + for_different)


def fit_probability(pairs: Pairs, seed: int = 0) -> Probability:
    """The better of a logistic and an isotonic fit, by the Brier score on a third of the units, fitted again on all.

    A unit is a class, or the row of a given pair; pairs of one held-out and one other class are in neither part. The
    logistic one alone is fitted where a kind has fewer than 500 pairs to fit on or to hold out. Of more than 100,000
    pairs of a kind a seeded sample is taken.

    Raises:
        InputError: fewer than 10 pairs of either kind.
    """
    counts = {kind: int((pairs.same == kind).sum()) for kind in (True, False)}
    if min(counts.values()) < FEWEST_OF_A_KIND:
        raise InputError(
            f"a probability is fitted on {FEWEST_OF_A_KIND} pairs of either kind or more; there are {counts[True]} "
            f"same and {counts[False]} different."
        )
    taken = pairs.part(_sampled(pairs, seed))
    distance, same = taken.distance.astype(np.float64), taken.same
    inside, outside = _parts(taken, seed)
    enough = all(
        (same[part] == kind).sum() >= FEWEST_FOR_ISOTONIC for part in (inside, outside) for kind in (True, False)
    )
    if not enough:
        return _logistic(distance, same)
    fits = [(fit, brier_score(fit(distance[inside], same[inside]), distance[outside], same[outside]))
            for fit in (_logistic, _isotonic)]  # fmt: skip
    best, score = min(fits, key=lambda one: one[1])
    found = best(distance, same)
    return Probability(found.kind, found.x, found.y, score)


def brier_score(probability: Probability, distance: np.ndarray, same: np.ndarray) -> float:
    """Mean of (p - same)², both kinds weighing equally: 0 is certain and right, 0.25 is 1/2 always (Brier 1950)."""
    error = (probability(distance) - same) ** 2
    return float((error[same].mean() + error[~same].mean()) / 2)


def reliability(probability: Probability, distance: np.ndarray, same: np.ndarray) -> list[dict[str, float]]:
    """What came of what was said: a row for each tenth of the probabilities from 0 to 1 in which there are pairs.

    Both kinds weigh equally. A row is low and high (the ends of the tenth), n_pairs, weight (its share of all pairs),
    probability (the mean said) and same (the share that was).
    """
    said = probability(distance)
    weights = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())
    place = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    rows = []
    for tenth in np.unique(place):
        own = place == tenth
        weight = float(weights[own].sum())
        rows.append(
            {
                "low": float(tenth / BINS),
                "high": float((tenth + 1) / BINS),
                "n_pairs": int(own.sum()),
                "weight": weight,
                "probability": float((weights * said)[own].sum() / weight),
                "same": float((weights * same)[own].sum() / weight),
            }
        )
    return rows


def calibration_error(rows: list[dict[str, float]]) -> float:
    """Expected calibration error, sum of weight · |same - probability| over `reliability` (Naeini et al. 2015)."""
    return float(sum(row["weight"] * abs(row["same"] - row["probability"]) for row in rows))


def _sampled(pairs: Pairs, seed: int) -> np.ndarray:
    generator = np.random.default_rng((seed, 3))
    rows = []
    for kind in (True, False):
        own = np.flatnonzero(pairs.same == kind)
        drawn = generator.permutation(own)[:MOST_FITTED] if len(own) > MOST_FITTED else own
        rows.append(np.sort(drawn))
    return np.concatenate(rows)


def _parts(pairs: Pairs, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs to fit on, and which to compare on, (P,) bool each: no unit is in both."""
    units, ids = np.unique(np.stack([pairs.left_unit, pairs.right_unit]), return_inverse=True)
    held = np.zeros(len(units), dtype=bool)
    held[np.random.default_rng((seed, 4)).permutation(len(units))[::HELD_OUT]] = True
    left, right = held[ids.reshape(2, -1)]
    return ~left & ~right, left & right


def _even_weights(same: np.ndarray) -> np.ndarray:
    """Weights, (P,), by which same and different pairs are equally likely; their mean is 1."""
    return len(same) * np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())


def _logistic(distance: np.ndarray, same: np.ndarray) -> Probability:
    """Platt's fit (1999), towards (n + 1) / (n + 2) and 1 / (n + 2): so kinds that never overlap give no step."""
    from sklearn.linear_model import LogisticRegression

    centre, spread = float(distance.mean()), float(distance.std()) or 1.0
    scaled = ((distance - centre) / spread)[:, None]
    doubt = np.where(same, 1 / (same.sum() + 2), 1 / ((~same).sum() + 2))
    weights = _even_weights(same)
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
        np.concatenate([scaled, scaled]),
        np.concatenate([same, ~same]),
        np.concatenate([weights * (1 - doubt), weights * doubt]),
    )
    slope = float(model.coef_[0, 0]) / spread
    return Probability("logistic", (slope,), (float(model.intercept_[0]) - slope * centre,))


def _isotonic(distance: np.ndarray, same: np.ndarray) -> Probability:
    """Isotonic regression (Zadrozny and Elkan 2002), kept off 0 and 1 as Platt's targets are."""
    from sklearn.isotonic import IsotonicRegression

    surest = 1 - 1 / (same.sum() + 2)
    least = 1 / ((~same).sum() + 2)
    model = IsotonicRegression(y_min=least, y_max=surest, increasing=False, out_of_bounds="clip")
    model.fit(distance, same, _even_weights(same))
    return Probability("isotonic", tuple(model.X_thresholds_.tolist()), tuple(model.y_thresholds_.tolist()))
