"""The learning rate over a run: a linear warm-up, then half a cosine down to zero."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """The share of the peak learning rate used at `step`, counted from 0.

    (step + 1) / (warmup_steps + 1) while warming up, then (1 + cos(pi t)) / 2 with t from 0 to 1 (Loshchilov and
    Hutter 2017, eq. 5, one cycle). Never zero, so that no step is wasted.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
