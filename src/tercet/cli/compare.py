"""tercet compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from tercet.cli.console import Json, ReadOptions, figure, parse, reporter, show, show_json

if TYPE_CHECKING:
    from tercet.training.assessment.compared import Comparison


@dataclass(frozen=True)
class Compare:
    """Tell whether one run is better than another, and by more than chance explains.

    All runs embed the same items, and the differences of their figures are tested class by class (row by row, for
    pairs and triplets). A folder that holds runs counts as one method, whose runs differ by their seeds.

        tercet compare runs/a runs/b --data faces-test/
        tercet compare runs/a1 runs/a2 runs/a3 --against runs/b1 runs/b2 runs/b3 --data faces-test/
    """

    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, or folders of run folders."""

    data: str
    """Labelled items, pairs or triplets that no run was trained on."""

    against: tuple[str, ...] = ()
    """The runs of another method; those before are then of one method too."""

    out: str | None = None
    """A .json file to write the result to."""

    form: Literal["labels", "triplets", "pairs", "marked-pairs"] | None = None
    """What says which items are alike; found out when left open."""

    read: OmitArgPrefixes[ReadOptions] = field(default_factory=ReadOptions)

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Compare as the words say; the exit code."""
    command = parse(Compare, words)
    from tercet.errors import InputError

    if command.out is not None and not command.out.endswith(".json"):
        raise InputError(f"--out is {command.out!r}; it must end in .json.")
    from tercet.run import compare

    options = {**dataclasses.asdict(command.read), "form": command.form}
    found = compare(
        command.runs, command.data, against=command.against, reporter=reporter(command.json), **options
    )  # fmt: skip
    if command.out is not None:
        found.save(command.out)
    if command.json:
        show_json(found.to_json())
    else:
        show(table(found))
    return 0


def table(found: Comparison) -> str:
    """The figures of each group, the differences, and what they say."""
    metrics = list(next(iter(found.figures.values())))
    width = max(len(name) for name in found.groups) + 2
    lines = [f"on {found.data}", "", " " * width + "".join(f"{metric:<24}" for metric in metrics).rstrip()]
    for name, figures in found.figures.items():
        ends = found.intervals.get(name, {})
        cells = (f"{figure(figures[metric], ends.get(metric)):<24}" for metric in metrics)
        lines.append(f"{name:<{width}}" + "".join(cells).rstrip())
    for one in found.differences:
        if one is found.differences[0]:
            lines += ["", "differences [95 %]"]
        told = f"{one.difference:+.3f} [{one.interval[0]:+.3f}, {one.interval[1]:+.3f}]"
        lines.append(f"  {one.metric:<18}{one.other} less {one.one}: {told}  p = {one.p_holm:.2g}")
    return "\n".join([*lines, "", *found.verdicts, *(f"note: {note}" for note in found.notes)])
