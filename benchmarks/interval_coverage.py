"""How often a 95 % interval holds the truth, on populations of which the truth is known.

    python benchmarks/interval_coverage.py --classes 20 50 --draws 1000
    python benchmarks/interval_coverage.py --rows 20 50 200
    python benchmarks/interval_coverage.py --classes 20 50 --compare
    python benchmarks/interval_coverage.py --items 100 200 --labels 15

A population has classes with a random centre and a random spread, and two to ten items of each. Of every draw of so
many classes the figures and their intervals are taken. The truth is, for retrieval, the mean of the figure over all
draws: what is to be expected of so many new classes, searched among each other. For AUC, EER and TAR at FAR it is the
figure of two million pairs of classes of their own, for the accuracy of triplets that of a million triplets; and two
equally good runs differ by 0. Items with several labels, one to three, lie at the sum of their labels' centres, which
are the same in all draws; the truth is the mean over all draws.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from tercet.evaluation import (
    all_pairs,
    evaluate_embeddings,
    evaluate_tuples,
    mean_intervals,
    retrieval,
    verification_intervals,
)
from tercet.evaluation.comparison import compare_groups, measure_labelled
from tercet.evaluation.rivals import MOST_PRODUCTS, rivals_within
from tercet.evaluation.verification import curve_metrics, verification

SIZES = range(2, 11)
PAIRS = 1_000_000
FIGURES = ("recall_at_1", "map_at_r", "auc", "eer", "tar_at_far_0.1", "tar_at_far_0.01", "tar_at_far_0.001")
Drawn = tuple[dict[str, float], dict[str, tuple[float, float]]]


@dataclass(frozen=True)
class Population:
    """Classes with normal centres, `apart` from each other, whose items spread by exp(`unlike` times a deviate)."""

    apart: float
    dimensions: int
    unlike: float

    def items(self, rng: np.random.Generator, classes: np.ndarray) -> np.ndarray:
        """An item of each of these classes, equal numbers being one class, (N, D)."""
        names, codes = np.unique(classes, return_inverse=True)
        centres = self.apart * rng.normal(size=(len(names), self.dimensions))
        spread = np.exp(self.unlike * rng.normal(size=len(names)))
        return centres[codes] + spread[codes, None] * rng.normal(size=(len(codes), self.dimensions))

    def draw(self, rng: np.random.Generator, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Items of so many classes, and their labels."""
        labels = np.repeat(np.arange(n_classes), rng.choice(SIZES, n_classes))
        return self.items(rng, labels), labels


def main() -> None:
    """Print a line for each number of classes and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 50, 100, 200])
    parser.add_argument(
        "--rows", type=int, nargs="*", default=[], help="rows of triplets and pairs, instead of classes"
    )
    parser.add_argument("--compare", action="store_true", help="differences of two runs that are equally good")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--apart", type=float, default=2.0)
    parser.add_argument("--dimensions", type=int, default=6)
    parser.add_argument("--unlike", type=float, default=0.2)
    parser.add_argument("--most-products", type=int, default=MOST_PRODUCTS, help="of the search for rivals")
    parser.add_argument(
        "--items", type=int, nargs="*", default=[], help="items with several labels, instead of classes"
    )
    parser.add_argument("--labels", type=int, default=15, help="that there are, of which an item has one to three")
    options = parser.parse_args()
    population = Population(options.apart, options.dimensions, options.unlike)
    print(f"{'units':>8} {'figure':<18}{'truth':>8}{'spread':>8}{'held':>8}{'below':>8}{'above':>8}")
    if options.rows:
        truth = true_rates(population, of_rows=True)
        for rows in options.rows:
            tell(rows, [of_rows(population, rows, seed) for seed in range(options.draws)], truth)
        return
    for items in options.items:
        found = [of_label_sets(items, options.labels, seed) for seed in range(options.draws)]
        tell(items, found, {name: float(np.mean([one[0][name] for one in found])) for name in FIGURES[2:5]})
    if options.items:
        return
    if options.compare:
        for classes in options.classes:
            tell(
                classes,
                [of_differences(population, classes, seed) for seed in range(options.draws)],
                dict.fromkeys(FIGURES, 0.0),
            )
        return
    truth = true_rates(population, of_rows=False)
    for classes in options.classes:
        found = [of_classes(population, classes, seed, options.most_products) for seed in range(options.draws)]
        means = {name: float(np.mean([one[0][name] for one in found])) for name in FIGURES[:2]}
        tell(classes, found, truth | means)


def of_classes(population: Population, classes: int, seed: int, most_products: int) -> Drawn:
    """Figures and intervals of one draw of classes."""
    items, labels = population.draw(np.random.default_rng((7, seed)), classes)
    found = retrieval(items, labels, ks=(1,))
    figures = found.figures()
    rivals = rivals_within(items, labels, figures, most_products=most_products)
    pairs = all_pairs(items, labels)
    verified = {name: value for name, value in verification(pairs).metrics.items() if value is not None}
    ends = mean_intervals(figures, found.query_classes, rivals=rivals) | verification_intervals(pairs)
    return verified | {name: float(values.mean()) for name, values in figures.items()}, ends


def of_rows(population: Population, rows: int, seed: int) -> Drawn:
    """Figures and intervals of one draw of triplets, each of two classes of its own."""
    rng = np.random.default_rng((8, seed))
    classes = 2 * np.arange(rows)
    items = population.items(rng, np.concatenate([classes, classes, classes + 1]))
    found = evaluate_tuples(items, np.arange(3 * rows).reshape(3, rows).T)
    return {name: value for name, value in found.metrics.items() if value is not None}, found.intervals


def of_label_sets(items: int, labels: int, seed: int) -> Drawn:
    """Figures and intervals of one draw of items with one to three of these labels."""
    rng, centres = np.random.default_rng((10, seed)), np.random.default_rng(11).normal(size=(labels, 6))
    sets = [rng.choice(labels, rng.integers(1, 4), replace=False).tolist() for _ in range(items)]
    rows = np.stack([centres[own].sum(axis=0) for own in sets]) + 0.7 * rng.normal(size=(items, 6))
    found = evaluate_embeddings(rows, sets, ks=(1,))
    return {name: value for name, value in found.metrics.items() if value is not None}, found.intervals


def of_differences(population: Population, classes: int, seed: int) -> Drawn:
    """Differences of two runs that see the same items, each with an error of its own."""
    rng = np.random.default_rng((9, seed))
    items, labels = population.draw(rng, classes)
    one, other = (measure_labelled(items + 0.7 * rng.normal(size=items.shape), labels, "euclidean") for _ in range(2))
    found = compare_groups({"one": [one], "other": [other]})
    return {of.metric: of.difference for of in found}, {of.metric: of.interval for of in found}


def true_rates(population: Population, of_rows: bool) -> dict[str, float]:
    """The figures of very many pairs, as frequent as classes of such sizes have them, and of as many triplets."""
    rng = np.random.default_rng(6)
    classes = 2 * np.arange(PAIRS)
    three = population.items(rng, np.concatenate([classes, classes, classes + 1])).reshape(3, PAIRS, -1)
    same, different = (np.linalg.norm(three[0] - three[place], axis=1) for place in (1, 2))
    # Sizes are independent of centres and spreads, so a pair of a large class is like any other.
    distance, is_same = np.concatenate([same, different]), np.arange(2 * PAIRS) < PAIRS
    order = np.argsort(distance)
    tar, far = (np.append(0.0, np.cumsum(kind[order]) / PAIRS) for kind in (is_same, ~is_same))
    return curve_metrics(far, tar) | ({"triplet_accuracy": float((same < different).mean())} if of_rows else {})


def tell(units: int, found: list[Drawn], truth: dict[str, float]) -> None:
    """Print how often the interval of each figure held the truth, and lay below and above it."""
    for name in (*FIGURES, "triplet_accuracy"):
        ends = np.array([one[1][name] for one in found if name in one[0] and name in one[1]])
        if not len(ends) or name not in truth:
            continue
        below, above = (ends[:, 1] < truth[name]).mean(), (ends[:, 0] > truth[name]).mean()
        spread = np.std([one[0][name] for one in found if name in one[0]])
        shares = "".join(f"{100 * share:7.1f}%" for share in (1 - below - above, below, above))
        print(f"{units:>8} {name:<18}{truth[name]:>8.3f}{spread:>8.3f}{shares}", flush=True)


if __name__ == "__main__":
    main()
