"""L-BFGS on the map: the exact objective is taken down until it falls no more.

The hinge has kinks, at which a line search can fail although there is a way down: the search then starts afresh from
the best map, without what it remembers of earlier gradients, and ends where that gains nothing either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeResult, minimize

from tercet.lmnn.loops import Array
from tercet.lmnn.objective import Objective, Value

REMEMBERED = 10  # steps of which L-BFGS keeps the gradients
STEPS_COMPARED = 5  # a single step may gain little at a kink

Watch = Callable[[Array, float, int, int], None]
"""Called after each iteration with the map, the objective, the number of active triplets and the iteration."""


@dataclass(frozen=True)
class Solution:
    """Where a solver ended.

    Attributes:
        components: the map, of shape (d, D).
        objective: there; of the stochastic solver the mean of the estimates of its last epoch.
        n_iter: iterations.
        converged: whether the objective fell no more, rather than max_iter having been reached.
        stopped: whether who watched has ended it.
    """

    components: Array
    objective: float
    n_iter: int
    converged: bool
    stopped: bool = False


class Descent:
    """The run of L-BFGS: the best map so far, and when it is time to stop."""

    def __init__(self, objective: Objective, start: Array, max_iter: int, tol: float, watch: Watch) -> None:
        self.objective, self.max_iter, self.tol, self.watch = objective, max_iter, tol, watch
        self.shape = start.shape
        self.n_iter = 0
        self.converged = self.stopped = False
        self.best = start
        self._at = start.ravel()
        self._value = objective(start)
        self._recent = deque([self._value.total], maxlen=STEPS_COMPARED + 1)
        self._scale = max(self._value.total, np.finfo(float).tiny)

    def run(self) -> Solution:
        """Descend, again from the best map where a line search failed, until nothing is gained."""
        while self.n_iter < self.max_iter and not self.converged and not self.stopped:
            before, total = self.n_iter, self._value.total
            minimize(
                self._evaluate, self.best.ravel(), jac=True, method="L-BFGS-B", callback=self._after,
                options={"maxcor": REMEMBERED, "maxiter": self.max_iter - self.n_iter, "maxfun": 10**9,
                         "ftol": 0.0, "gtol": 0.0, "maxls": 30},
            )  # fmt: skip
            self._go_to(self.best.ravel())
            if self.n_iter == before or total - self._value.total <= self.tol * total:
                self.converged = True
        return Solution(self.best, self._value.total, self.n_iter, self.converged, self.stopped)

    def _go_to(self, x: Array) -> Value:
        if not np.array_equal(x, self._at):
            self._at, self._value = x.copy(), self.objective(x.reshape(self.shape))
        return self._value

    def _evaluate(self, x: Array) -> tuple[float, Array]:
        value = self._go_to(x)
        return value.total / self._scale, value.gradient.ravel() / self._scale

    def _after(self, intermediate_result: OptimizeResult) -> None:
        value = self._go_to(intermediate_result.x)
        self.best = intermediate_result.x.reshape(self.shape).copy()
        self.n_iter += 1
        try:
            self.watch(self.best, value.total, value.n_active, self.n_iter)
        except StopIteration:
            self.stopped = True
            raise
        self._recent.append(value.total)
        if len(self._recent) > STEPS_COMPARED and self._recent[0] - value.total <= self.tol * abs(self._recent[0]):
            self.converged = True
            raise StopIteration


def lbfgs(objective: Objective, start: Array, max_iter: int, tol: float, watch: Watch) -> Solution:
    """The map at which the objective falls no more, from a start of shape (d, D).

    Args:
        objective: what to minimise.
        start: the first map.
        max_iter: iterations at most; each evaluates the objective once or a few times.
        tol: it is time to stop once five iterations together gain no more than this share of the objective.
        watch: called after each iteration; StopIteration raised in it ends the descent.

    Returns:
        the solution; its objective is exact.
    """
    return Descent(objective, start, max_iter, tol, watch).run()
