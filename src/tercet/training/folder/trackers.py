"""Trackers: what a run measures, handed on as it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tercet.errors import require

Tracker = Callable[[int, Mapping[str, Any]], None]
"""Called as tracker(step, figures) for each row of history.jsonl as it is written: names such as "loss" for a step, and
"validation.map_at_r" for an evaluation. A figure that is not finite is None."""


class TensorBoard:
    """Writes figures where TensorBoard reads them.

    Args:
        folder: for its files, which hold times, unlike all other files of a run.
        after: the step that a run goes on from; what is there of later ones is hidden.

    Raises:
        MissingDependency: tensorboard is not installed.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=after + 1)

    def __call__(self, step: int, figures: Mapping[str, Any]) -> None:
        """Write the figures of a step, those of training and of validation apart."""
        for name, value in figures.items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(name.replace(".", "/") if "." in name else f"training/{name}", value, step)
        self.writer.flush()
