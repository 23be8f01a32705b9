"""The map that LMNN learned as a run: an encoder of tables with one linear layer.

Shapes: N rows, F features, d dimensions of the learned space.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from tercet.data.options import Augmentation
from tercet.data.readers import read
from tercet.data.records import Records, plural
from tercet.encoders.build import build
from tercet.encoders.options import TabularOptions
from tercet.encoders.tables import TableNetwork
from tercet.errors import InputError
from tercet.estimators.folders import packed, save_run
from tercet.training.config import BatchOptions, Config, DataOptions, LossOptions, TrainingOptions
from tercet.training.folder import files
from tercet.training.folder.fingerprints import write_fingerprints
from tercet.training.model import Model

if TYPE_CHECKING:
    from tercet.estimators.lmnn import LMNN


def save_map(model: LMNN, folder: Path, scaler: Any, train: Any, validation: Any) -> Path:
    """Write a fitted model as a run; see `LMNN.save`."""
    n_features = model.components_.shape[1]
    centre, scale, named = model.mean_, np.ones(n_features), model
    if scaler is not None:
        centre, scale = _before(scaler, centre)
        named = scaler
    columns = tuple(map(str, getattr(named, "feature_names_in_", [f"feature {i + 1}" for i in range(n_features)])))
    source = f"{plural(len(model.target_neighbors_), 'row')} of {plural(len(model.classes_), 'class')}"
    known = np.empty(0, np.int64) if train is None else _rows(train, columns).fingerprints()
    contents = _contents(model.components_, centre, scale, columns, known, source, " ".join(repr(model).split()))
    if isinstance(validation, tuple) and len(validation) == 2:
        validation = _rows(validation[0], columns, [str(label) for label in np.asarray(validation[1]).ravel()])
    return save_run(contents, folder, validation, "cpu")


def _before(scaler: Any, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale of rows as they are before a scaler, for a map of rows as they are after it."""
    check_is_fitted(scaler)
    mean, scale = getattr(scaler, "mean_", None), getattr(scaler, "scale_", None)
    if scaler.n_features_in_ != len(centre) or not hasattr(scaler, "with_mean"):
        raise InputError(
            f"scaler is {scaler!r} of {scaler.n_features_in_} columns; allowed is the StandardScaler whose "
            f"{len(centre)} columns the map was learned from."
        )
    scale = np.ones(len(centre)) if scale is None else scale
    mean = np.zeros(len(centre)) if mean is None or not scaler.with_mean else mean
    return mean + centre * scale, scale


def _rows(X: Any, columns: Sequence[str], labels: list[str] | None = None) -> Records:
    """Rows as records with the columns of the map."""
    values = np.asarray(X)
    if values.ndim != 2 or values.shape[1] != len(columns):
        raise InputError(f"rows of shape {values.shape} were given; the map takes {len(columns)} columns.")
    records = read(values if labels is None else (values, labels), kind="tabular", labelled=labels is not None)
    return Records(**{**vars(records), "columns": tuple(columns)})


def _contents(
    components: np.ndarray, centre: np.ndarray, scale: np.ndarray, columns: Sequence[str], known: np.ndarray,
    source: str, loss: str,
) -> dict[str, bytes]:  # fmt: skip
    """The files of a run whose encoder is x -> L ((x - centre) / scale), compared by the Euclidean distance.

    Args:
        components: L, of shape (d, F).
        centre: of shape (F,).
        scale: of shape (F,).
        columns: names of the F features.
        known: fingerprints of the training rows, as `Records.fingerprints` gives them.
        source: what the map was learned from, in words.
        loss: what it was learned with, in words.
    """
    options, assets = TabularOptions(dim=len(components), normalize=False, hidden=()), {"columns": list(columns)}
    encoder = build(options, assets)
    assert isinstance(encoder, TableNetwork)
    linear: Any = encoder.layers[0]
    with torch.no_grad():
        encoder.mean.copy_(torch.from_numpy(centre))
        encoder.deviation.copy_(torch.from_numpy(scale))
        linear.weight.copy_(torch.from_numpy(components))
        linear.bias.zero_()
    config = Config(
        source=source, data=DataOptions(kind="tabular", form="labels", columns=tuple(columns)), encoder=options,
        loss=LossOptions(distance="euclidean"), batch=BatchOptions(), augmentation=Augmentation(),
        training=TrainingOptions(), custom_loss=loss,
    )  # fmt: skip
    summary = {
        "title": f"linear map of {plural(len(columns), 'column')} to {len(components)}, learned with LMNN",
        "source": source,
        "parameters": int(components.size),
    }
    with tempfile.TemporaryDirectory(prefix="tercet-") as name:
        folder = Path(name)
        model = Model(options, assets, encoder, torch.device("cpu"))
        model.save_assets(folder / "encoder")
        model.save_weights(folder)
        write_fingerprints(folder, known)
        files.write_text(folder / "config.toml", config.to_toml())
        files.write_json(folder / "summary.json", summary)
        return packed(folder, measured=True)
