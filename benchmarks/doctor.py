"""The doctor on trainings made to fail and on healthy ones: which illness it names, and where it is wrong.

    python benchmarks/doctor.py                     # all; --half 1 is what thresholds were set on, --half 2 the others
    python benchmarks/doctor.py --half 2 --of sick

Needs: pip install 'tercet[demo]' for the faces. The trainings are those of tests/sick_runs.py, of seconds each; every
second of the list belongs to the second half. A training counts as named rightly if its illness is the first that is
named, and as a false alarm if it is healthy and any is named, at the end or while it ran.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import tercet
from sick_runs import HEALTHY, SICK, Trial
from tercet.doctor import ILLNESSES


def judge(trial: Trial, folder: Path, seed: int) -> tuple[list[str], str]:
    """The illnesses that are named at the end, and those that were while it ran; and the first one's evidence."""
    run = trial.train(folder / "run", seed)
    diagnosis = tercet.diagnose(run)
    named = [finding.illness for finding in diagnosis.findings]
    summary = run / "summary.json"
    said = json.loads(summary.read_text(encoding="utf-8"))["warnings"] if summary.exists() else []
    live = [illness.name for illness in ILLNESSES if any(sentence.startswith(illness.name) for sentence in said)]
    evidence = diagnosis.findings[0].sentence if diagnosis.findings else ""
    return named + [name for name in live if name not in named], evidence


def report(trials: Sequence[Trial], seed: int, verbose: bool) -> int:
    """Print a row for each; how many are right."""
    right = 0
    for trial in trials:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            named, evidence = judge(trial, Path(folder), seed)
        good = named[:1] == ([trial.illness] if trial.illness else [])
        right += good
        print(f"{'right' if good else 'WRONG'}  {trial.name:<46} {trial.illness or 'healthy':<34} "
              f"{', '.join(named) or 'nothing':<40} {time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
        if verbose:
            print(f"       {evidence}")
    return right


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--half", type=int, choices=(1, 2), help="one half alone")
    parser.add_argument("--of", choices=("sick", "healthy"), help="one kind alone")
    parser.add_argument("--seed", type=int, default=0, help="of weights, held-out classes and batches")
    parser.add_argument("--verbose", action="store_true", help="print the evidence too")
    options = parser.parse_args()
    torch.set_num_threads(1)  # batches are small
    for kind, trials in (("sick", SICK), ("healthy", HEALTHY)):
        for half in (1, 2):
            if options.half in (None, half) and options.of in (None, kind):
                chosen = trials[half - 1 :: 2]
                print(f"\n{kind}, {'thresholds set on these' if half == 1 else 'not looked at before'}")
                print(f"{report(chosen, options.seed, options.verbose)} of {len(chosen)} right")


if __name__ == "__main__":
    main()
