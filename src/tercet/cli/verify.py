"""tercet verify."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from tercet.cli.console import Json, ReadOptions, parse, reporter, show, show_json

if TYPE_CHECKING:
    from tercet.run import Run
    from tercet.training.assessment.verdicts import Verdict

DIFFERENT = 1
LEFT_OUT = 4
EVEN = "where half of all pairs are same"


@dataclass(frozen=True)
class Verify:
    """Same or different? Two items, or a table of pairs, at the threshold that was calibrated on validation data.

    Exit code 0: same; 1: different. With --pairs 0: every pair has its verdict; 4: some items could not be read.

        tercet verify runs/faces a.png b.png
        tercet verify runs/faces --pairs pairs.csv --out verdicts.csv
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    left: Annotated[Positional[str | None], tyro.conf.arg(metavar="LEFT")] = None
    """An image, a text in quotes, or the numbers of a table row as "5.1,3.5,1.4,0.2"."""

    right: Annotated[Positional[str | None], tyro.conf.arg(metavar="RIGHT")] = None
    """Another."""

    pairs: str | None = None
    """Instead of two items, a table with two columns of them: paths or texts."""

    out: str | None = None
    """With --pairs, the CSV to write: left, right, distance, verdict, probability; it must not exist yet."""

    prior: float = 0.5
    """The share of all pairs you ask about that are the same; the probability is restated for it by Bayes' rule."""

    read: OmitArgPrefixes[ReadOptions] = field(default_factory=ReadOptions)

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Verify as the words say; the exit code."""
    command = parse(Verify, words)
    from tercet.errors import InputError
    from tercet.run import load

    if command.pairs is None:
        if command.left is None or command.right is None:
            raise InputError("give two items to compare, or a table of pairs with --pairs PAIRS --out VERDICTS.csv.")
        if command.out is not None or command.read != ReadOptions():
            raise InputError("--out and how to read a table belong to --pairs; two items need neither.")
        return _one(load(command.run), command)
    if command.left is not None or command.out is None:
        raise InputError("--pairs takes the place of two items, and its verdicts go to --out VERDICTS.csv.")
    if command.read.label is not None:
        raise InputError("--label does nothing with --pairs: no marks are looked at. tercet evaluate does that.")
    return _table(load(command.run), command, command.pairs, Path(command.out))


def sentence(verdict: Verdict) -> str:
    """`same  (distance 0.4312 <= threshold 0.5120; probability 0.97 where half of all pairs are same)`."""
    word, sign = ("same", "<=") if verdict.same else ("different", ">")
    said = f"distance {verdict.distance:.4f} {sign} threshold {verdict.threshold:.4f}"
    if verdict.probability is not None:
        where = EVEN if verdict.prior == 0.5 else f"where {100 * verdict.prior:g} % of all pairs are same"
        said += f"; probability {_sure(verdict.probability)} {where}"
    return f"{word}  ({said})"


def _one(run: Run, command: Verify) -> int:
    assert command.left is not None
    assert command.right is not None
    verdict = run.verify(run.parse_item(command.left), run.parse_item(command.right), prior=command.prior)
    if command.json:
        show_json(asdict(verdict))
    else:
        show(sentence(verdict))
    return 0 if verdict.same else DIFFERENT


def _table(run: Run, command: Verify, pairs: str, out: Path) -> int:
    from tercet.training.assessment.verdicts import check_verdicts_path

    check_verdicts_path(out)
    options = {name: value for name, value in dataclasses.asdict(command.read).items() if name != "label"}
    found = run.verify_pairs(pairs, prior=command.prior, reporter=reporter(command.json), **options)
    found.write(out)
    n_same = int(found.same.sum())
    if command.json:
        show_json({"out": str(out), "pairs": len(found.same), "same": n_same, "threshold": found.threshold,
                   "prior": found.prior, "skipped": [asdict(one) for one in found.skipped]})  # fmt: skip
    else:
        show(f"{len(found.same):,} pairs in {out}: {n_same:,} same, {len(found.same) - n_same:,} different "
             f"(threshold {found.threshold:.4f})")  # fmt: skip
        for one in found.skipped:
            show(f"left out: {one.name}: {one.reason}")
    return LEFT_OUT if found.skipped else 0


def _sure(probability: float) -> str:
    """Two digits, and more where two would say 0 or 1, which no probability of ours is."""
    for digits in range(2, 7):
        if 0 < float(word := f"{probability:.{digits}f}") < 1:
            return word
    return "under 0.000001" if probability < 0.5 else "over 0.999999"
