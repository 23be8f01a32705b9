"""Runs that are killed: each is ended by SIGKILL at random moments after its first checkpoint, resumed, and compared.

python benchmarks/kills.py --kills 50

Photographs of faces (tercet[demo]) train a small network with augmentation, dropout keyed by row, a gradient cache, a
memory with a slow copy, and a learned temperature; a run that was never stopped is what the others must equal, byte by
byte, in every file but the report. A run is killed again and again, with a new moment each time, until it has come to
its end; each kill must find it beyond the checkpoint that it goes on from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
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
    "--steps", "60", "--evaluate-every", "5", "--batch-size", "48", "--chunk", "16", "--memory", "96", "--momentum",
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


def train_and_kill(source: Path, run: Path, resume: bool, longest: float, chance: random.Random) -> bool:
    """Start or resume a run and kill it at a random moment once it has a checkpoint; whether it was killed."""
    process = subprocess.Popen(
        command(source, run, resume), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not newest(run):
        time.sleep(0.01)
    began = time.monotonic()
    history, lines = run / "history.jsonl", 0
    while resume and process.poll() is None and not lines:  # training goes on: it rewrites the history as it begins
        text = history.read_text(encoding="utf-8") if history.exists() else ""
        lines = int(bool(text) and history.stat().st_mtime > START)
        time.sleep(0.005)
    wait = chance.uniform(0, longest)
    while process.poll() is None and time.monotonic() - began < wait:
        time.sleep(0.002)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    if process.returncode:
        raise SystemExit(process.stderr.read() if process.stderr else "failed")
    return False


START = time.time()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance, kills, endings, equal, steps = random.Random(given.seed), 0, 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        source, whole = Path(folder) / "faces" / "train", Path(folder) / "whole"
        export_faces(Path(folder) / "faces")
        began = time.monotonic()
        subprocess.run(command(source, whole, False), check=True, capture_output=True)
        longest, expected = (time.monotonic() - began) * 0.9, digests(whole)
        while kills < given.kills:
            run, resume = Path(folder) / "run", False
            shutil.rmtree(run, ignore_errors=True)
            while train_and_kill(source, run, resume, longest, chance):
                kills, resume = kills + 1, True
                steps.append(newest(run))
                if kills >= given.kills:
                    longest = float("inf")  # the last run goes to its end
            endings += 1
            equal += digests(run) == expected
            print(f"{kills} kills, {endings} endings, {equal} of them equal in every byte", flush=True)
    print(json.dumps({"kills": kills, "endings": endings, "equal": equal, "checkpoints": sorted(steps)}))


if __name__ == "__main__":
    main()
