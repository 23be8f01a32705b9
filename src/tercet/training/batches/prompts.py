"""Prompts by role: texts that look for others and texts that are looked for, encoded by one encoder.

E5 and its kin are trained so (Wang et al. 2022, "Text embeddings by weakly-supervised contrastive pre-training",
section 4): a text has "query: " or "passage: " before it. Here the prompt becomes part of the text, and a text that is
used in both roles becomes two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercet.data.large_tables import columns_of
from tercet.data.lazy import LazyItems, items_at
from tercet.data.records import Records
from tercet.encoders.options import TextOptions
from tercet.errors import InputError, check_choice

ROLES = ("query", "document")


def has_roles(options: Any) -> bool:
    """Whether texts have another prompt by their role."""
    return isinstance(options, TextOptions) and bool(options.query_prompt or options.document_prompt)


def prompted(records: Records, options: Any) -> Records:
    """The records with the prompt of its role before each text: of pairs and triplets, the first item looks for others.

    Records without pairs or triplets, and encoders without such prompts, leave them as they are.
    """
    if not has_roles(options) or records.tuples is None or records.kind != "text":
        return records
    roles = np.minimum(np.arange(records.tuples.shape[1]), 1)
    keys = records.tuples * 2 + roles
    used, places = np.unique(keys, return_inverse=True)
    items: Sequence[str] = LazyItems(_Twice(records.items), "", _Prompted(options), used)
    names: Sequence[str] = LazyItems(_Twice(records.names), "", _as_it_is, used)
    if not isinstance(records.items, LazyItems):
        items, names = list(items), list(names)
    return dataclasses.replace(records, items=items, names=names, tuples=places.reshape(keys.shape).astype(np.int64))


def in_role(items: Sequence[str], options: Any, role: str | None) -> Sequence[str]:
    """Texts of one role with its prompt before each, read when they are asked for where the texts are.

    Raises:
        InputError: no role is given, or there is none of that name.
    """
    if not isinstance(items, LazyItems):
        return with_prompt(items, options, role)
    return LazyItems(_Twice(items), "", _Prompted(options), 2 * np.arange(len(items)) + _role_number(role))


@dataclass(frozen=True)
class _Twice:
    """Items, each as a query and then as a document."""

    items: Sequence[str]

    def __len__(self) -> int:
        return 2 * len(self.items)

    def take(self, positions: Sequence[int] | np.ndarray, column: str) -> list[Any]:
        """The items of these rows, whatever the column is called."""
        return items_at(self.items, np.asarray(positions) // 2)


@dataclass(frozen=True)
class _Prompted:
    """Puts the prompt of its role before a text."""

    options: Any

    def __call__(self, text: str, row: int) -> str:
        return with_prompt([text], self.options, ROLES[row % 2])[0]


def _as_it_is(value: Any, row: int) -> Any:
    return value


def with_prompt(texts: Sequence[str], options: Any, role: str | None) -> list[str]:
    """Texts with the prompt of a role before each.

    Raises:
        InputError: no role is given, or there is none of that name.
    """
    prompt = (options.query_prompt, options.document_prompt)[_role_number(role)] or ""
    return [prompt + text for text in texts]


def _role_number(role: str | None) -> int:
    if role is None:
        raise InputError(
            "this run was trained with a prompt for queries and one for documents; say which these are: --side query "
            "or --side document."
        )
    check_choice("side", role, ROLES)
    return ROLES.index(role)


def column_of(data: Any, side: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The column of a table that is called as the role, where it has one and no other is asked for."""
    if given.get("columns") or not isinstance(data, (str, Path)):
        return {}
    return {"columns": (side,)} if side in columns_of(Path(data), str(data)) else {}
