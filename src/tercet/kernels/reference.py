"""The definition, by plain loops over triplets in float64: O(A·M·D + triplets) in Python, for small inputs.

It shares nothing with the tiled implementation but the rule's words: labels and ids are compared one by one,
a distance is its textbook formula, a gradient is autograd of that formula (and zero where the distance is
zero).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tercet.kernels.pairing import Batch
from tercet.kernels.result import Totals, TripletStats
from tercet.kernels.rule import Plan, Rule


def _softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


COSTS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "hinge": (lambda z: max(z, 0.0), lambda z: 1.0 if z > 0 else 0.0),
    "squared-hinge": (lambda z: max(z, 0.0) ** 2, lambda z: 2 * max(z, 0.0)),
    "softplus": (_softplus, _sigmoid),
    "logsumexp": (_softplus, _sigmoid),
}


@dataclass
class Outcome:
    """Sums of the loops, before the reduction: distances and weights are addressed by (anchor, reference)."""

    value: float = 0.0
    n_mined: int = 0
    n_terms: int = 0
    n_active: int = 0
    n_valid: int = 0
    without_positive: int = 0
    without_negative: int = 0
    positive: list[float] = field(default_factory=list)
    negative: list[float] = field(default_factory=list)
    weights: dict[tuple[int, int], float] = field(default_factory=dict)

    def add(self, rule: Rule, d: list[list[float]], a: int, p: int, n: int) -> None:
        """Count and weigh one mined triplet."""
        cost, slope = COSTS[rule.penalty]
        tau = rule.temperature if rule.penalty == "logsumexp" else 1.0
        # z > 0 and d_ap + m > d_an round alike here: a difference of unequal numbers is never zero.
        z = (d[a][p] + rule.margin) - d[a][n]
        self.value += tau * cost(z / tau)
        self.n_mined += 1
        self.n_terms += 1
        self.n_active += d[a][p] + rule.margin > d[a][n]
        self.weigh(a, p, slope(z / tau))
        self.weigh(a, n, -slope(z / tau))

    def add_pair(self, rule: Rule, d: list[list[float]], a: int, p: int, negatives: list[int]) -> None:
        """Count and weigh a pair with all its negatives at once: tau * log(1 + sum of exp(z / tau))."""
        exponents = [((d[a][p] + rule.margin) - d[a][n]) / rule.temperature for n in negatives]
        largest = max([0.0, *exponents])  # log(1 + ...): the one is exp(0)
        total = math.exp(-largest) + sum(math.exp(z - largest) for z in exponents)
        self.value += rule.temperature * (largest + math.log(total))
        self.n_terms += 1
        self.n_mined += len(negatives)
        self.n_active += sum(d[a][p] + rule.margin > d[a][n] for n in negatives)
        for n, z in zip(negatives, exponents, strict=True):
            self.weigh(a, p, math.exp(z - largest) / total)
            self.weigh(a, n, -math.exp(z - largest) / total)

    def weigh(self, a: int, j: int, weight: float) -> None:
        """Add to the weight of a distance."""
        self.weights[a, j] = self.weights.get((a, j), 0.0) + weight


def mined_triplets(rule: Rule, d: list[float], positives: list[int], negatives: list[int]) -> list[tuple[int, int]]:
    """The (positive, negative) pairs mined for one anchor, whose distances to the references are d."""
    if rule.mining == "all":
        return [(p, n) for p in positives for n in negatives]
    if not positives or not negatives:
        return []
    if rule.mining == "hard":
        return [(max(positives, key=lambda p: d[p]), min(negatives, key=lambda n: d[n]))]  # the first among equals
    found = []
    for p in positives:
        beyond = [n for n in negatives if d[n] > d[p]]
        if beyond:
            found.append((p, min(beyond, key=lambda n: d[n])))
        elif rule.fallback == "farthest":
            found.append((p, max(negatives, key=lambda n: d[n])))
    return found


def loop_over_triplets(batch: Batch, rule: Rule, d: list[list[float]]) -> Outcome:
    """All that the rule says about distances d[a][j] between anchors and references."""
    outcome = Outcome()
    labels, reference_labels = batch.labels.tolist(), batch.reference_labels.tolist()
    ids = None if batch.ids is None else batch.ids.tolist()
    reference_ids = None if batch.reference_ids is None else batch.reference_ids.tolist()
    for a, label in enumerate(labels):
        positives: list[int] = []
        negatives: list[int] = []
        for j, other in enumerate(reference_labels):
            if ids is not None and reference_ids is not None and ids[a] == reference_ids[j]:
                continue  # the same item
            (positives if label == other else negatives).append(j)
        outcome.n_valid += len(positives) * len(negatives)
        outcome.without_positive += not positives
        outcome.without_negative += not negatives
        outcome.positive += [d[a][p] for p in positives]
        outcome.negative += [d[a][n] for n in negatives]
        if rule.penalty == "logsumexp" and rule.mining == "all":
            for p in positives if negatives else []:
                outcome.add_pair(rule, d, a, p, negatives)
            continue
        for p, n in mined_triplets(rule, d[a], positives, negatives):
            outcome.add(rule, d, a, p, n)
    return outcome


def gradient_of_pairs(
    x: Tensor, y: Tensor, d: list[list[float]], weights: dict[tuple[int, int], float], rule: Rule
) -> tuple[Tensor, Tensor]:
    """Gradient of the sum of weights[a, j] d(x[a], y[j]), by autograd of the distance's definition."""
    with torch.enable_grad():
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
        total = (x.sum() + y.sum()) * 0
        for (a, j), weight in weights.items():
            if weight != 0 and d[a][j] != 0:
                total = total + weight * rule.distance.definition(x[a], y[j])
        dx, dy = torch.autograd.grad(total, (x, y))
    return dx, dy


def reduce_by_loops(batch: Batch, rule: Rule, plan: Plan, need_gradient: bool) -> Totals:
    """Totals of the rule over all anchors; the plan has no say."""
    x, y = batch.anchors.double(), batch.references.double()
    d = [[float(rule.distance.definition(row, other)) for other in y] for row in x]
    found = loop_over_triplets(batch, rule, d)
    dx, dy = gradient_of_pairs(x, y, d, found.weights, rule) if need_gradient else (None, None)
    if batch.is_alone and dx is not None and dy is not None:
        dx = dy = dx + dy

    def whole(number: int) -> Tensor:
        return torch.tensor(number, device=x.device)

    def mean(numbers: list[float]) -> Tensor:
        return batch.anchors.new_tensor(sum(numbers) / max(1, len(numbers)))

    stats = TripletStats(
        n_valid=whole(found.n_valid),
        n_mined=whole(found.n_mined),
        n_active=whole(found.n_active),
        mean_positive=mean(found.positive),
        mean_negative=mean(found.negative),
        anchors_without_positive=whole(found.without_positive),
        anchors_without_negative=whole(found.without_negative),
    )
    return Totals(x.new_tensor(found.value), whole(found.n_terms), dx, dy, stats)
