"""What a failed step leaves behind to look at: the batch that it was made of, in the run's folder failed-step/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tercet.data.records import Records
from tercet.data.sides import SIDES, TwoSides
from tercet.training.batches.feed import Fed
from tercet.training.folder import files

FOLDER = "failed-step"


def save_failure(folder: Path, step: int, fed: Fed, records: Records, embeddings: Tensor | None, reason: str) -> Path:
    """Write failed-step/batch.json and batch.safetensors, in place of those of an earlier failure; the folder.

    Args:
        folder: of the run.
        step: counted from 1, as in the history.
        fed: the batch, with its inputs before augmentation: those of all items, or of these rows of them where several
            processes train.
        records: the training data.
        embeddings: of the batch, shape (B, D), if it came that far.
        reason: what went wrong.

    Raises:
        StorageError: they could not be written.
    """
    target, positions = folder / FOLDER, fed.batch.positions
    items = [_item(records, int(place)) for place in positions]
    tensors = _tensors(fed.inputs)
    if embeddings is not None:
        tensors["embeddings"] = embeddings
    texts = _texts(fed, records)
    found: dict[str, Any] = {
        "step": step, "epoch": fed.epoch, "reason": reason, "items": items, "texts": texts,
        "rows": [fed.rows.start, fed.rows.stop],
    }  # fmt: skip
    with files.new_folder(target) as partial:
        files.write_json(partial / "batch.json", found)
        files.write_tensors(partial / "batch.safetensors", tensors)
    return target


def _item(records: Records, place: int) -> dict[str, Any]:
    label = records.label_name(place)
    return {"name": str(records.names[place]), "position": place} | ({} if label is None else {"class": label})


def _texts(fed: Fed, records: Records) -> Any:
    """The inputs as they are where they are texts, and those of either side where that holds some."""
    own = fed.batch.positions[fed.rows]
    if records.kind == SIDES:
        items = [records.items[place] for place in own]
        sides = [[item.value for item in items if (item.side, item.kind) == (side, "text")] for side in (0, 1)]
        return {"left": sides[0] or None, "right": sides[1] or None}
    return [records.items[place] for place in own] if records.kind == "text" else None


def _tensors(inputs: Any, name: str = "inputs") -> dict[str, Tensor]:
    """The tensors among the inputs, however nested, each by the way to it."""
    if isinstance(inputs, Tensor):
        return {name: inputs}
    if isinstance(inputs, TwoSides):
        inputs = {"left": inputs.left, "right": inputs.right}
    if isinstance(inputs, Mapping):
        parts = inputs.items()
    elif isinstance(inputs, (list, tuple)):
        parts = zip(getattr(inputs, "_fields", map(str, range(len(inputs)))), inputs, strict=True)  # type: ignore
    else:
        return {}
    return {key: value for part, held in parts for key, value in _tensors(held, f"{name}.{part}").items()}
