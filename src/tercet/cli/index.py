"""tercet index."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from tercet.cli.console import Json, ReadOptions, parse, reporter, show, show_json


@dataclass(frozen=True)
class Index:
    """Embed items and keep them searchable.

    tercet index runs/faces photos/ --out photos.index
    tercet search photos.index query.png
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder of images (or of classes), a table, or a .txt file with a text a line."""

    out: str
    """The index to write, a folder; it must not exist yet."""

    approximate: FlagCreatePairsOff[bool] = False
    """Search through faiss, which is faster from some 100,000 items on and may miss a neighbour; how often is \
measured and said. Needs: pip install 'tercet[faiss]'"""

    side: str | None = None
    """A run with two towers: which of them, by the name of the column that it was trained on. Found from the data \
where one holds images and the other texts. Or a run with a prompt for each role: query or document."""

    dim: int | None = None
    """How many numbers of each embedding to take, from its start (for runs trained with --matryoshka); all when left \
open."""

    read: OmitArgPrefixes[ReadOptions] = field(default_factory=ReadOptions)

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Index as the words say; the exit code."""
    command = parse(Index, words)
    from tercet.run import load

    out = Path(command.out)
    run = load(command.run, dim=command.dim)
    index, skipped = run.index(
        command.data, approximate=command.approximate, side=command.side, reporter=reporter(command.json),
        **dataclasses.asdict(command.read),
    )  # fmt: skip
    index.save(out)
    if command.json:
        show_json({"out": str(out), "items": len(index.names), "dimensions": index.vectors.shape[1],
                   "recall": index.recall, "skipped": [dataclasses.asdict(one) for one in skipped]})  # fmt: skip
        return 0
    found = "" if index.recall is None else f"; approximate, finds {index.recall:.1%} of the 10 nearest (measured)"
    show(f"{len(index.names)} items in {out}{found}\nnext: tercet search {out} QUERY")
    return 0
