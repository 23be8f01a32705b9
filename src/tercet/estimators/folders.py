"""Run folders of estimators: kept as bytes in a fitted object, written with a threshold by labelled data."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tercet.errors import InputError, RunError
from tercet.report import write
from tercet.training.assessment.assessment import Asked, assess, pairs_of
from tercet.training.assessment.calibration import FILE as CALIBRATION_FILE
from tercet.training.assessment.calibration import calibrated, write_calibration
from tercet.training.config import read_config
from tercet.training.folder import files
from tercet.training.folder.fingerprints import FINGERPRINTS_FILE, read_fingerprints
from tercet.training.folder.metrics import write_assessment
from tercet.training.intake import read_source, warn_of_duplicates
from tercet.training.model import Model, read_all
from tercet.training.objective.loss import LOSS_FILE, make_distance
from tercet.training.objective.loss_state import read_state
from tercet.training.reporter import Reporter

NEEDED = ("config.toml", "model.safetensors", LOSS_FILE, FINGERPRINTS_FILE, "history.jsonl")
MEASURED = ("metrics.json", "summary.json", CALIBRATION_FILE)


def packed(folder: Path, measured: bool) -> dict[str, bytes]:
    """The files of a run by their paths in it: what rebuilds it, its history and, if asked for, its figures.

    The configuration names no run to start from: that was a folder which is gone.
    """
    wanted = [folder / name for name in (*NEEDED, *(MEASURED if measured else ()))]
    wanted += [path for path in (folder / "encoder").rglob("*") if path.is_file()]
    wanted += sorted((folder / "evaluations").glob("*.json")) if measured else []
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(wanted) if path.exists()}
    config = read_config(folder / "config.toml")
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, init=None))
    return found | {"config.toml": config.to_toml().encode()}


def unpacked(contents: Mapping[str, bytes], folder: Path) -> None:
    """Write the files of `packed` into a folder."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def check_free(folder: Path) -> None:
    """Raise RunError if something is in the way."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists already. Choose another name, or remove it.")


def save_run(contents: Mapping[str, bytes], out: str | Path, validation: Any, device: str, module: Any = None) -> Path:
    """Write a run folder, whole or not at all, with its report; validation data calibrate the threshold.

    Raises:
        RunError: the folder is in the way.
    """
    folder = Path(out)
    check_free(folder)
    with files.new_folder(folder) as partial:
        try:
            unpacked(contents, partial)
            if validation is not None:
                _calibrate(partial, validation, device, module)
        except BaseException:  # data that cannot be used, too, must leave nothing behind
            shutil.rmtree(partial, ignore_errors=True)
            raise
    write(folder)
    return folder


def _calibrate(folder: Path, validation: Any, device: str, module: Any) -> None:
    config, reporter = read_config(folder / "config.toml"), Reporter()
    model = Model.load(config.encoder, folder, device, module)
    held = read_all(model.options, read_source(validation, config.data), reporter, "validation")
    if held.records.form != "labels":
        raise InputError(f"the validation data must have labels; these hold {held.records.form}.")
    known = read_fingerprints(folder)
    duplicates = warn_of_duplicates(known, held.records, held.records.fingerprints(), "validation", reporter)
    distance = make_distance(config.loss, read_state(folder / LOSS_FILE))
    vectors = model.encode(held.loader, np.arange(len(held.records)), reporter)
    pairs = pairs_of(vectors, held.records, distance)
    calibration = calibrated(pairs, config.training.threshold_target, "validation data")
    write_calibration(folder, calibration)
    found = assess(vectors, held.records, distance, Asked(threshold=calibration.threshold, pairs=pairs))
    write_assessment(folder, "validation", found, held.records, duplicates)
