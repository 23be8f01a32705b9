"""tercet embed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from tercet.cli.console import Json, ReadOptions, parse, reporter, show, show_json


@dataclass(frozen=True)
class Embed:
    """Write the embeddings of items to a Parquet file: columns name, label (where known) and embedding.

    tercet embed runs/faces photos/ --out photos.parquet
    """

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""

    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder of images (or of classes), an image, a table, or a .txt file with a text a line."""

    out: str
    """The Parquet file to write; it must not exist yet."""

    side: str | None = None
    """A run with two towers: which of them, by the name of the column that it was trained on. Found from the data \
where one holds images and the other texts. Or a run with a prompt for each role: query or document."""

    dim: int | None = None
    """How many numbers of each embedding to take, from its start (for runs trained with --matryoshka); all when left \
open."""

    read: OmitArgPrefixes[ReadOptions] = field(default_factory=ReadOptions)

    json: Json = False


def main(words: Sequence[str]) -> int:
    """Embed as the words say; the exit code."""
    command = parse(Embed, words)
    from tercet.index.parquet import check_parquet_path, write_parquet
    from tercet.run import load

    out = Path(command.out)
    check_parquet_path(out)
    batch = load(command.run, dim=command.dim).embed_records(
        command.data, side=command.side, reporter=reporter(command.json), **dataclasses.asdict(command.read)
    )
    write_parquet(out, batch.vectors, batch.names, batch.labels)
    if command.json:
        show_json({"out": str(out), "items": len(batch.names), "dimensions": batch.vectors.shape[1],
                   "skipped": [dataclasses.asdict(one) for one in batch.skipped]})  # fmt: skip
    else:
        show(f"{len(batch.names)} embeddings of {batch.vectors.shape[1]} dimensions in {out}")
    return 0
