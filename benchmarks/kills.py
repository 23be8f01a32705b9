"""Runs that are killed: each is ended by SIGKILL at a random moment after its first checkpoint, resumed, and compared.

python benchmarks/kills.py --runs 50

Photographs of faces (tercet[demo]) train a small network with augmentation, a gradient cache, a memory with a slow copy
of the encoder, and a learned temperature. Every other run is killed a second time while it goes on. A run that was
never stopped is what each must equal in the end, byte by byte, in every file but the page of the report; and none may
have started again from the beginning.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tercet.data.faces import export_faces

FLAGS = [
    "--steps", "100", "--evaluate-every", "5", "--batch-size", "48", "--chunk", "16", "--memory", "96", "--momentum",
    "0.9", "--loss", "infonce", "--learn-temperature", "--image.size", "32", "32", "--patience", "0",
]  # fmt: skip


def command(source: Path, out: Path, resume: bool) -> list[str]:
    """The words that train or go on."""
    words = [sys.executable, "-m", "tercet", "train", str(source), "--out", str(out)]
    return [*words, "--resume"] if resume else [*words, *FLAGS]


def digests(run: Path) -> dict[str, str]:
    """Hashes of a run's files."""
    files = (path for path in sorted(run.rglob("*")) if path.is_file() and path.name != "report.html")
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def newest(run: Path) -> int:
    """The step of the newest checkpoint; 0 without one."""
    steps = [int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("step-*")]
    return max(steps, default=0)


def train(source: Path, run: Path, resume: bool, kill_after: float | None) -> tuple[bool, str]:
    """Start a run or go on with it; whether it was killed, that long after it was seen to train, and what it said."""
    history = run / "history.jsonl"
    known = history.stat().st_mtime_ns if history.exists() else 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command(source, run, resume), stdout=subprocess.DEVNULL, stderr=said)
        while kill_after is not None and process.poll() is None:
            going_on = history.exists() and history.stat().st_mtime_ns != known
            if going_on if resume else newest(run):
                time.sleep(kill_after)
                process.kill()
                break
            time.sleep(0.005)
        code = process.wait()
        said.seek(0)
        text = said.read()
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(text)
    return code != 0, text


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance, kills, equal, afresh, steps = random.Random(given.seed), 0, 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        source, whole = Path(folder) / "faces" / "train", Path(folder) / "whole"
        export_faces(Path(folder) / "faces")
        began = time.monotonic()
        train(source, whole, False, None)
        longest, expected = 0.5 * (time.monotonic() - began), digests(whole)
        for number in range(given.runs):
            run = Path(folder) / "run"
            shutil.rmtree(run, ignore_errors=True)
            for resume in (False, True) if number % 2 else (False,):
                killed, _ = train(source, run, resume, chance.uniform(0, longest))
                kills += killed
                steps.append(newest(run))
            _, said = train(source, run, True, None)
            afresh += "going on from step" not in said
            equal += digests(run) == expected
            print(f"{number + 1} runs, {kills} kills, {equal} equal in every byte, {afresh} from the start", flush=True)
    print(f"newest checkpoints when they were killed: {sorted(steps)}")


if __name__ == "__main__":
    main()
