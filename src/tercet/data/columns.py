"""What the columns of a table mean: labels, features, texts, paths, sides of triplets and pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tercet.data.features import kind_of
from tercet.data.tablefiles import Table
from tercet.data.wishes import IMAGE_SUFFIXES, Wishes
from tercet.errors import DataError, InputError

LABELS = (
    "label", "labels", "class", "class_name", "class_id", "category", "target", "y", "species", "variety",
    "breed", "genus", "topic", "identity", "person", "person_id", "pid", "subject", "subject_id", "speaker",
    "author", "writer",
)  # fmt: skip
TEXTS = (
    "text", "sentence", "document", "description", "body", "content", "review", "comment", "message",
    "question", "query", "title", "word",
)  # fmt: skip
PATHS = ("path", "image", "file", "filename", "image_path", "file_path", "filepath", "img")
ROW_NUMBERS = ("id", "index", "row", "row_id", "uid", "rowid")
TRIPLET = ("anchor", "positive", "negative")
PAIRS = (
    ("anchor", "positive"), ("left", "right"), ("a", "b"), ("first", "second"), ("text1", "text2"),
    ("sentence1", "sentence2"), ("image1", "image2"), ("path1", "path2"), ("query", "document"),
)  # fmt: skip
SIDED = (
    ("image", "text"), ("image", "caption"), ("photo", "caption"), ("path", "caption"), ("image", "description"),
)  # fmt: skip
"""Pairs of an image and a text, unless a column of labels says otherwise."""
FORGED = ("forged", "forgery", "is_forged")
MARKS = ("similar", "same", "label", "score")
SCORES = ("score", "similarity", "similarity_score")
"""Columns that score pairs, where they hold other numbers than 1 and 0."""
ENOUGH_TO_CLASSIFY = 20  # rows, from which on columns of few words are categories and not texts


@dataclass(frozen=True)
class Layout:
    """What the columns of a table mean."""

    form: str
    kind: str
    columns: tuple[str, ...]
    label: str | None
    """The column of labels, or of marks or scores for such pairs."""
    kinds: tuple[str, ...] = ()
    """The kind of each column: of two sides, or of features ("number", "category", "date", "text")."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Columns that no model should learn from, each with the reason."""
    forged: str | None = None
    """The column that marks forgeries of the class in the label's column."""

    def pairing(self) -> str:
        """Of two sides, what is paired with what, in words."""
        both = (f"{kind}s in {name!r}" for kind, name in zip(self.kinds, self.columns, strict=True))
        return f"pairs of {' with '.join(both)}"

    def beside(self, columns: Iterable[str]) -> str:
        """What a table's columns are besides items and labels, in words: marks of forgeries, left out, not used."""
        gone = {name for name, _ in self.left_out}
        unused = [name for name in columns if name not in (*self.columns, *gone, self.label, self.forged)]
        forged = f", forgeries marked in {self.forged!r}" if self.forged else ""
        left_out = "".join(f"; left out: {name!r}, {reason}" for name, reason in self.left_out)
        return forged + left_out + (f"; not used: {', '.join(unused)}" if unused else "")


def holds_tuples(table: Table, wishes: Wishes) -> bool:
    """Whether a row is a triplet or a pair; errors as of `find_layout`."""
    return _find_sides(table, wishes) is not None


def find_layout(table: Table, wishes: Wishes) -> Layout:
    """What the columns mean; what the user says overrules what is found.

    Raises:
        DataError: it cannot be told, or a named column is missing; the message lists the columns. Or items are lists.
    """
    found = _find_layout(table, wishes)
    for name in found.columns:
        table.check_plain(name)
    return found


def _find_layout(table: Table, wishes: Wishes) -> Layout:
    for option in ("columns", "categories", "dates", "texts"):
        for name in getattr(wishes, option) or ():
            table.column(name, f"--{option}")
    if wishes.label is not None:
        table.column(wishes.label, "--label")
    sides = _find_sides(table, wishes)
    if sides is not None:
        return _tuple_layout(table, sides, wishes)
    label = find_label(table, wishes)
    form = "items" if label is None else "labels"
    marks = [name for name in _named(table, FORGED) if name not in (label, *(wishes.columns or ()))]
    forged = marks[0] if marks and label is not None else None
    free = tuple(name for name in _free(table, wishes, label) if name != forged)
    if _holds_features(table, free, wishes):
        return replace(_features(table, free, wishes, form, label), forged=forged)
    kind, columns = _find_items(table, free, wishes)
    return Layout(form, kind, columns, label, forged=forged)


def _named(table: Table, words: Sequence[str]) -> list[str]:
    """The columns with one of these names, whatever the case."""
    return [name for name in table.columns if name.strip().lower() in words]


def _find_sides(table: Table, wishes: Wishes) -> tuple[str, ...] | None:
    """The columns of a triplet or a pair, or None if the table is one of items."""
    count = {"triplets": 3, "pairs": 2, "marked-pairs": 2, "scored-pairs": 2, "labels": 0, "items": 0}.get(
        wishes.form or ""
    )
    if count == 0:
        return None
    if wishes.columns is not None and count is not None:
        if len(wishes.columns) != count:
            raise InputError(f"--columns names {len(wishes.columns)} columns; --form {wishes.form} needs {count}.")
        return wishes.columns
    if wishes.columns is None:
        lower = {name.strip().lower(): name for name in table.columns}
        for words in (TRIPLET, *PAIRS, *_sided_names(table, wishes)):
            fits = count in (None, len(words)) and all(word in lower for word in words)
            if fits and (count is not None or words[0] == "anchor" or not _any_numbers(table, words, lower)):
                return tuple(lower[word] for word in words)
    if count is not None:
        raise DataError(
            f"{table.source}: no columns of {wishes.form} found; expected are {', '.join(TRIPLET[:count])}. "
            f"Its columns are {table.listed()}; say which with --columns."
        )
    return None


def _sided_names(table: Table, wishes: Wishes) -> Sequence[tuple[str, str]]:
    """Names that pairs of two kinds go by: where pairs are asked for, or nothing else is."""
    if wishes.form == "pairs" or (wishes.labelled and wishes.form is None and not _named(table, LABELS)):
        return SIDED
    return ()


def _any_numbers(table: Table, words: Sequence[str], lower: dict[str, str]) -> bool:
    return any(is_numeric(table, lower[word]) for word in words)


def _tuple_layout(table: Table, sides: tuple[str, ...], wishes: Wishes) -> Layout:
    numeric = [name for name in sides if is_numeric(table, name)]
    if numeric or wishes.kind == "tabular":
        raise DataError(
            f"{table.source}: triplets and pairs are of texts or of paths to images, but column "
            f"{(numeric or sides)[0]!r} holds numbers. Give rows of features with a label instead (--form "
            f"labels)."
        )
    score = None if len(sides) == 3 else _find_score(table, sides, wishes)
    if score is not None:
        return Layout("scored-pairs", wishes.kind or _kind_of_sides(table, sides), sides, score)
    kinds = tuple("image" if holds_paths(table, name) else "text" for name in sides)
    if _are_separate(table, sides, kinds, wishes):
        return Layout("pairs", "sides", sides, None, kinds)
    kind = wishes.kind or _kind_of_sides(table, sides)
    if len(sides) == 3:
        return Layout("triplets", kind, sides, None)
    mark = None if wishes.form == "pairs" else wishes.label or _find_mark(table, sides)
    if wishes.form == "marked-pairs" and mark is None:
        raise DataError(
            f"{table.source}: no column marks the pairs as similar or not (1 or 0); expected is one of "
            f"{', '.join(MARKS)}. Its columns are {table.listed()}; say which with --label."
        )
    return Layout("pairs" if mark is None else "marked-pairs", kind, sides, mark)


def _are_separate(table: Table, sides: tuple[str, ...], kinds: tuple[str, ...], wishes: Wishes) -> bool:
    """Whether the columns are two sides with an encoder each: where asked for, or where their kinds differ."""
    differ = len(sides) == 2 and len(set(kinds)) == 2 and wishes.kind is None
    if differ and wishes.towers == "shared":
        raise InputError(
            f"--towers is 'shared', but {table.source} pairs {kinds[0]}s in {sides[0]!r} with {kinds[1]}s in "
            f"{sides[1]!r}; one encoder cannot take both. Say --towers separate, or nothing."
        )
    if not differ and wishes.towers != "separate":
        return False
    mark = None if wishes.form == "pairs" or len(sides) == 3 else wishes.label or _find_mark(table, sides)
    if len(sides) == 3 or mark is not None or wishes.form not in (None, "pairs"):
        given = "triplets" if len(sides) == 3 else "marked pairs"
        raise InputError(
            f"{table.source} holds {given}, and two towers take positive pairs alone. "
            "Say --form pairs --columns LEFT RIGHT, or --towers shared."
        )
    return True


def _kind_of_sides(table: Table, sides: tuple[str, ...]) -> str:
    return "image" if all(holds_paths(table, name) for name in sides) else "text"


def _find_score(table: Table, sides: tuple[str, ...], wishes: Wishes) -> str | None:
    """The column of scores, if there is one: asked for, or of a usual name and with numbers other than 1 and 0."""
    if wishes.form not in (None, "scored-pairs"):
        return None
    named = [wishes.label] if wishes.label is not None else _named(table, SCORES)
    found = [name for name in named if name not in sides and is_numeric(table, name)]
    if wishes.form is None:
        found = [name for name in found if name in _named(table, SCORES) and _is_graded(table, name)]
    if len(found) > 1:
        raise DataError(
            f"{table.source}: the columns {', '.join(found)} could all be the scores. Say which with --label."
        )
    if wishes.form == "scored-pairs" and not found:
        problem = f"the column {named[0]!r} holds no numbers" if named else "no column of scores found"
        raise DataError(
            f"{table.source}: {problem}; scored pairs need numbers, larger for more alike, in a column such as "
            f"{', '.join(SCORES)}. Its columns are {table.listed()}; say which with --label."
        )
    return found[0] if found else None


def _is_graded(table: Table, name: str) -> bool:
    values, _ = table.numbers(name)
    return not bool(np.isin(values[np.isfinite(values)], (0, 1)).all())


def _find_mark(table: Table, sides: tuple[str, ...]) -> str | None:
    found = [name for name in _named(table, MARKS) if name not in sides]
    if len(found) > 1:
        raise DataError(
            f"{table.source}: the columns {', '.join(found)} could all mark the pairs as similar or not. "
            f"Say which with --label, or --form pairs if none does."
        )
    return found[0] if found else None


def find_label(table: Table, wishes: Wishes) -> str | None:
    """The column of labels; None where there is none and none is needed."""
    if wishes.form == "items":
        return None
    if wishes.label is not None:
        return wishes.label
    found = [name for name in _named(table, LABELS) if name not in (wishes.columns or ())]
    if len(found) == 1:
        return found[0]
    if not wishes.labelled:
        return None
    problem = f"the columns {', '.join(found)} could all be the labels" if found else "no column of labels found"
    pairs = ", or for pairs of two columns --form pairs --columns LEFT RIGHT" if wishes.towers else ""
    raise DataError(f"{table.source}: {problem}. Its columns are {table.listed()}; say which with --label{pairs}.")


def _free(table: Table, wishes: Wishes, label: str | None) -> tuple[str, ...]:
    """The columns that may hold the items."""
    free = wishes.columns or tuple(
        name
        for name in table.columns
        if name not in (label, *table.lists, *table.held) and (label or name not in _named(table, LABELS))
    )
    if not free:
        for name in table.columns:
            if name != label:
                table.check_plain(name)
        raise DataError(f"{table.source} holds nothing but the labels in {label!r}.")
    return free


def _holds_features(table: Table, free: Sequence[str], wishes: Wishes) -> bool:
    """Whether a row is an item by its features: asked for, or all numbers, or numbers and words that classify.

    Raises:
        DataError: it may as well be an item by its text.
    """
    if wishes.kind is not None:
        return wishes.kind == "tabular"
    if wishes.named:
        return True
    numeric = [name for name in free if is_numeric(table, name)]
    other = [name for name in free if name not in numeric]
    if not other:
        return True
    _check_nearly_numbers(table, other)
    usual = wishes.columns is None and any(name in other for name in _named(table, TEXTS))
    if usual or len(free) == 1 or any(holds_paths(table, name) for name in other):
        return False
    if wishes.columns is not None:
        return True
    kinds = {name: kind_of(table, name) for name in other}
    texts = [name for name, kind in kinds.items() if kind == "text"]
    if numeric and texts:
        raise DataError(
            f"{table.source}: {', '.join(numeric)} hold numbers and {', '.join(texts)} text. Say which are meant: "
            f"--columns {texts[0]} for the texts alone, or --kind tabular for all columns as features."
        )
    if numeric:
        return True
    few = len(table) >= ENOUGH_TO_CLASSIFY
    return few and not texts and any(kind in ("category", "date") for kind in kinds.values())


def _find_items(table: Table, free: Sequence[str], wishes: Wishes) -> tuple[str, tuple[str, ...]]:
    """The kind of items that are texts or images, and the column that holds them."""
    other = [name for name in free if not is_numeric(table, name)]
    paths = [name for name in other if holds_paths(table, name)]
    kind = wishes.kind or ("image" if paths else "text")
    if kind == "image" and (paths or wishes.kind is None):
        return "image", (_only(table, paths, PATHS, "paths to images"),)
    texts = other or list(free)
    words, what = (PATHS, "paths to images") if kind == "image" else (TEXTS, "texts")
    return kind, (_only(table, texts, words, what),)


def _features(table: Table, free: Sequence[str], wishes: Wishes, form: str, label: str | None) -> Layout:
    """The feature columns with their kinds; those that only name the rows are left out, unless they are asked for."""
    named, kinds, left_out = wishes.named, {}, {}
    if not wishes.knows_kinds:
        _check_nearly_numbers(table, [name for name in free if name not in named])
    for name in dict.fromkeys((*free, *(name for name in named if wishes.columns is None))):
        kind = named.get(name) or ("number" if wishes.knows_kinds else kind_of(table, name))
        asked = wishes.columns is not None or name in named
        if kind == "number":
            _check_numbers(table, [name], "it is a column of numbers" if wishes.knows_kinds else "--kind tabular")
        if not asked and (kind == "unique" or (kind == "number" and _numbers_rows(table, name))):
            left_out[name] = "a value of its own in nearly every row"
        elif kind == "empty" and not wishes.knows_kinds:
            left_out[name] = "no value in any row"
        else:
            kinds[name] = "category" if kind == "unique" else kind
    if not kinds:
        gone = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise DataError(f"{table.source} holds no features: {gone}. Name those that are meant with --columns.")
    return Layout(form, "tabular", tuple(kinds), label, tuple(kinds.values()), tuple(left_out.items()))


def _numbers_rows(table: Table, name: str) -> bool:
    """Whether a column of numbers only numbers the rows, by its name and its values."""
    values, _ = table.numbers(name)
    return name.strip().lower() in ROW_NUMBERS and len(np.unique(values)) == len(table) > 1


def _only(table: Table, found: Sequence[str], words: Sequence[str], what: str) -> str:
    """The one column that is meant: the only one, or the only one with a usual name."""
    usual = [name for name in found if name.strip().lower() in words]
    if len(found) == 1 or len(usual) == 1:
        return usual[0] if len(usual) == 1 else found[0]
    raise DataError(
        f"{table.source}: the columns {', '.join(found)} could all hold the {what}. Say which with --columns."
    )


def _check_numbers(table: Table, columns: Sequence[str], because: str) -> None:
    """Raise for the first cell that holds text where numbers are meant."""
    for name in columns:
        _, wrong = table.numbers(name)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{table.source}, {table.place(row)}, column {name!r}: {table.texts(name)[row]!r} is not a "
                f"number ({because}). Correct it, leave the column out with --columns, or take its words as "
                f"categories with --categories {name}."
            )


def _check_nearly_numbers(table: Table, columns: Sequence[str]) -> None:
    """A column of numbers with a few other words is a mistake to report, not a column of texts."""
    for name in columns:
        values, wrong = table.numbers(name)
        if np.isfinite(values).sum() > wrong.sum() > 0:
            _check_numbers(table, [name], "most of the column's cells are numbers")


def is_numeric(table: Table, name: str) -> bool:
    """Whether a column holds numbers, at least one, and no other text."""
    values, wrong = table.numbers(name)
    return not wrong.any() and not bool(np.isnan(values).all())


def holds_paths(table: Table, name: str) -> bool:
    """Whether every filled cell of a column ends like the name of an image."""
    filled = [value for value in table.texts(name) if value]
    return bool(filled) and all(Path(value).suffix.lower() in IMAGE_SUFFIXES for value in filled)
