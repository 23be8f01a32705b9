"""The stochastic solver: batches of anchors, whose impostors are sought among the batch alone.

A batch of B of the N rows is drawn without replacement. Its rows are anchors with all their target neighbours, and one
another's impostors; each anchor's triplets weigh (rows of other classes in all) / (those in the batch), and the sum
N / B, so that value and gradient are estimates without bias of the whole objective's. A step costs O(B² d + B k D d)
whatever N is. Adam takes the steps (Kingma and Ba 2015); its rate is halved after three epochs whose mean
estimates are no better than the best before them, and the search ends once it has been halved eight times.
"""

from __future__ import annotations

import numpy as np

from tercet.data.randomness import keyed
from tercet.lmnn.loops import Array
from tercet.lmnn.objective import Objective, Value
from tercet.lmnn.solver import Solution, Watch
from tercet.lmnn.workers import Workers

HALVINGS = 8
PATIENCE = 3  # epochs: an estimate is noisy
MEAN_DECAY, SQUARE_DECAY = 0.9, 0.99


class Sampled:
    """Batches of a problem and what each says of the whole objective."""

    def __init__(self, X: Array, classes: Array, targets: Array, mu: float, penalty: str, workers: Workers) -> None:
        self.X, self.classes, self.targets = X, classes, targets
        self.mu, self.penalty, self.workers = mu, penalty, workers
        self.others = len(classes) - np.bincount(classes)

    def epoch(self, batch_size: int, seed: int, number: int) -> list[Array]:
        """The batches of one epoch: all rows in a new order, in parts of as equal a size as can be."""
        n_rows = len(self.classes)
        order = keyed(seed, "lmnn", number).permutation(n_rows)
        return [np.sort(part) for part in np.array_split(order, -(-n_rows // batch_size))]

    def estimate(self, components: Array, batch: Array) -> Value:
        """The whole objective and its gradient, as a batch (rows in ascending order) lets one estimate them."""
        classes = self.classes[batch]
        held = np.bincount(classes, minlength=len(self.others))
        others = len(batch) - held
        weights = np.divide(self.others, others, out=np.zeros(len(others)), where=others > 0)[classes]
        targets = self.targets[batch]
        X = np.concatenate([self.X[batch], self.X[targets.ravel()]])
        local = len(batch) + np.arange(targets.size).reshape(targets.shape)
        objective = Objective(
            X, classes, local, mu=self.mu, penalty=self.penalty, workers=self.workers, triplet_weights=weights,
            keep=False,
        )  # fmt: skip
        found, share = objective(components), len(self.classes) / len(batch)
        return Value(
            share * found.total, share * found.gradient, share * found.pull, share * found.push, found.n_active
        )


class Adam:
    """Steps along the gradient's running mean, in units of its running size, entry by entry."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self.square = np.zeros(shape), np.zeros(shape)
        self.count = 0

    def step(self, gradient: Array) -> Array:
        """What to subtract, before the rate."""
        self.count += 1
        self.mean += (1 - MEAN_DECAY) * (gradient - self.mean)
        self.square += (1 - SQUARE_DECAY) * (gradient**2 - self.square)
        mean = self.mean / (1 - MEAN_DECAY**self.count)
        size = np.sqrt(self.square / (1 - SQUARE_DECAY**self.count))
        return np.divide(mean, size, out=np.zeros_like(mean), where=size > 0)


def stochastic(
    sampled: Sampled, start: Array, max_iter: int, tol: float, watch: Watch, *, batch_size: int, learning_rate: float,
    seed: int,
) -> Solution:  # fmt: skip
    """The map at which the estimates fall no more, from a start of shape (d, D).

    Args:
        sampled: the problem.
        start: the first map.
        max_iter: epochs at most.
        tol: an epoch is better than the best before it if its mean is lower by more than this share.
        watch: called after each epoch; StopIteration raised in it ends the search.
        batch_size: rows of a batch.
        learning_rate: what a step changes an entry of the map by at most, about, as a share of their root mean square.
        seed: of the batches.

    Returns:
        the mean of the last epoch's maps, and the mean of its estimates.
    """
    components, adam = start.copy(), Adam(start.shape)
    rate = learning_rate * float(np.sqrt(np.mean(start**2)))
    best, since, halvings, total, mean = np.inf, 0, 0, np.inf, start
    for epoch in range(1, max_iter + 1):
        values, mean = [], np.zeros_like(start)
        batches = sampled.epoch(batch_size, seed, epoch)
        for batch in batches:
            value = sampled.estimate(components, batch)
            components = components - rate * adam.step(value.gradient)
            values.append(value)
            mean += components / len(batches)
        total = float(np.mean([value.total for value in values]))
        try:
            watch(mean, total, sum(value.n_active for value in values), epoch)
        except StopIteration:
            return Solution(mean, total, epoch, False, stopped=True)
        since = 0 if total < best * (1 - tol) else since + 1
        best = min(best, total)
        if since == PATIENCE:
            rate, halvings, since = rate / 2, halvings + 1, 0
        if halvings == HALVINGS:
            return Solution(mean, total, epoch, True)
    return Solution(mean, total, max_iter, False)
