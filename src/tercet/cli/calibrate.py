"""tercet calibrate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from tercet.cli.console import Json, ReadOptions, figure, parse, reporter, show, show_json

SHOWN = ("far", "frr", "accuracy", "balanced_accuracy", "f1")


@dataclass(frozen=True)
class Calibrate:
    """Choose another threshold for same or different on data that training never saw, and keep it in the run.

    verify and evaluate take it from then on, and a probability of same that is fitted on the same data.

        tercet calibrate runs/faces --data faces-validation/ --target far=0.001 --test faces-test/
        tercet calibrate runs/faces --target training
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    data: str | None = None
    """A folder or a table with labels, pairs or triplets."""

    target: str = "eer"
    """eer, where both errors are equal; f1, where F1 is greatest; far=0.001, where the false accept rate is at most \
this; or training, for what training chose."""

    test: str | None = None
    """Other data, on which to count what the threshold does."""

    form: Literal["labels", "triplets", "pairs", "marked-pairs"] | None = None
    """What says which items are alike; found out when left open."""

    read: OmitArgPrefixes[ReadOptions] = field(default_factory=ReadOptions)

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Calibrate as the words say; the exit code."""
    command = parse(Calibrate, words)
    from tercet.run import load

    run = load(command.run)
    options = {**dataclasses.asdict(command.read), "form": command.form}
    found = run.calibrate(
        command.data, target=command.target, test=command.test, reporter=reporter(command.json), **options
    )
    run.report()
    if command.json:
        show_json(dataclasses.asdict(found))
        return 0
    was = "none before" if found.before is None else f"{found.before:.4f} before"
    show(f"threshold {found.threshold:.4f} ({found.target}; {was})")
    if found.figures:
        show(table(found.figures))
    return 0


def table(figures: dict[str, dict[str, float]]) -> str:
    """A line for each figure, a column for each set of data."""
    lines = [(" " * 20 + "".join(f"{name:<12}" for name in figures)).rstrip()]
    for metric in SHOWN:
        cells = (figure(found[metric]) for found in figures.values())
        lines.append((f"{metric:<20}" + "".join(f"{word:<12}" for word in cells)).rstrip())
    return "\n".join(lines)
