"""The rules, over all anchors at once: what they keep, what a tile adds to it, and what follows in the end."""
# ruff: noqa: D102  the methods of a family are described once, in the base class

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tercet.collectives import Ranks
from tercet.kernels.compiled import loops
from tercet.kernels.compiled.loops import Array, Metric, Rows, strict
from tercet.kernels.compiled.problem import Problem
from tercet.kernels.mining.softmax import evaluate
from tercet.kernels.rule import SEMIHARD, SETS, Rule

NONE = -1  # no reference chosen


class View(NamedTuple):
    """A tile of distances, as anchors i0, i0 + 1, ... of x see the references j0, j0 + 1, ... of y."""

    d: Array
    weights: Array
    tensor: Tensor  # the weights
    x: Rows
    i0: int
    y: Rows
    j0: int
    metric: Metric


@dataclass
class Sums:
    """One part of the value: what `Part` holds, per anchor, in the order of the problem's rows.

    Attributes:
        values, n_terms, n_active: of shape (A,).
        of_positives: weights of the positives' distances, without the anchors' weights; or None.
        of_tiles: whether the gradient that the tiles have formed belongs to this part.
        triplets: of mined triplets the anchor, the positive's place in the lists, the negative, its distance and the
            slope; or None.
        of_margins: derivative of the values by the anchors' margins, of shape (A,).
        of_temperature: derivative of each anchor's value by the temperature, of shape (A,); or None.
    """

    values: Array
    n_terms: Array
    n_active: Array
    of_positives: Array | None = None
    of_tiles: bool = False
    triplets: tuple[Array, Array, Array, Array, Array] | None = None
    of_margins: Array | None = None
    of_temperature: Array | None = None


class Family:
    """Base: sees all tiles once, or twice if `visits` is 2, and sums up."""

    visits = 1
    sees_both = False  # whether `look_both` takes a tile from both sides at once
    pulls = False  # whether it gives the tile's distances weights (in the last visit)

    def __init__(self, rule: Rule, problem: Problem, n_negatives: Array) -> None:
        self.rule, self.problem, self.n_negatives = rule, problem, n_negatives
        self.n_positives = np.diff(problem.first)
        self.margin = problem.per_anchor(problem.sides.batch.margins, rule.margin)
        self.scale = problem.per_anchor(problem.sides.batch.weights, 1.0)

    def look(self, view: View, visit: int) -> None:
        """Take in a tile."""
        raise NotImplementedError

    def look_both(
        self, d: Array, x: Rows, i0: int, j0: int, metric: Metric, gradient: tuple[bool, Array, Array]
    ) -> float:
        """Take in a tile of inner products of rows among themselves from both sides, and do all that follows."""
        raise NotImplementedError

    def join(self, ranks: Ranks, visit: int) -> None:
        """Put together what the ranks have found in a visit, each in its tiles; all ranks then have all of it."""
        raise NotImplementedError

    def turn(self, need_gradient: bool) -> None:
        """Between two visits, or after the only one."""

    def finish(self) -> tuple[list[Sums], Any, Any]:
        """The parts, and per anchor the numbers of mined and of active triplets, or pairs."""
        raise NotImplementedError

    def thresholds(self) -> Array:
        """The distances of the positives, plus their anchors' margins, of the rows' dtype."""
        return self.narrowed(self.problem.d + self.problem.spread(self.margin))

    def narrowed(self, numbers: Array) -> Array:
        """Numbers in the rows' dtype; what it cannot hold is infinite there, and the result is no number then."""
        with np.errstate(over="ignore"):
            found: Array = numbers.astype(self.margin.dtype)
        return found

    def per_anchor(self, of_positives: Array) -> Array:
        """Sums over each anchor's positives."""
        return sum_segments(self.problem.first, of_positives)


class Levels:
    """Numbers of every anchor that its negatives are compared with: many of them in ascending order."""

    def __init__(self, problem: Problem, first: Array, levels: Array) -> None:
        self.first = first
        self.most = int(np.diff(first).max(initial=0))
        self.rank: Array | None = None  # of the levels as given; None if they stay in that order
        self.grid = empty_grid(first if self.most > loops.DIRECT else first[:1])
        if self.most > loops.DIRECT:
            given, levels, rank = levels, sort_segments(first, levels, self.most), np.empty(len(levels), np.int32)
            x, metric, grid = problem.x, problem.metric, self.grid
            problem.each_anchor(lambda start, stop: loops.lay_grids(first, levels, x, metric, grid, start, stop))
            problem.each_anchor(lambda start, stop: loops.rank_levels(first, levels, given, grid, rank, start, stop))
            self.rank = rank
        self.levels = levels


def empty_grid(first: Array) -> loops.Grid:
    """A grid that is not laid yet, for levels of which those of anchor a are [first[a]:first[a + 1]]."""
    lengths = np.diff(first)
    cells = np.where(lengths > loops.DIRECT, loops.CELLS * lengths + 2, 0)
    origin, per_unit, reach = np.empty((3, len(lengths)))
    table, ends = np.empty(cells.sum(), np.int32), np.empty(first[-1], np.int32)
    return loops.Grid(np.concatenate([[0], np.cumsum(cells)]), origin, per_unit, reach, table, ends)


def sort_segments(first: Array, values: Array, most: int) -> Array:
    """values[first[a]:first[a + 1]] in ascending order, for each a; the longest has `most`."""
    lengths = np.diff(first)
    real = np.arange(most) < lengths[:, None]
    padded = np.full(real.shape, np.inf, values.dtype)
    padded[real] = values
    padded.sort(axis=1)  # what is padded stays behind: what is not a number makes the whole result none
    ordered: Array = padded[real]
    return ordered


class Thresholds(Levels):
    """Levels, and what lies below each."""

    def __init__(self, problem: Problem, first: Array, levels: Array, degree: int) -> None:
        super().__init__(problem, first, levels)
        self.degree = degree
        self.above = loops.sums_above(first, self.levels) if degree == 2 else np.zeros(0)
        self.value = np.zeros(len(first) - 1)
        self.count, self.excess = np.zeros(len(levels)), np.zeros(len(levels) if degree == 2 else 0)

    def look(self, view: View, scale: Array) -> None:
        """Count and add up the tile's distances below each level, and weigh them."""
        loops.look_below(
            view.d, view.weights, view.x, view.i0, view.y, view.j0, view.metric,
            self.first, self.levels, self.grid, self.above, scale, self.degree, self.value, self.count, self.excess,
        )  # fmt: skip

    def join(self, ranks: Ranks) -> None:
        """Add up what the ranks have found."""
        _add_up(ranks, self.value, self.count, self.excess)

    def finish(self) -> tuple[Array, Array, Array]:
        """Each anchor's value; and, in the order the levels were given, how many lie below and by how much together."""
        if self.rank is None:
            return self.value, self.count, self.excess
        loops.finish_below(self.first, self.levels, self.degree, self.value, self.count, self.excess)
        self.grid = empty_grid(self.first[:1])  # which takes as much memory as all that is still to come
        return self.value, self.count[self.rank], self.excess[self.rank] if self.degree == 2 else self.excess


def _add_up(ranks: Ranks, *arrays: Array) -> None:
    """The sums over ranks, in place; all of float64, sent together."""
    together = ranks.sum(torch.from_numpy(np.concatenate(arrays))).numpy()
    for array, found in zip(arrays, np.split(together, np.cumsum([len(each) for each in arrays])[:-1]), strict=True):
        array[:] = found


@strict
def sum_segments(first: Array, values: Array) -> Array:
    """The sum of values[first[a]:first[a + 1]] for each a, float64."""
    found = np.zeros(len(first) - 1)
    for a in range(len(first) - 1):
        for e in range(first[a], first[a + 1]):
            found[a] += values[e]
    return found


class Sided(Family):
    """Base of the families that count distances below levels, and may look from both sides at once."""

    pulls = True
    levels: Thresholds

    def look(self, view: View, visit: int) -> None:
        self.levels.look(view, self.scale)

    def look_both(
        self, d: Array, x: Rows, i0: int, j0: int, metric: Metric, gradient: tuple[bool, Array, Array]
    ) -> float:
        levels = self.levels
        found: float = loops.below_both(
            d, x, i0, j0, metric, levels.first, levels.levels, self.scale, levels.degree,
            levels.value, levels.count, levels.excess, *gradient,
        )  # fmt: skip
        return found

    def join(self, ranks: Ranks, visit: int) -> None:
        self.levels.join(ranks)


class Below(Sided):
    """`all` with hinge, squared hinge: sums of max(0, t - d)^degree over thresholds t = d_ap + m, from counts below."""

    def __init__(self, rule: Rule, problem: Problem, n_negatives: Array) -> None:
        super().__init__(rule, problem, n_negatives)
        self.levels = Thresholds(problem, problem.first, self.thresholds(), rule.cost.degree or 1)
        self.sees_both = self.levels.most <= loops.BOTH

    def finish(self) -> tuple[list[Sums], Any, Any]:
        value, count, excess = self.levels.finish()
        slope = count if self.levels.degree == 1 else 2 * excess
        mined, active = self.n_positives * self.n_negatives, self.per_anchor(count)
        sums = Sums(value, mined, active, slope, True, of_margins=self.per_anchor(slope))
        return [sums], mined, active


class Contrastive(Sided):
    """Positive pairs beyond one margin, negative pairs within another, squared."""

    sees_both = True

    def __init__(self, rule: Rule, problem: Problem, n_negatives: Array) -> None:
        super().__init__(rule, problem, n_negatives)
        self.levels = Thresholds(problem, np.arange(len(self.margin) + 1), self.margin.copy(), 2)

    def finish(self) -> tuple[list[Sums], Any, Any]:
        value, count, excess = self.levels.finish()
        gap = np.maximum(self.problem.d - self.rule.positive_margin, 0)
        active = self.per_anchor((gap > 0).astype(float))
        positive = Sums(self.per_anchor(gap**2), self.n_positives, active, 2 * gap)
        negative = Sums(value, self.n_negatives, count, of_tiles=True, of_margins=2 * excess)
        pairs, active = self.n_positives + self.n_negatives, active + count
        if self.rule.divides_pairs_apart:
            return [positive, negative], pairs, active
        both = Sums(positive.values + value, pairs, active, 2 * gap, True, of_margins=2 * excess)
        return [both], pairs, active


class Exponents(Family):
    """`all` with a penalty of the log-sum-exp over an anchor's negatives, which needs two visits."""

    visits, pulls = 2, True

    def __init__(self, rule: Rule, problem: Problem, n_negatives: Array) -> None:
        super().__init__(rule, problem, n_negatives)
        anchors = len(self.margin)
        self.nearest = np.full(anchors, np.inf)  # the nearest negative's distance
        self.total = np.zeros(anchors)  # of exp((nearest - d) / tau)
        self.moment = np.zeros(anchors)  # of weight times (d - nearest), in the second visit
        self.levels = None
        if rule.penalty != "supcon":  # whose terms are of anchors, not of triplets
            self.levels = Thresholds(problem, problem.first, self.thresholds(), 0)

    def look(self, view: View, visit: int) -> None:
        tau = self.rule.temperature
        if visit == 0:
            if self.levels is not None:
                self.levels.look(view, self.scale)
            loops.look_exponents(view.d, view.weights, view.i0, self.nearest, self.total, tau)
            view.tensor.exp_()
            loops.add_rows(view.weights, view.i0, self.total)
        else:
            loops.look_exponents_again(view.d, view.weights, view.i0, self.nearest, tau)
            view.tensor.exp_()
            loops.scale_rows(view.d, view.weights, view.i0, self.nearest, self.shares, self.moment)

    def join(self, ranks: Ranks, visit: int) -> None:
        if visit > 0:
            _add_up(ranks, self.moment)
            return
        own = self.nearest
        self.nearest = ranks.smallest(torch.from_numpy(own.copy())).numpy()
        (some,) = (own < np.inf).nonzero()
        self.total[some] *= np.exp((self.nearest[some] - own[some]) / self.rule.temperature)
        _add_up(ranks, self.total)
        if self.levels is not None:
            self.levels.join(ranks)

    def turn(self, need_gradient: bool) -> None:
        some = self.total > 0
        has_term = (self.n_positives > 0) & (some | (self.levels is None))
        (at,) = has_term.nonzero()
        d, real = pad_segments(self.problem.first, self.problem.d, at)
        nearest, total, margin = (
            torch.from_numpy(each[at].astype(np.float64))[:, None] for each in (self.nearest, self.total, self.margin)
        )
        found = evaluate(self.rule, torch.from_numpy(d), torch.from_numpy(real), nearest, total, margin, need_gradient)
        self.values = np.zeros(len(self.margin))
        self.values[at] = found.values.numpy()
        self.n_terms = has_term * (self.n_positives if self.rule.penalty == "logsumexp" else 1)
        self.of_positives = np.zeros(len(self.problem.d))
        unpad_segments(self.problem.first, found.of_positives.numpy(), at, self.of_positives)
        self.of_logarithm, self.of_margin, self.of_temperature = slopes = np.zeros((3, len(self.margin)))
        for slope, of_found in zip(slopes, (found.of_logarithm, found.of_margin, found.of_temperature), strict=True):
            slope[at] = of_found[:, 0].numpy()
        pull = -self.of_logarithm / self.rule.temperature / np.maximum(self.total, 1)
        self.shares = pull * self.scale

    def finish(self) -> tuple[list[Sums], Any, Any]:
        if self.levels is not None:
            mined, active = self.n_positives * self.n_negatives, self.per_anchor(self.levels.finish()[1])
        else:
            mined = active = self.n_terms
        weights = np.where(self.scale > 0, self.scale, 1)  # moment has the weights in it already
        of_temperature = self.of_temperature - self.moment / weights / self.rule.temperature
        sums = Sums(
            self.values, self.n_terms, (self.values > 0).astype(np.int64), self.of_positives, True,
            of_margins=self.of_margin, of_temperature=of_temperature,
        )  # fmt: skip
        return [sums], mined, active


class OneEach(Family):
    """One negative for each chosen positive: the nearest of all, or the nearest beyond it."""

    def __init__(self, rule: Rule, problem: Problem, n_negatives: Array) -> None:
        super().__init__(rule, problem, n_negatives)
        anchors, d = len(self.margin), self.narrowed(problem.d)
        if rule.mining == "semihard":
            self.chosen, self.first = np.arange(len(d)), problem.first
        else:
            has_positive = self.n_positives > 0
            self.chosen = choose_positives(problem.first, problem.d, rule.mining == "hard")
            self.first = np.concatenate([[0], np.cumsum(has_positive)])
        self.d_positive = d[self.chosen]
        self.beyond = rule.mining in SEMIHARD
        if self.beyond:
            self.levels = Levels(problem, self.first, self.d_positive)
        searches = len(self.chosen) if self.beyond else anchors
        self.best, self.index = np.full(searches, np.inf), np.full(searches, NONE)
        self.farthest, self.farthest_index = np.full(anchors, -np.inf), np.full(anchors, NONE)

    def look(self, view: View, visit: int) -> None:
        d, x, i0, y, j0, metric = view.d, view.x, view.i0, view.y, view.j0, view.metric
        if not self.beyond:
            loops.look_nearest(d, x, i0, y, j0, metric, self.best, self.index, 1)
            return
        levels = self.levels
        loops.look_beyond(
            d, x, i0, y, j0, metric, self.first, levels.levels, levels.grid, self.best, self.index
        )  # fmt: skip
        if self.rule.fallback == "farthest":
            loops.look_nearest(d, x, i0, y, j0, metric, self.farthest, self.farthest_index, -1)

    def join(self, ranks: Ranks, visit: int) -> None:
        _join_nearest(ranks, self.best, self.index, self.problem.y.order, 1)
        if self.beyond and self.rule.fallback == "farthest":
            _join_nearest(ranks, self.farthest, self.farthest_index, self.problem.y.order, -1)

    def _negatives(self, owner: Array) -> tuple[Array, Array]:
        """The negative's distance and index for each chosen positive."""
        if not self.beyond:
            return self.best[owner], self.index[owner]
        best, index = self.best, self.index
        if self.levels.rank is not None:
            loops.finish_beyond(self.first, self.problem.y.order, best, index)
            best, index = best[self.levels.rank], index[self.levels.rank]
        if self.rule.fallback == "farthest":
            missing = index == NONE
            best = np.where(missing, self.farthest[owner], best)
            index = np.where(missing, self.farthest_index[owner], index)
        return best, index

    def finish(self) -> tuple[list[Sums], Any, Any]:
        owner = self.problem.owner[self.chosen]
        d_negative, negative = self._negatives(owner)
        kept = negative != NONE
        owner, chosen, negative, d_negative = owner[kept], self.chosen[kept], negative[kept], d_negative[kept]
        d_negative = self.narrowed(d_negative)
        threshold = self.d_positive[kept] + self.margin[owner]
        z = torch.from_numpy(threshold - d_negative)
        cost = self.rule.cost
        value, slope = cost.value(z).double().numpy(), cost.slope(z).double().numpy()
        with np.errstate(invalid="ignore"):  # what is not finite becomes NaN in the end
            of_temperature = (value - z.double().numpy() * slope) / self.rule.temperature
        mined, active = self._by_anchor(owner), self._by_anchor(owner, threshold > d_negative)
        sums = Sums(
            self._by_anchor(owner, value), mined, active,
            triplets=(owner, chosen, negative, d_negative, slope),
            of_margins=self._by_anchor(owner, slope), of_temperature=self._by_anchor(owner, of_temperature),
        )  # fmt: skip
        return [sums], mined, active

    def _by_anchor(self, owner: Array, terms: Array | None = None) -> Array:
        found: Array = np.bincount(owner, terms, len(self.margin))
        return found


def _join_nearest(ranks: Ranks, best: Array, index: Array, order: Array, sign: int) -> None:
    """The nearest (sign 1) or farthest (sign -1) of those that the ranks have found, in place.

    Ties go to the row that the user counts first, whichever rank has seen it.
    """
    nearest = ranks.smallest(torch.from_numpy(sign * best)).numpy()
    found = (index != NONE) & (sign * best == nearest)
    number = np.where(found, order[index], len(order))
    number = ranks.smallest(torch.from_numpy(number)).numpy()
    place = np.full(len(order) + 1, NONE)
    place[order] = np.arange(len(order))
    best[:], index[:] = sign * nearest, place[number]


@strict
def choose_positives(first: Array, d: Array, farthest: bool) -> Array:
    """Of each anchor with positives, the farthest or nearest one's place in the lists; the first among equals."""
    chosen = np.empty(len(first) - 1, np.int64)
    found = 0
    for a in range(len(first) - 1):
        lo, hi = first[a], first[a + 1]
        if lo == hi:
            continue
        best = lo
        for e in range(lo + 1, hi):
            if (d[e] > d[best]) if farthest else (d[e] < d[best]):
                best = e
        chosen[found] = best
        found += 1
    return chosen[:found]


@strict
def pad_segments(first: Array, values: Array, at: Array) -> tuple[Array, Array]:
    """values[first[a]:first[a + 1]] of the given anchors as rows, padded with zeros; and which are real."""
    width = 1
    for a in at:
        width = max(width, first[a + 1] - first[a])
    found, real = np.zeros((len(at), width)), np.zeros((len(at), width), np.bool_)
    for n, a in enumerate(at):
        for k in range(first[a + 1] - first[a]):
            found[n, k], real[n, k] = values[first[a] + k], True
    return found, real


@strict
def unpad_segments(first: Array, rows: Array, at: Array, values: Array) -> None:
    """The way back from `pad_segments`."""
    for n, a in enumerate(at):
        for k in range(first[a + 1] - first[a]):
            values[first[a] + k] = rows[n, k]


def family_of(rule: Rule) -> type[Family] | None:
    """The family that reduces by this rule; None if none does."""
    if rule.mining == "distance-weighted":
        return None
    if rule.mining != "all":
        return OneEach
    if rule.penalty in SETS:
        return Exponents
    if rule.penalty == "contrastive":
        return Contrastive
    return Below if rule.cost.degree else None
