"""tercet search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from tercet.cli.console import Json, parse, show, show_json


@dataclass(frozen=True)
class Search:
    """Find the items of an index that are nearest to a query.

    tercet search photos.index query.png -k 10
    """

    index: Annotated[Positional[str], tyro.conf.arg(metavar="INDEX")]
    """The index that `tercet index` wrote."""

    query: Annotated[Positional[str], tyro.conf.arg(metavar="QUERY")]
    """An image, a text in quotes, or the numbers of a table row as "5.1,3.5,1.4,0.2"."""

    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """How many to find."""

    run: str | None = None
    """The run folder, if it is no longer where the index was made."""

    side: str | None = None
    """A run with two towers: which side the query is of, by the name of its column; when left open that \
of images for a file, otherwise the other than the index. Or a run with a prompt for each role: query or document."""

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Search as the words say; the exit code."""
    command = parse(Search, words)
    from tercet.data.labels import in_words
    from tercet.index import Index
    from tercet.run import load

    index = Index.open(Path(command.index))
    run = load(command.run or index.run)
    if index.vectors.shape[1] < getattr(run.config.encoder, "dim", 0):
        run.model.cut_to = index.vectors.shape[1]
    index.check_weights(run.weights)
    side = command.side
    if side is None and not Path(command.query).is_file():  # a file is of the side that holds files, whichever that is
        side = next((name for name in run.sides or run.roles if index.side not in (None, name)), None)
    found = index.search(run.embed([run.parse_item(command.query)], side), command.k)[0]
    if command.json:
        show_json([asdict(one) for one in found])
        return 0
    for rank, one in enumerate(found, start=1):
        label = in_words(one.label) if isinstance(one.label, list) else one.label
        show(f"{rank:>3}  {one.distance:.4f}  {one.name}{'' if label is None else f'  {label}'}")
    return 0
