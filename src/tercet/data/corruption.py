"""Corruption of rows of numbers: some features take the values that other rows have there.

Bahri, Jiang, Tay and Metzler 2022, "SCARF: self-supervised contrastive learning using random feature corruption".

Shapes: B rows of a batch, F features, N rows to draw values from.
"""

from __future__ import annotations

import numpy as np
import torch

from tercet.data.randomness import keyed

DEFAULT_SHARE = 0.6
"""Of the features; SCARF's (section 4)."""


def corrupt(
    rows: torch.Tensor, donors: np.ndarray, share: float, seed: int, step: int, spared: int, first: int = 0
) -> torch.Tensor:
    """Rows of which some features hold values of other rows, float32 (B, F); `rows` is left as it is.

    In each row `round(share * F)` features are drawn, at least one and not all, and each of them takes its value from a
    row that is drawn for it: so every feature keeps its own distribution (SCARF, algorithm 1). What row i draws depends
    on (seed, step, i) alone.

    Args:
        rows: of shape (B, F), with F of 2 or more.
        donors: what the values are drawn from, of shape (N, F).
        share: of the features, above 0 and below 1.
        seed: of the run.
        step: of the training.
        spared: so many rows at the start of the batch stay as they are.
        first: which row of the batch the first one is.
    """
    count, features = rows.shape
    uniform = keyed(seed, "corrupt", step).random((first + count, 2, features))[first:]
    changed = min(max(round(share * features), 1), features - 1)
    chosen = np.argsort(uniform[:, 0], axis=1)[:, :changed]
    chosen_donors = np.take_along_axis((uniform[:, 1] * len(donors)).astype(np.int64), chosen, axis=1)
    result = rows.numpy().copy()
    np.put_along_axis(result, chosen, donors[chosen_donors, chosen], axis=1)
    left = max(spared - first, 0)
    result[:left] = rows[:left].numpy()
    return torch.from_numpy(result)
