"""Holds data out for validation: whole classes where there are enough, to measure unseen classes."""

from __future__ import annotations

import numpy as np

from tercet.data.randomness import keyed
from tercet.data.records import Records, plural
from tercet.errors import DataError, InputError, check_choice

Held = tuple[Records, Records, str]

ENOUGH_CLASSES = 5
SAMPLES_TO_GIVE = 4  # a class with fewer keeps all of its samples


def hold_out(records: Records, share: float = 0.2, by: str = "auto", seed: int = 0) -> Held:
    """Training records, held-out records, and a sentence that says how they were parted.

    Labels: whole classes where there are at least 5, of which 4 with two samples; otherwise samples of each
    class that has at least 4. Sets of labels: items, as there are no classes that do not overlap. Triplets and
    pairs: so that no item is on both sides where that is possible; otherwise row by row. Items without labels: so
    many of them.

    Args:
        records: items, triplets or pairs.
        share: how much to hold out, about; between 0 and 1.
        by: "class", "row", or "auto".
        seed: decides the draw.

    Raises:
        InputError: an argument that is not allowed.
        DataError: there is too little to hold any out.
    """
    check_choice("holdout_by", by, ("auto", "class", "row"))
    if not 0 < share < 1:
        raise InputError(f"holdout is {share}; allowed is a number between 0 and 1.")
    generator = keyed(seed, "split")
    if records.form == "items":
        return _by_item(records, share, by, generator)
    if records.sets is not None:
        return _by_labelled_item(records, share, by, generator)
    if records.tuples is not None:
        return _by_tuples(records, share, by, generator)
    assert records.labels is not None
    counts = np.bincount(records.labels, minlength=len(records.classes))
    plenty = len(counts) >= ENOUGH_CLASSES and (counts > 1).sum() >= 4
    if by == "class" or (by == "auto" and plenty):
        return _by_class(records, counts, share, generator)
    return _by_row(records, counts, share, generator)


def _by_class(records: Records, counts: np.ndarray, share: float, generator: np.random.Generator) -> Held:
    several, single = np.flatnonzero(counts > 1), np.flatnonzero(counts == 1)
    if len(several) < 4:
        raise DataError(
            f"{records.source} has {plural(len(several), 'class')} with two samples; to hold out whole "
            f"classes at least 4 are needed. Hold out by row, or give validation data of its own."
        )
    number = min(max(2, round(share * len(several))), len(several) - 2)
    chosen = np.concatenate(
        [generator.permutation(several)[:number], generator.permutation(single)[: round(share * len(single))]]
    )
    assert records.labels is not None
    held = np.isin(records.labels, chosen)
    train, out = records.take(np.flatnonzero(~held)), records.take(np.flatnonzero(held))
    sentence = (
        f"Held out for validation: {plural(len(out.classes), 'class')} of {len(records.classes):,} "
        f"({len(out):,} of {len(records):,} samples), which training does not see."
    )
    return train, out, sentence


def _by_row(records: Records, counts: np.ndarray, share: float, generator: np.random.Generator) -> Held:
    giving = np.flatnonzero(counts >= SAMPLES_TO_GIVE)
    if len(giving) < 2:
        raise DataError(
            f"{records.source} has {plural(len(giving), 'class')} with {SAMPLES_TO_GIVE} samples; to hold "
            f"out samples of each class at least 2 are needed. Give validation data of its own."
        )
    held = []
    for c in giving:
        number = min(max(2, round(share * counts[c])), counts[c] - 2)
        held.append(generator.permutation(np.flatnonzero(records.labels == c))[:number])
    out = np.sort(np.concatenate(held))
    train = np.setdiff1d(np.arange(len(records)), out)
    kept = len(counts) - len(giving)
    aside = f"; {plural(kept, 'class')} with fewer than {SAMPLES_TO_GIVE} keep theirs" if kept else ""
    sentence = (
        f"Held out for validation: {len(out):,} of {len(records):,} samples, at least 2 of each of "
        f"{plural(len(giving), 'class')}{aside}. Training sees these classes."
    )
    return records.take(train), records.take(out), sentence


def _by_item(records: Records, share: float, by: str, generator: np.random.Generator) -> Held:
    if by == "class":
        raise InputError(f"holdout_by is 'class', but {records.source} has no labels; allowed are 'row' and 'auto'.")
    total = len(records)
    if total < 4:
        raise DataError(
            f"{records.source} holds {total} items without labels; to hold two out, and to train on two, at least 4 "
            "are needed. Give validation data of its own."
        )
    left, chosen = _drawn(total, share, generator)
    sentence = f"Held out for validation: {len(chosen):,} of {total:,} items, which training does not see."
    return records.take(left), records.take(chosen), sentence


def _by_labelled_item(records: Records, share: float, by: str, generator: np.random.Generator) -> Held:
    if by == "class":
        raise InputError(
            f"holdout_by is 'class', but items of {records.source} have several labels, so that no class can be held "
            "out without some of another; allowed are 'row' and 'auto'."
        )
    total = len(records)
    if total < 4:
        raise DataError(
            f"{records.source} holds {plural(total, 'item')}; to hold two out, and to train on two, at least 4 are "
            "needed. Give validation data of its own."
        )
    left, chosen = _drawn(total, share, generator)
    train, out = records.take(left), records.take(chosen)
    known = len(set(train.classes) & set(out.classes))
    assert records.sets is not None
    why = "as their labels overlap" if records.sets.shape[1] > 1 else "as some have no label"
    sentence = (
        f"Held out for validation: {len(out):,} of {total:,} samples, drawn one by one {why}. "
        f"Training sees {known:,} of their {plural(len(out.classes), 'label')} on other samples."
    )
    return train, out, sentence


def _drawn(total: int, share: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions to keep and to hold out, at least two of each."""
    number = min(max(2, round(share * total)), total - 2)
    chosen = np.sort(generator.permutation(total)[:number])
    return np.setdiff1d(np.arange(total), chosen), chosen


def _by_tuples(records: Records, share: float, by: str, generator: np.random.Generator) -> Held:
    if by == "class":
        raise InputError(
            f"holdout_by is 'class', but {records.source} holds {records.form}; allowed are 'row' and 'auto'."
        )
    tuples = records.tuples
    assert tuples is not None
    total = len(tuples)
    if total < 2:
        raise DataError(f"{records.source} holds {total} row; at least 2 are needed to hold one out.")
    wanted = min(max(2, round(share * total)), total - 1)
    rows = _separate_rows(tuples, wanted, generator) if by == "auto" else np.empty(0, dtype=np.int64)
    if len(rows):
        how = "training sees none of their items"
    else:
        rows = np.sort(generator.permutation(total)[:wanted])
        how = "drawn row by row: training may see their items in other rows"
    held = np.isin(np.arange(total), rows)
    train, out = records.take_tuples(np.flatnonzero(~held)), records.take_tuples(rows)
    noun = records.form.removeprefix("marked-")
    return train, out, f"Held out for validation: {len(rows):,} of {total:,} {noun}; {how}."


def _separate_rows(tuples: np.ndarray, wanted: int, generator: np.random.Generator) -> np.ndarray:
    """About `wanted` rows that share no item with the others; empty if that would take more than half.

    Rows that share items, directly or through others, are one component; whole components are drawn at random
    as long as they fit.
    """
    component = _components(tuples)
    sizes = np.bincount(component)
    chosen: list[int] = []
    room = wanted
    for one in generator.permutation(len(sizes)):
        if sizes[one] <= room:
            chosen.append(int(one))
            room -= int(sizes[one])
    if not chosen and 2 * sizes.min() <= len(tuples):
        chosen = [int(sizes.argmin())]
    return np.flatnonzero(np.isin(component, chosen))


def _components(tuples: np.ndarray) -> np.ndarray:
    """The connected component of each row's items, int64 codes of shape (T,)."""
    from scipy.sparse import coo_array  # type: ignore[import-untyped, unused-ignore]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped, unused-ignore]

    count = int(tuples.max()) + 1
    sources = np.repeat(tuples[:, 0], tuples.shape[1] - 1)
    edges = coo_array((np.ones(len(sources)), (sources, tuples[:, 1:].ravel())), shape=(count, count))
    _, component = connected_components(edges, directed=False)
    return np.unique(component[tuples[:, 0]], return_inverse=True)[1].astype(np.int64)
