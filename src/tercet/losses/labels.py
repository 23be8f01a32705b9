"""Labels and ids as users have them (tensors, arrays, lists) -> int64 codes, equal where they are equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet.errors import InputError

Labels = Tensor | np.ndarray | Sequence[Any]
_ALLOWED = "a sequence, array or tensor of integers or strings"


def encode(
    name: str, given: Labels, length: int, other_name: str, other: Labels | None, other_length: int
) -> tuple[Tensor, Tensor | None]:
    """int64 tensors of shapes (length,) and (other_length,); equal entries, in either, get equal codes.

    Raises:
        InputError: a wrong length or dimension, floating or missing values, or numbers here and words there.
    """
    first = flat(name, given, length)
    second = None if other is None else flat(other_name, other, other_length)
    if second is None or (isinstance(first, Tensor) and isinstance(second, Tensor)):
        codes = first if isinstance(first, Tensor) else _numbered(first)
        return codes, second if isinstance(second, Tensor) else None
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        if len(first) and len(second):
            words, numbers = (other_name, name) if isinstance(first, Tensor) else (name, other_name)
            raise InputError(words_beside_numbers(words, numbers))
        return torch.zeros(len(first), dtype=torch.int64), torch.zeros(len(second), dtype=torch.int64)
    both = _numbered(first + second)
    return both[: len(first)], both[len(first) :]


def words_beside_numbers(words: str, numbers: str) -> str:
    """The message where the entries of the one are strings and those of the other integers."""
    return f"{words} are strings and {numbers} are integers, which are never equal; give both alike."


def _numbered(words: list[str]) -> Tensor:
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(word, len(numbers)) for word in words], dtype=torch.int64)


def flat(name: str, given: Labels, length: int) -> Tensor | list[str]:
    """The entries as an int64 tensor, or as a list of strings; of the right number.

    Raises:
        InputError: a wrong length or dimension, or entries that are missing or neither integers nor strings.
    """
    entries = entries_of(name, given)
    check_length(name, len(entries), length)
    return entries


def check_length(name: str, entries: int, length: int) -> None:
    """Raise InputError unless there is an entry for each row."""
    if entries != length:
        rows = "the reference" if name.startswith("reference_") else "embeddings"
        raise InputError(f"{name} has {entries} entries for {length} rows of {rows}; give one for each row.")


def entries_of(name: str, given: Labels) -> Tensor | list[str]:
    """The entries as an int64 tensor of one dimension, or as a list of strings.

    Raises:
        InputError: another dimension, or entries that are missing or neither integers nor strings.
    """
    if isinstance(given, str) or not (hasattr(given, "__len__") or isinstance(given, Tensor)):
        raise InputError(f"{name} is {given!r}; allowed is {_ALLOWED}.")
    if not isinstance(given, (Tensor, np.ndarray)):
        given = _array(name, given)
    if given.ndim != 1:
        raise InputError(f"{name} has shape {tuple(given.shape)}; allowed is one dimension, one entry a row.")
    if isinstance(given, Tensor):
        if given.is_floating_point() or given.is_complex():
            raise InputError(_not_whole(name, given.dtype, given.isnan().nonzero()[:, 0].tolist()))
        return given.detach().to(torch.int64)
    if given.dtype.kind in "US":
        return [str(word) for word in given.tolist()]
    if given.dtype.kind == "O":
        return entries_of(name, _array(name, given.tolist()))
    if given.dtype.kind in "iub":
        return torch.from_numpy(given.astype(np.int64))  # uint64 wraps, which keeps unequal numbers unequal
    missing = np.flatnonzero(np.isnan(given)).tolist() if given.dtype.kind == "f" else []
    raise InputError(_not_whole(name, given.dtype, missing))


def _array(name: str, given: Sequence[Any]) -> np.ndarray:
    """A list as an array of integers or strings, entry by entry: numpy would make words of mixed lists."""
    entries = [plain(entry) for entry in given]
    check_none_missing(name, [row for row, entry in enumerate(entries) if is_missing(entry)])
    kinds = {str if isinstance(entry, str) else type(entry) for entry in entries}
    if kinds <= {int, bool}:
        try:
            return np.array(entries, dtype=np.int64)
        except OverflowError:
            raise InputError(
                f"{name} holds integers beyond 64 bits; give them as strings: [str(x) for x in {name}]."
            ) from None
    if kinds == {str}:
        return np.array(entries, dtype=object).astype(str)
    listed = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise InputError(f"{name} holds entries of type {listed}; allowed is {_ALLOWED}, all of one kind.")


def plain(entry: Any) -> Any:
    """A number of NumPy's or torch's as Python's; anything else as it is."""
    return entry.item() if hasattr(entry, "item") and np.ndim(entry) == 0 else entry


def is_missing(entry: Any) -> bool:
    """Whether an entry is None or NaN."""
    return entry is None or (isinstance(entry, float) and entry != entry)


def check_none_missing(name: str, rows: list[int]) -> None:
    """Raise InputError if there are rows whose entry is missing."""
    if rows:
        raise InputError(_not_whole(name, "a list", rows))


def _not_whole(name: str, dtype: object, missing: list[int]) -> str:
    if missing:
        rows = ", ".join(str(row) for row in missing[:5]) + (", ..." if len(missing) > 5 else "")
        return f"{name} is missing (None or NaN) at row {rows}; leave those rows out, or give them a label."
    return (
        f"{name} has dtype {dtype}; allowed is {_ALLOWED}. "
        f"If they are whole numbers, convert them: torch.as_tensor({name}).to(torch.int64)."
    )
