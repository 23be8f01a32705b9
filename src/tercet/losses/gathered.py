"""What all ranks are given, read as one batch: checked on each, gathered, and encoded alike on all.

Every rank tells the others, in one message, what it was given: numbers of rows, dtypes, and the labels that are no
numbers. A rank whose arguments are at fault says so in its message, so that the others don't wait for it. The rows
follow, and tensors of labels. From there on every rank holds the same batch, as if there were one device.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tercet.collectives import Ranks
from tercet.errors import InputError, TercetWarning
from tercet.kernels import Division
from tercet.losses.items import Items, read_items
from tercet.losses.label_sets import plain_labels
from tercet.losses.labels import flat

_COLUMNS = ("labels", "reference_labels", "ids", "reference_ids", "groups", "reference_groups")


@dataclass(frozen=True)
class Call:
    """What one rank's call of a loss says besides its rows.

    Attributes:
        settings: what must be the same on all ranks, in plain words and numbers.
        replicated: whether the reference is the same on every rank, instead of a part on each.
        trains: whether parameters of the loss require a gradient.
    """

    settings: Mapping[str, Any]
    replicated: bool
    trains: bool


def read_gathered(ranks: Ranks, call: Call, embeddings: Tensor, labels: Any, **others: Any) -> Items:
    """The arguments of a call, which are described in `BatchLoss.forward`, of all ranks together.

    Cost: of the rows an all-gather; of the labels, ids and groups the same, or, of strings and collections, a message
    of all of them to every rank, and the encoding of all on each.

    Raises:
        InputError: the arguments of any rank are at fault, or those of two ranks don't go together.
    """
    columns: dict[str, Any] = {}
    try:
        local = read_items(embeddings, labels, **others)
        columns = _plain_columns(local, labels, **others)
        message = _message(call, local, columns)
    except Exception as fault:
        ranks.exchange(_encoded({"fault": f"{type(fault).__name__}: {fault}"}))
        raise
    messages = [json.loads(each) for each in ranks.exchange(_encoded(message))]
    _check_together(messages)
    return _read_whole(ranks, call, messages, local, columns)


def _encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def _plain_columns(
    local: Items, labels: Any, *, relation: Any, weights: Any, reference: Tensor | None, **columns: Any
) -> dict[str, Any]:
    """Labels, ids and groups as tensors, or as lists of what JSON can say; only those that are given."""
    lengths = {"": len(local.anchors), "reference_": 0 if reference is None else len(reference)}
    found: dict[str, Any] = {}
    for name, given in {"labels": labels, **columns}.items():
        if given is None:
            continue
        length = lengths["reference_" if name.startswith("reference_") else ""]
        if not name.endswith("labels"):
            found[name] = flat(name, given, length)
        elif relation is None:
            found[name] = plain_labels(name, given, length)
        else:
            found[name] = local.labels if name == "labels" else local.reference_labels
    return found


def _message(call: Call, local: Items, columns: dict[str, Any]) -> dict[str, Any]:
    reference = local.references
    of_reference = reference is not None and torch.is_grad_enabled() and reference.requires_grad
    return {
        "rows": len(local.anchors),
        "reference_rows": 0 if reference is None else len(reference),
        "needs": (local.anchors.requires_grad or call.trains or of_reference) and torch.is_grad_enabled(),
        "needs_of_reference": of_reference,
        "columns": {name: _description(column) for name, column in columns.items()},
        "same": {
            **call.settings,
            "the embeddings": _rows_in_words(local.anchors),
            "the reference": "none" if reference is None else _rows_in_words(reference),
            "the device": local.anchors.device.type,
            "relation": "none" if local.relation is None else "given",
            "weights": "none" if local.weights is None else "given",
            **{name: "given" if name in columns else "none" for name in _COLUMNS},
            **({"the reference's length": len(reference)} if call.replicated and reference is not None else {}),
        },
    }


def _rows_in_words(rows: Tensor) -> str:
    return f"rows of {rows.shape[1]} features in {str(rows.dtype).removeprefix('torch.')}"


def _description(column: Any) -> dict[str, Any]:
    """What the others must know of a column: of a tensor its kind, of a list all of it."""
    if isinstance(column, Tensor):
        return {"dtype": str(column.dtype).removeprefix("torch."), "shape": list(column.shape[1:])}
    return {"dtype": "strings" if all(isinstance(entry, str) for entry in column) else "lists", "entries": column}


def _check_together(messages: list[dict[str, Any]]) -> None:
    """Raise InputError unless all ranks have made the same call; every rank then raises the same."""
    for rank, message in enumerate(messages):
        if "fault" in message:
            raise InputError(f"rank {rank} was given what it cannot use, so no rank goes on. {message['fault']}")
    for rank, message in enumerate(messages):
        for name in messages[0]["same"] | message["same"]:
            _check_same(name, messages[0]["same"].get(name), rank, message["same"].get(name))


def _check_same(name: str, first: Any, rank: int, given: Any) -> None:
    if given != first:
        raise InputError(
            f"{name}: {first!r} on rank 0, {given!r} on rank {rank}; with across_ranks all ranks make the same call, "
            f"each with its own rows."
        )


def _kind_of(name: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The description that the ranks with rows share; labels of no rows may look like any."""
    rows = "reference_rows" if name.startswith("reference_") else "rows"
    described = [(rank, message["columns"][name]) for rank, message in enumerate(messages) if message[rows]]
    if not described:
        described = [(0, messages[0]["columns"][name])]
    first_rank, first = described[0]
    for rank, other in described:
        kinds = [(each["dtype"], each.get("shape")) for each in (first, other)]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"{name} are {_kind_in_words(first)} on rank {first_rank} and {_kind_in_words(other)} on rank {rank}; "
                f"give all ranks the same kind."
            )
    return first


def _kind_in_words(description: dict[str, Any]) -> str:
    shape = description.get("shape")
    return description["dtype"] if not shape else f"{description['dtype']} of shape (rows, {str(shape)[1:-1]})"


def _read_whole(
    ranks: Ranks, call: Call, messages: list[dict[str, Any]], local: Items, columns: dict[str, Any]
) -> Items:
    rows = tuple(message["rows"] for message in messages)
    reference_rows = tuple(message["reference_rows"] for message in messages)
    reference, weights = local.references, local.weights
    if reference is not None and not call.replicated:
        reference = ranks.gather_with_gradient(reference, reference_rows)
        _warn_of_copies(reference, reference_rows)
    whole: dict[str, Any] = dict.fromkeys(_COLUMNS)
    for name in columns:
        if name.startswith("reference_") and call.replicated:
            whole[name] = columns[name]
            continue
        kind, lengths = _kind_of(name, messages), reference_rows if name.startswith("reference_") else rows
        whole[name] = _gathered(ranks, columns[name], kind, messages, name, lengths, local.anchors.device)
    items = read_items(
        ranks.gather_with_gradient(local.anchors, rows),
        whole.pop("labels"),
        reference=reference,
        relation=local.relation,
        weights=None if weights is None else ranks.gather(weights, rows),
        **whole,
    )
    return replace(
        items,
        division=Division(
            ranks,
            anchors=rows,
            references=None if call.replicated else reference_rows,
            reference_gradient=any(message["needs_of_reference"] for message in messages),
        ),
        gradient_elsewhere=any(message["needs"] for message in messages),
    )


def _gathered(
    ranks: Ranks, column: Any, kind: dict[str, Any], messages: list[dict[str, Any]], name: str,
    lengths: tuple[int, ...], device: torch.device,
) -> Any:  # fmt: skip
    """A column of all ranks."""
    if "shape" not in kind:
        found: list[Any] = []
        for message, length in zip(messages, lengths, strict=True):
            found += message["columns"][name]["entries"] if length else []
        return found
    if not lengths[ranks.rank]:
        column = torch.empty(0, *kind["shape"], dtype=getattr(torch, kind["dtype"]))
    return ranks.gather(column.to(device), lengths)


def _warn_of_copies(reference: Tensor, lengths: tuple[int, ...]) -> None:
    """Say so if all ranks gave the same rows, all of which now count several times."""
    if len(set(lengths)) > 1 or lengths[0] == 0:
        return
    first, *others = reference.detach().split(lengths[0])
    if all(torch.equal(first[:1], other[:1]) and torch.equal(first, other) for other in others):
        warnings.warn(
            f"the reference is the same on all {len(lengths)} ranks, and with across_ranks=True each gives a part of "
            f"it, so that every row counts {len(lengths)} times. Where all ranks hold the whole reference, such as a "
            f"bank, choose across_ranks='embeddings'.",
            TercetWarning,
            stacklevel=2,
        )
