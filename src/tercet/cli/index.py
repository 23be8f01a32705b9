"""tercet index."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from tercet.cli.console import Json, ReadOptions, parse, reporter, show, show_json
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.data.records import Skipped
    from tercet.index import Index as Store


@dataclass(frozen=True)
class Index:
    """Embed items and keep them searchable.

    tercet index runs/faces photos/ --out photos.index
    tercet search photos.index query.png
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder of images (or of classes), a table, or a .txt file with a text a line; or a folder of shards that \
tercet embed wrote, which is indexed without the model."""

    out: str
    """The index to write, a folder; it must not exist yet."""

    approximate: FlagCreatePairsOff[bool] = False
    """Search through faiss, which is faster from some 100,000 items on and may miss a neighbour; how often is \
measured and said. Needs: pip install 'tercet[faiss]'"""

    vectors: Literal["float32", "int8", "binary", "rescored"] | None = None
    """How vectors are kept and compared: float32; int8, in a quarter of the space; binary, by the bits that differ, \
in a 32nd; rescored, by bits first and the floats of the candidates then. As in the shards, or float32, when left \
open."""

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
    from tercet.index.shards import is_shards
    from tercet.run import load

    out = Path(command.out)
    skipped: tuple[Skipped, ...] = ()
    if is_shards(command.data):
        index = _of_shards(command)
    else:
        index, skipped = load(command.run, dim=command.dim).index(
            command.data, approximate=command.approximate, vectors=command.vectors or "float32", side=command.side,
            reporter=reporter(command.json), **dataclasses.asdict(command.read),
        )  # fmt: skip
    index.save(out)
    if command.json:
        show_json({"out": str(out), "items": len(index.names), "dimensions": index.vectors.shape[1],
                   "recall": index.recall, "skipped": [dataclasses.asdict(one) for one in skipped]})  # fmt: skip
        return 0
    found = "" if index.recall is None else f"; approximate, finds {index.recall:.1%} of the 10 nearest (measured)"
    show(f"{len(index.names)} items in {out}{found}\nnext: tercet search {out} QUERY")
    return 0


def _of_shards(command: Index) -> Store:
    """The index of embeddings that are there already."""
    from tercet.index.embedding import index_of_shards

    if command.read != ReadOptions() or command.side is not None or command.dim is not None:
        raise InputError(f"{command.data} holds embeddings, so options that say how to read items do nothing.")
    index = index_of_shards(Path(command.run), Path(command.data))
    if command.vectors is not None:
        if index.kind not in ("float32", command.vectors):
            raise InputError(f"vectors is {command.vectors!r}, and {command.data} was written as {index.kind!r}.")
        index = index.of_kind(command.vectors)
    return index.approximated() if command.approximate else index
