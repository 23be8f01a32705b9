"""The definition, by plain loops over anchors and positives in float64: for small inputs and tests.

It shares nothing with the tiled implementation but the rule's words: labels, ids and groups are compared one
by one, a distance is its textbook formula, a cost is written as in a paper, and a gradient is autograd of
both (and zero where the distance is zero). O(A·M·D + triplets) work in Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tercet.collectives import ALONE, Ranks
from tercet.kernels.pairing import Batch
from tercet.kernels.result import BINS, Census, Part, Totals, TripletStats
from tercet.kernels.rule import Plan, Rule

# The cost of triplets, of z = d_ap + margin - d_an and the temperature.
COSTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hinge": lambda z, tau: z.relu(),
    "squared-hinge": lambda z, tau: z.relu() ** 2,
    "softplus": lambda z, tau: torch.logaddexp(z, 0 * z),
    "logsumexp": lambda z, tau: tau * torch.logaddexp(z / tau, 0 * z),
}


@dataclass
class Terms:
    """The terms of one anchor that are divided by one number: their sum, how many, and how many above zero."""

    value: Tensor
    number: int
    active: int


@dataclass
class Anchor:
    """One anchor: its distances to all references, as a graph and as numbers, and who is compared with it."""

    index: int
    d: Tensor
    numbers: list[float]
    margin: Tensor
    tau: Tensor
    positives: list[int]
    negatives: list[int]

    def z(self, p: int, negatives: list[int]) -> Tensor:
        """d_ap + margin - d_an for one positive and a list of negatives."""
        return (self.d[p] + self.margin) - self.d[negatives]

    def count_active(self, p: int, negatives: list[int]) -> int:
        """How many of these negatives lie below d_ap + margin."""
        threshold = self.numbers[p] + self.margin.item()
        return sum(threshold > self.numbers[n] for n in negatives)


def is_related(batch: Batch, a: int, j: int) -> float | None:
    """Above 0 for a positive, below 0 for a negative, 0 for neither; None where a and j are not compared."""
    for of_anchors, of_references in (
        (batch.ids, batch.reference_ids),
        (batch.groups, batch.reference_groups),
    ):
        if of_anchors is not None and of_references is not None and of_anchors[a] == of_references[j]:
            return None
    label, other = batch.labels[a], batch.reference_labels[j]
    if batch.relation is not None:
        found = batch.relation(label[None], other[None])[0, 0]
        return (1 if found else -1) if found.dtype == torch.bool else float(found)
    if label.ndim == 0:
        return 1 if int(label) == int(other) else -1
    return 1 if set(label.tolist()) & set(other.tolist()) - {-1} else -1


def uniform(seed: int, a: int, p: int) -> float:
    """The number in [0, 1) of an anchor and a positive: 53 bits of a chain of SplitMix64 finalisers."""
    key, kept = seed, (1 << 64) - 1
    for following in (a, p, 0):
        key = (key + 0x9E3779B97F4A7C15) & kept
        key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & kept
        key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & kept
        key = (key ^ (key >> 31)) ^ following
    return (key >> 11) / 2**53


def drawn_weights(rule: Rule, dim: int, d: list[float]) -> list[float]:
    """How likely each of these negatives is drawn, up to a factor: 1 / q(max(d, 0.5)), and 0 from 1.4 on."""
    by = {"squared-euclidean": lambda d: math.sqrt(d), "cosine": lambda d: math.sqrt(2 * d)}
    far = [by.get(rule.distance.name, lambda d: d)(distance) for distance in d]
    logarithms = []
    for distance in far:
        r = max(distance, 0.5)
        if r < 1.4:
            logarithms.append(-(dim - 2) * math.log(r) - (dim - 3) / 2 * math.log(1 - r**2 / 4))
        else:
            logarithms.append(-math.inf)
    largest = max(logarithms)
    return [math.exp(number - largest) if largest > -math.inf else 0.0 for number in logarithms]


def drawn_negative(rule: Rule, weights: list[float], negatives: list[int], u: float) -> int | None:
    """The negative where the running sum of the weights passes u times their total."""
    running, total, last = 0.0, sum(weights), None
    for n, weight in zip(negatives, weights, strict=True):
        running += weight
        last = n if weight > 0 else last
        if running > u * total:
            return n
    return last


def mined_triplets(rule: Rule, anchor: Anchor, dim: int) -> list[tuple[int, int]]:
    """The (positive, negative) pairs mined for one anchor, where the rule does not take all."""
    d, positives, negatives = anchor.numbers, anchor.positives, anchor.negatives
    if not positives or not negatives:
        return []
    farthest, nearest = max(positives, key=lambda p: d[p]), min(positives, key=lambda p: d[p])  # the first of equals
    if rule.mining in ("hard", "easy-positive"):
        return [(farthest if rule.mining == "hard" else nearest, min(negatives, key=lambda n: d[n]))]
    found = []
    if rule.mining == "distance-weighted":
        weights = drawn_weights(rule, dim, [d[n] for n in negatives])
        for p in positives:
            n = drawn_negative(rule, weights, negatives, uniform(rule.seed, anchor.index, p))
            found += [] if n is None else [(p, n)]
        return found
    for p in positives if rule.mining == "semihard" else [nearest]:
        beyond = [n for n in negatives if d[n] > d[p]]
        if beyond:
            found.append((p, min(beyond, key=lambda n: d[n])))
        elif rule.fallback == "farthest":
            found.append((p, max(negatives, key=lambda n: d[n])))
    return found


@dataclass
class Figures:
    """What the loops count."""

    n_valid: int = 0
    n_mined: int = 0
    n_active: int = 0
    without_positive: int = 0
    without_negative: int = 0
    positive: list[float] = field(default_factory=list)
    negative: list[float] = field(default_factory=list)

    def count(self, anchor: Anchor) -> None:
        """Count what is there to be compared."""
        self.n_valid += len(anchor.positives) * len(anchor.negatives)
        self.without_positive += not anchor.positives
        self.without_negative += not anchor.negatives
        self.positive += [anchor.numbers[p] for p in anchor.positives]
        self.negative += [anchor.numbers[n] for n in anchor.negatives]


def smooth_maximum(numbers: Tensor, tau: Tensor) -> Tensor:
    """The number tau log sum exp(numbers / tau), taken about the largest number, so that no digits are lost."""
    largest = numbers.max().detach()
    return largest + tau * ((numbers - largest) / tau).exp().sum().log()


def terms_of(rule: Rule, anchor: Anchor, dim: int, figures: Figures) -> list[Terms]:
    """The terms of one anchor, one part or two; counts what is mined and active."""
    if rule.penalty == "contrastive":
        return pair_terms(rule, anchor, figures)
    if rule.penalty == "supcon":
        terms = supcon_terms(anchor)
        figures.n_mined += terms.number
        figures.n_active += terms.active
        return [terms]
    nothing, all_p, all_n = anchor.d.sum() * 0, anchor.positives, anchor.negatives
    if rule.mining == "all":
        chosen = [(p, all_n) for p in all_p]
    else:
        chosen = [(p, [n]) for p, n in mined_triplets(rule, anchor, dim)]
    n_mined = sum(len(negatives) for _, negatives in chosen)
    n_active = sum(anchor.count_active(p, negatives) for p, negatives in chosen)
    figures.n_mined += n_mined
    figures.n_active += n_active
    if rule.penalty == "lifted":
        return [lifted_terms(anchor)]
    if rule.penalty == "logsumexp" and rule.mining == "all":
        value = nothing
        for p in all_p if all_n else []:
            value = value + smooth_maximum(torch.cat([nothing[None], anchor.z(p, all_n)]), anchor.tau)
        number = len(all_p) if all_n else 0
        return [Terms(value, number, number)]
    costs = [COSTS[rule.penalty](anchor.z(p, negatives), anchor.tau).sum() for p, negatives in chosen]
    return [Terms(sum(costs, nothing), n_mined, n_active)]


def lifted_terms(anchor: Anchor) -> Terms:
    """Hermans et al. 2017, eq. 7, with a temperature."""
    if not anchor.positives or not anchor.negatives:
        return Terms(anchor.d.sum() * 0, 0, 0)
    of_positives = smooth_maximum(anchor.d[anchor.positives], anchor.tau)
    of_negatives = smooth_maximum(anchor.margin - anchor.d[anchor.negatives], anchor.tau)
    value = (of_positives + of_negatives).relu()
    return Terms(value, 1, int(value > 0))


def supcon_terms(anchor: Anchor) -> Terms:
    """Khosla et al. 2020, eq. 2: the mean over p of -log(exp(-d_ap / tau) / sum over all compared)."""
    if not anchor.positives:
        return Terms(anchor.d.sum() * 0, 0, 0)
    compared = smooth_maximum(-anchor.d[anchor.positives + anchor.negatives], anchor.tau)
    return Terms(((compared + anchor.d[anchor.positives]) / anchor.tau).mean(), 1, 1)


def pair_terms(rule: Rule, anchor: Anchor, figures: Figures) -> list[Terms]:
    """The contrastive costs of positive pairs and of negative pairs."""
    of_positives = (anchor.d[anchor.positives] - rule.positive_margin).relu() ** 2
    of_negatives = (anchor.margin - anchor.d[anchor.negatives]).relu() ** 2
    active_positives = sum(anchor.numbers[p] > rule.positive_margin for p in anchor.positives)
    active_negatives = sum(anchor.numbers[n] < anchor.margin.item() for n in anchor.negatives)
    parts = [
        Terms(of_positives.sum(), len(anchor.positives), active_positives),
        Terms(of_negatives.sum(), len(anchor.negatives), active_negatives),
    ]
    figures.n_mined += sum(part.number for part in parts)
    figures.n_active += sum(part.active for part in parts)
    if rule.divides_pairs_apart:
        return parts
    first, second = parts
    return [Terms(first.value + second.value, first.number + second.number, first.active + second.active)]


def gradient_of_pairs(x: Tensor, y: Tensor, d: Tensor, weights: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Gradient of the sum of weights[a, j] d(x[a], y[j]), by autograd of the distance's definition."""
    anchors, references = ([row.clone().requires_grad_() for row in rows] for rows in (x, y))
    with torch.enable_grad():
        total = x.new_zeros(()).requires_grad_()
        for a, j in ((weights != 0) & (d != 0)).nonzero().tolist():
            total = total + weights[a, j] * rule.distance.definition(anchors[a], references[j])
    if total.grad_fn is None:
        return torch.zeros_like(x), torch.zeros_like(y)
    found = torch.autograd.grad(total, [*anchors, *references], materialize_grads=True)
    return torch.stack(found[: len(x)]), torch.stack(found[len(x) :])


def anchors_of(batch: Batch, leaves: tuple[Tensor, Tensor, Tensor]) -> list[Anchor]:
    """Every anchor with who is compared with it; the leaves are distances, margins and temperature."""
    (d, margins, tau), found = leaves, []
    for a in range(len(d)):
        related = [is_related(batch, a, j) for j in range(d.shape[1])]
        positives = [j for j, sign in enumerate(related) if sign is not None and sign > 0]
        negatives = [j for j, sign in enumerate(related) if sign is not None and sign < 0]
        found.append(Anchor(batch.start + a, d[a], d[a].tolist(), margins[a], tau, positives, negatives))
    return found


def leaves_of(batch: Batch, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
    """Distances of shape (A, M), margins of shape (A,) and the temperature, for autograd to start from."""
    x, y = batch.anchors.double(), batch.references.double()
    d = x.new_tensor([[float(rule.distance.definition(row, other)) for other in y] for row in x])
    margins = x.new_full((len(x),), rule.margin) if batch.margins is None else batch.margins.double()
    tau = x.new_tensor(rule.temperature)
    return d.view(len(x), len(y)).requires_grad_(), margins.clone().requires_grad_(), tau.requires_grad_()


def reduce_by_loops(batch: Batch, rule: Rule, plan: Plan, need_gradient: bool) -> Totals:
    """Totals of the rule over all anchors; the plan has no say."""
    leaves, figures = leaves_of(batch, rule), Figures()
    with torch.enable_grad():
        terms = []
        for anchor in anchors_of(batch, leaves):
            figures.count(anchor)
            terms.append(terms_of(rule, anchor, batch.anchors.shape[1], figures))
        parts = tuple(
            finished_part([part[number] for part in terms], batch, rule, leaves, need_gradient)
            for number in range(2 if rule.divides_pairs_apart else 1)
        )
    return Totals(parts, finished_stats(batch, figures))


def finished_part(
    terms: list[Terms], batch: Batch, rule: Rule, leaves: tuple[Tensor, Tensor, Tensor], need_gradient: bool
) -> Part:
    """The sums of one part over all anchors, and their gradient, weighted."""
    d, margins, tau = leaves
    x, y = batch.anchors.double(), batch.references.double()
    values = torch.stack([term.value for term in terms]) if terms else (d.sum(1) + margins) * tau
    weights = x.new_ones(len(x)) if batch.weights is None else batch.weights.double()
    dx = dy = of_margins = of_tau = None
    if need_gradient:
        of_d, of_margins, of_tau = torch.autograd.grad(
            (weights * values).sum(), leaves, retain_graph=True, materialize_grads=True
        )
        dx, dy = gradient_of_pairs(x, y, d.detach(), of_d, rule)
        if batch.is_alone:
            dx = dy = dx + dy
    return Part(
        values.detach(),
        n_terms=x.new_tensor([term.number for term in terms], dtype=torch.int64),
        n_active=x.new_tensor([term.active for term in terms], dtype=torch.int64),
        gradient_anchors=dx,
        gradient_references=dy,
        gradient_margins=of_margins if batch.margins is not None else None,
        gradient_temperature=of_tau if rule.has_temperature else None,
    )


def finished_stats(batch: Batch, figures: Figures) -> TripletStats:
    """The figures as tensors."""

    def whole(number: int) -> Tensor:
        return torch.tensor(number, device=batch.anchors.device)

    def mean(numbers: list[float]) -> Tensor:
        return batch.anchors.new_tensor(sum(numbers) / max(1, len(numbers)))

    return TripletStats(
        n_valid=whole(figures.n_valid),
        n_mined=whole(figures.n_mined),
        n_active=whole(figures.n_active),
        mean_positive=mean(figures.positive),
        mean_negative=mean(figures.negative),
        anchors_without_positive=whole(figures.without_positive),
        anchors_without_negative=whole(figures.without_negative),
    )


def census_by_loops(batch: Batch, rule: Rule, plan: Plan, ranks: Ranks = ALONE) -> Census:
    """Hard, semi-hard and easy triplets, and histograms, counted one by one; of all ranks."""
    device, anchors = batch.anchors.device, anchors_of(batch, leaves_of(batch, rule))
    kinds = {"hard": 0, "semihard": 0, "easy": 0}
    for anchor in anchors:
        for p in anchor.positives:
            for n in anchor.negatives:
                d_ap, d_an = anchor.numbers[p], anchor.numbers[n]
                kind = "hard" if d_an <= d_ap else "semihard" if d_an < d_ap + anchor.margin.item() else "easy"
                kinds[kind] += 1
    positive = [anchor.numbers[p] for anchor in anchors for p in anchor.positives]
    negative = [anchor.numbers[n] for anchor in anchors for n in anchor.negatives]
    top = rule.distance.largest
    if not math.isfinite(top):
        top = -float(ranks.smallest(batch.anchors.new_tensor(-max([0.0, *positive, *negative]), dtype=torch.float64)))
    edges = [top * k / BINS for k in range(BINS + 1)]

    def histogram(numbers: list[float]) -> Tensor:
        counts = [0] * BINS
        for number in numbers:
            counts[sum(edge <= number for edge in edges[1:-1])] += 1
        return ranks.sum(torch.tensor(counts, device=device))

    return Census(
        n_hard=ranks.sum(torch.tensor(kinds["hard"], device=device)),
        n_semihard=ranks.sum(torch.tensor(kinds["semihard"], device=device)),
        n_easy=ranks.sum(torch.tensor(kinds["easy"], device=device)),
        histogram_positive=histogram(positive),
        histogram_negative=histogram(negative),
        histogram_edges=torch.tensor(edges, dtype=torch.float64, device=device),
    )
