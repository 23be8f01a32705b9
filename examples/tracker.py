"""A tracker of one's own: what training measures, into SQLite. Run: python examples/tracker.py.

Any tracking service hangs on the same hook: a function of the step and a dictionary of figures. With MLflow it is
`lambda step, figures: mlflow.log_metrics({k: v for k, v in figures.items() if v is not None}, step=step)`.
"""

import sqlite3
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sklearn.datasets import load_digits

import tercet


class Table:
    """A row of a table for each figure of each step."""

    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path)
        self.database.execute("CREATE TABLE IF NOT EXISTS figures (step INTEGER, name TEXT, value REAL)")

    def __call__(self, step: int, figures: Mapping[str, Any]) -> None:
        """Add the figures of a step."""
        with self.database:
            rows = [(step, name, value) for name, value in figures.items()]
            self.database.executemany("INSERT INTO figures VALUES (?, ?, ?)", rows)


def main() -> None:
    digits = load_digits()
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder) / "figures.db")
        tercet.train(
            (digits.data.astype("float32"), digits.target.tolist()), out=Path(folder) / "run", steps=60, holdout=0.3,
            classes_per_batch=7, samples_per_class=8, evaluate_every=20, progress=False, tracker=table,
        )  # fmt: skip
        query = "SELECT step, value FROM figures WHERE name = 'active_share' AND step % 20 = 0 ORDER BY step"
        for step, value in table.database.execute(query):
            print(f"step {step}: {value:.1%} of the batch's triplets are active")


if __name__ == "__main__":
    main()
