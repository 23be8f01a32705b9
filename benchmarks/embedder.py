"""TripletEmbedder before 3 neighbours in a pipeline: errors and seconds, beside standardised rows.

python benchmarks/embedder.py
"""

from __future__ import annotations

import time

from sklearn.datasets import load_digits, load_wine
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tercet


def main() -> None:
    """Five folds of two data sets."""
    for name, data in (("wine", load_wine(return_X_y=True)), ("digits", load_digits(return_X_y=True))):
        for what, first in (
            ("standardised", StandardScaler()),
            ("triplet", tercet.TripletEmbedder(random_state=0, steps=200)),
            ("supcon", tercet.TripletEmbedder(loss="supcon", random_state=0, steps=200)),
        ):
            began = time.perf_counter()
            found = cross_val_score(make_pipeline(first, KNeighborsClassifier(3)), *data, cv=5)
            seconds = time.perf_counter() - began
            print(f"{name:7} {what:13} error {100 * (1 - found.mean()):.2f} %  {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
