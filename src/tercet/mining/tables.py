"""What was mined as a table that training reads, and what is suspect as CSV; callers write them to files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tercet.mining.triplets import Mined

SUSPECT_COLUMNS = ("item", "reason", "label", "other_label", "share", "neighbours", "distance", "other", "left_out")


def triplet_table(mined: Mined, cells: Sequence[str]) -> pa.Table:
    """A table of T rows: anchor, positive, negative, anchor_label, negative_label, d_ap, d_an, rank.

    Args:
        mined: the triplets.
        cells: what stands for each item, a path or a text, N of them.
    """
    of_item = pa.array(list(cells), pa.string())
    labels = pa.array([str(mined.items.classes[code]) for code in mined.items.labels.tolist()], pa.string())
    return pa.table({
        "anchor": of_item.take(pa.array(mined.anchors)),
        "positive": of_item.take(pa.array(mined.positives)),
        "negative": of_item.take(pa.array(mined.negatives)),
        "anchor_label": labels.take(pa.array(mined.anchors)),
        "negative_label": labels.take(pa.array(mined.negatives)),
        "d_ap": pa.array(mined.d_ap, pa.float32()),
        "d_an": pa.array(mined.d_an, pa.float32()),
        "rank": pa.array(mined.ranks, pa.int64()),
    })  # fmt: skip


def suspects_csv(mined: Mined, names: Sequence[str]) -> str:
    """Likely label errors, then near-duplicates of different labels, with their evidence; a header alone if none.

    Args:
        mined: what was found.
        names: what each item is called, N of them.
    """
    rows: list[tuple[Any, ...]] = [
        (names[one.item], one.reason, one.label, one.other_label, f"{one.share:.3f}", one.n_neighbors,
         f"{one.distance:.6g}", names[one.other], "yes")
        for one in mined.label_errors
    ]  # fmt: skip
    rows += [
        (names[one.item], "near-duplicate", one.label, one.other_label, "", "", f"{one.distance:.6g}",
         names[one.other], "no")
        for one in mined.near_duplicates
    ]  # fmt: skip
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(SUSPECT_COLUMNS)
    writer.writerows(rows)
    return content.getvalue()
