"""tercet demo."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tercet.cli.console import Json, parse, reporter, show, show_json
from tercet.cli.evaluate import table
from tercet.errors import RunError

if TYPE_CHECKING:
    from tercet.run import Run

RECIPE: dict[str, Any] = {
    "steps": 200, "classes_per_batch": 20, "samples_per_class": 5, "distance": "cosine", "margin": 0.3,
    "penalty": "logsumexp", "temperature": 0.05,
    "selection": "loss",
}  # fmt: skip
ERASE = 0.7  # twenty people are few: hiding parts of their faces is what keeps the network from learning them by heart


@dataclass(frozen=True)
class Demo:
    """Train a face embedding on real photographs, and show all that Tercet does with it, in about two minutes.

    People 1 to 20 of the AT&T Database of Faces are trained on, 21 to 25 choose the checkpoint and the threshold, and
    26 to 40, whom the model never saw, are evaluated, indexed, searched and verified. Needs: pip install 'tercet[demo]'
    """

    out: str = "runs/demo"
    """The run folder; that of an earlier demo is replaced. The photographs go beside it."""

    seed: int = 0
    """Another seed, another run."""

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Run the demo; the exit code."""
    command = parse(Demo, words)
    from tercet.collectives import ALONE
    from tercet.data.faces import CREDIT, export_faces
    from tercet.run import Run, train_request

    out = Path(command.out)
    faces = out.with_name(out.name + "-faces")
    said = reporter(command.json)
    said.say(CREDIT)
    _remove_earlier(out, faces)
    export_faces(faces)

    train_request(demo_request(faces, command.seed), out, False, said, ALONE)
    run = Run(out)
    run.evaluate(faces / "test", reporter=said)
    run.report()
    index, _ = run.index(faces / "test", reporter=said)
    index.save(out / "people-26-40.index")

    query, same, other = (str(faces / "test" / name) for name in ("s26/1.png", "s26/7.png", "s31/1.png"))
    found = [one for one in index.search(run.embed([query]), 6)[0] if one.name != "s26/1.png"]  # itself
    verdicts = {name: run.verify(query, name) for name in (same, other)}
    if command.json:
        show_json({
            "run": str(out), "metrics": run.metrics, "search": [vars(one) for one in found],
            "verify": {name: vars(verdict) for name, verdict in verdicts.items()},
        })  # fmt: skip
        return 0
    _show(run, query, found, verdicts)
    return 0


def demo_request(faces: Path, seed: int) -> Any:
    """What the demo trains: the request of these options."""
    from tercet.data.options import Augmentation
    from tercet.encoders.options import ImageOptions
    from tercet.training.request import Request, make_request

    base = Request(source=str(faces / "train"))
    return make_request(
        base,
        encoder=ImageOptions(symmetric=True),
        validation=faces / "validation",
        augmentation=Augmentation(erase=ERASE),
        options={"seed": seed, **RECIPE},
    )


def _remove_earlier(out: Path, faces: Path) -> None:
    """Remove an earlier demo's run, and nothing else."""
    if not out.exists():
        return
    from tercet.training.config import read_config

    config = out / "config.toml"
    if not config.exists() or read_config(config).source != str(faces / "train"):
        raise RunError(f"{out} exists and is not a demo; choose another --out.")
    shutil.rmtree(out)


def _show(run: Run, query: str, found: list[Any], verdicts: dict[str, Any]) -> None:
    show("\npeople 26 to 40, whom the model never saw: raw pixels before, the embedding after (95 % intervals)")
    show(table(run.metrics, "test", "baseline"))
    show(f"\nnearest to {query}:")
    for one in found:
        show(f"  {one.distance:.3f}  {one.name}")
    show("\nsame or different?")
    for name, verdict in verdicts.items():
        show(f"  {query} and {name}: {'same' if verdict.same else 'different'} "
             f"(distance {verdict.distance:.3f}, threshold {verdict.threshold:.3f})")  # fmt: skip
    show(f"\nreport: {run.path / 'report.html'}\nnext:")
    program = _program()
    show(f"  {program} search {run.path / 'people-26-40.index'} {query} -k 5")
    show(f"  {program} verify {run.path} {query} {next(iter(verdicts))}")
    show(f"  {program} train YOUR-FOLDER --out runs/mine      (a subfolder for each class)")


def _program() -> str:
    """What to type for `tercet`: where it was started from, if it is not on the path."""
    if shutil.which("tercet") or Path(sys.argv[0]).name != "tercet":
        return "tercet"
    return os.path.relpath(sys.argv[0])
