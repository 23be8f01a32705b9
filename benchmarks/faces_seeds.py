"""The demo over several seeds: equal error rate and AUC on people that the model never saw, and the time.

    python benchmarks/faces_seeds.py --seeds 0 1 2

Needs: pip install 'tercet[demo]'. Each seed is one `tercet demo` in a temporary folder; nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run_demo(seed: int, folder: Path) -> tuple[dict[str, float], float]:
    """The metrics of a demo and the seconds it took."""
    started = time.monotonic()
    code = "import sys; from tercet.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["demo", "--seed", str(seed), "--out", str(folder / f"seed-{seed}"), "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)["metrics"], time.monotonic() - started


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    found = []
    print("seed   EER     AUC     MAP@R   FAR at threshold  FRR     seconds")
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            metrics, seconds = run_demo(seed, Path(folder))
            figures = [metrics[f"test.{name}"] for name in ("eer", "auc", "map_at_r", "far", "frr")]
            found.append(figures)
            print(f"{seed:<6} {figures[0]:.4f}  {figures[1]:.4f}  {figures[2]:.4f}  {figures[3]:.4f}            "
                  f"{figures[4]:.4f}  {seconds:.0f}", flush=True)  # fmt: skip
    means = [statistics.mean(column) for column in zip(*found, strict=True)]
    print(f"mean   {means[0]:.4f}  {means[1]:.4f}  {means[2]:.4f}  {means[3]:.4f}            {means[4]:.4f}")
    raw = [metrics[f"baseline.{name}"] for name in ("eer", "auc", "map_at_r")]
    print(f"pixels {raw[0]:.4f}  {raw[1]:.4f}  {raw[2]:.4f}")


if __name__ == "__main__":
    main()
