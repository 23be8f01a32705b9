"""tercet verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from tyro.conf import Positional

from tercet.cli.console import Json, parse, show, show_json

DIFFERENT = 1


@dataclass(frozen=True)
class Verify:
    """Same or different? Two items, at the threshold that training calibrated on its validation data.

    Exit code 0: same; 1: different.

        tercet verify runs/faces a.png b.png
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    left: Annotated[Positional[str], tyro.conf.arg(metavar="LEFT")]
    """An image, a text in quotes, or the numbers of a table row as "5.1,3.5,1.4,0.2"."""

    right: Annotated[Positional[str], tyro.conf.arg(metavar="RIGHT")]
    """Another."""

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Verify as the words say; the exit code."""
    command = parse(Verify, words)
    from tercet.run import load

    run = load(command.run)
    verdict = run.verify(run.parse_item(command.left), run.parse_item(command.right))
    if command.json:
        show_json(asdict(verdict))
    else:
        word, sign = ("same", "<=") if verdict.same else ("different", ">")
        show(f"{word}  (distance {verdict.distance:.4f} {sign} threshold {verdict.threshold:.4f})")
    return 0 if verdict.same else DIFFERENT
