"""tercet mine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from tercet.cli.console import Json, ReadOptions, parse, reporter, show, show_json
from tercet.mining.options import MiningOptions

if TYPE_CHECKING:
    from tercet.training.mined import MinedRecords


@dataclass(frozen=True)
class Mine:
    """Find the nearest wrong neighbours of every item of a labelled set, and write them as triplets to train on.

    Items whose neighbours say that their label is wrong are listed beside it instead, in NAME-suspects.csv.

        tercet mine runs/faces faces/ --out hard.parquet
        tercet train hard.parquet --out runs/harder
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder, whose model says who is near."""

    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder with a subfolder for each class, or a table with labels."""

    out: str
    """The Parquet file of triplets to write."""

    mining: OmitArgPrefixes[MiningOptions] = field(default_factory=MiningOptions)

    group: str | None = None
    """A column of a table; items of one group (author, camera, film) never meet in a triplet."""

    margin: float | None = None
    """The summary counts hard, semi-hard and easy triplets by it; the run's when left open."""

    overwrite: FlagCreatePairsOff[bool] = False
    """Replace the files of an earlier mining."""

    cache: bool = True
    """Use the embeddings that an earlier call kept in the run folder, and keep these."""

    read: OmitArgPrefixes[ReadOptions] = field(default_factory=ReadOptions)

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Mine as the words say; the exit code."""
    command = parse(Mine, words)
    from tercet.run import load

    found = load(command.run).mine(
        command.data, command.out, mining=command.mining, group=command.group, margin=command.margin,
        overwrite=command.overwrite, cache=command.cache, reporter=reporter(command.json),
        **dataclasses.asdict(command.read),
    )  # fmt: skip
    if command.json:
        show_json(found.figures())
    else:
        show(_summary(found))
    return 0


def _summary(found: MinedRecords) -> str:
    """What was mined, what was left out, and what to do next."""
    figures = found.figures()
    total, busiest = figures["triplets"], figures["busiest_negative"]
    shares = ", ".join(
        f"{word} {figures[key] / total:.1%}"
        for word, key in (("hard", "hard"), ("semi-hard", "semihard"), ("easy", "easy"))
    )
    left = ", ".join(f"{figures[key]:,} {words}" for key, words in LEFT_OUT.items() if figures[key])
    return "\n".join([
        f"{total:,} triplets of {figures['anchors']:,} anchors, of {figures['items']:,} items",
        f"  {shares}, at margin {found.margin:g} ({figures['distance']})",
        f"  no anchors: {left or 'none'}",
        f"  the busiest negative, {busiest['name']}, is in {busiest['triplets']:,}",
        f"  {figures['near_duplicates']:,} near-duplicates of different labels were kept apart",
        f"triplets  {found.out}",
        f"suspects  {found.suspects}",
        f"next      tercet train {found.out} --out RUN",
    ])  # fmt: skip


LEFT_OUT = {
    "label_errors": "likely label errors",
    "without_positive": "without a positive",
    "without_negative": "without a negative in the ranks and margins",
    "crowded_out": "whose negatives all serve as often as they may",
}
