"""Time and memory of exact retrieval, beside the tiled products alone and PML's AccuracyCalculator with faiss.

    python benchmarks/retrieval.py                                   # 60,000 x 128, ten a class
    python benchmarks/retrieval.py --items 15000 --class-size 6000   # large classes
    python benchmarks/retrieval.py --items 200000 --ks 100 --alone   # recall@1 to 100, without PML

Float32 rows in noisy classes. The `products` are all tiles of X X' into one buffer, on the same threads. All figures of
ours are computed: recall, precision and nDCG at each k, R-precision, MAP@R, MAP, MRR and Market-1501's. PML computes
precision_at_1 and MAP@R with k="max_bin_count". Each is a process of its own, which calls it on a small set, so that
loops are compiled, and then once; memory is the growth of the peak resident size in the second call.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

DIM = 128
MEGABYTE = 10**6


def data(items: int, class_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(items) // class_size
    centres = 0.6 * rng.standard_normal((int(labels.max()) + 1, DIM), dtype=np.float32)
    rows = rng.standard_normal((items, DIM), dtype=np.float32)
    rows += centres[labels]
    return rows, labels


def products(rows: np.ndarray, labels: np.ndarray, ks: range) -> dict[str, float]:
    """All tiles of X X', of 256 by 1024."""
    import torch

    x, buffer = torch.from_numpy(rows), torch.empty(256 * 1024)
    for i in range(0, len(x), 256):
        for j in range(0, len(x), 1024):
            one, two = x[i : i + 256], x[j : j + 1024]
            torch.mm(one, two.T, out=buffer[: len(one) * len(two)].view(len(one), len(two)))
    return {}


def tercet(rows: np.ndarray, labels: np.ndarray, ks: range) -> dict[str, float]:
    """Every figure of Tercet's."""
    from tercet.evaluation import retrieval

    found = retrieval(rows, labels, ks).figures()
    return {name: float(values.mean()) for name, values in found.items() if name in ("recall_at_1", "map_at_r")}


def pml(rows: np.ndarray, labels: np.ndarray, ks: range) -> dict[str, float]:
    """PML's calculator, which searches through faiss."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    calculator = AccuracyCalculator(include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count")
    found = calculator.get_accuracy(rows, labels, rows, labels, ref_includes_query=True)
    return {name: float(value) for name, value in found.items()}


def measure(name: str, items: int, class_size: int, ks: range) -> dict[str, Any]:
    """Seconds, bytes and figures of one call, in this process."""
    call = {"products": products, "tercet": tercet, "pml": pml}[name]
    call(*data(4 * class_size if class_size < 500 else 1000, min(class_size, 250)), range(1, 2))
    rows, labels = data(items, class_size)
    before, start = peak_bytes(), time.perf_counter()
    figures = call(rows, labels, ks)
    return {"seconds": time.perf_counter() - start, "bytes": peak_bytes() - before, "peak": peak_bytes()} | figures


def peak_bytes() -> int:
    """The largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--class-size", type=int, default=10)
    parser.add_argument("--ks", type=int, default=1, help="recall@1 to so many")
    parser.add_argument("--alone", action="store_true", help="without PML")
    parser.add_argument("--only", choices=("products", "tercet", "pml"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.only, given.items, given.class_size, range(1, given.ks + 1))))
        return
    found = {}
    for name in ("products", "tercet") if given.alone else ("products", "tercet", "pml"):
        done = subprocess.run([sys.executable, *sys.argv, "--only", name], capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout)
    for name, one in found.items():
        figures = {key: round(value, 4) for key, value in one.items() if key not in ("seconds", "bytes", "peak")}
        print(
            f"{name:<10}{one['seconds']:8.1f} s {one['seconds'] / found['products']['seconds']:6.2f} of products "
            f"{one['bytes'] / MEGABYTE:8,.0f} MB more, {one['peak'] / MEGABYTE:6,.0f} MB in all  {figures or ''}"
        )


if __name__ == "__main__":
    main()
