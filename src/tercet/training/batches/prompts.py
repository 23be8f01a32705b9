"""Prompts by role: texts that look for others and texts that are looked for, encoded by one encoder.

E5 and its kin are trained so (Wang et al. 2022, "Text embeddings by weakly-supervised contrastive pre-training",
section 4): a text has "query: " or "passage: " before it. Here the prompt becomes part of the text, and a text that is
used in both roles becomes two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tercet.data.records import Records
from tercet.data.tablefiles import load_table
from tercet.data.wishes import TABLE_SUFFIXES
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
    texts = [with_prompt([records.items[key // 2]], options, ROLES[key % 2])[0] for key in used.tolist()]
    names = [records.names[key // 2] for key in used.tolist()]
    return dataclasses.replace(records, items=texts, names=names, tuples=places.reshape(keys.shape).astype(np.int64))


def with_prompt(texts: Sequence[str], options: Any, role: str | None) -> list[str]:
    """Texts with the prompt of a role before each.

    Raises:
        InputError: no role is given, or there is none of that name.
    """
    if role is None:
        raise InputError(
            "this run was trained with a prompt for queries and one for documents; say which these are: --side query "
            "or --side document."
        )
    check_choice("side", role, ROLES)
    prompt = (options.query_prompt if role == ROLES[0] else options.document_prompt) or ""
    return [prompt + text for text in texts]


def column_of(data: Any, side: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The column of a table that is called as the role, where it has one and no other is asked for."""
    path = Path(data) if isinstance(data, (str, Path)) else None
    if given.get("columns") or path is None or path.suffix.lower() not in TABLE_SUFFIXES or not path.is_file():
        return {}
    return {"columns": (side,)} if side in load_table(path, str(data)).columns else {}
