"""The configuration of a run: typed, frozen, written to config.toml in full and read back strictly.

The command line is made from these classes: a field's name is its flag, and the line under it is its help. They import
nothing heavy, so that help appears at once.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

import tercet
from tercet.data.options import Augmentation
from tercet.encoders.options import (
    CustomOptions,
    EncoderOptions,
    ImageOptions,
    TabularOptions,
    TextOptions,
)
from tercet.errors import ConfigError, RunError, suggest
from tercet.training.toml import from_mapping, to_mapping

FORMAT = 1
"""Version of the run folder's layout; a run with a higher one was written by a newer Tercet."""

ENCODERS: dict[str, type] = {
    "image": ImageOptions,
    "text": TextOptions,
    "tabular": TabularOptions,
    "custom": CustomOptions,
}


@dataclass(frozen=True)
class DataOptions:
    """What is trained on, and how it is read."""

    kind: Literal["image", "text", "tabular"] | None = None
    """What the items are; found out when left open."""

    form: Literal["labels", "triplets", "pairs", "marked-pairs"] | None = None
    """What says which items are alike; found out when left open."""

    label: str | None = None
    """The column of a table that holds the labels; found out when left open."""

    columns: tuple[str, ...] | None = None
    """The columns of a table that hold the items: one of paths or texts, or several of numbers."""

    root: str | None = None
    """The folder that paths in a table start from; the table's own folder when left open."""

    validation: str | None = None
    """Validation data, in the form of the training data; when left open, a part of SOURCE is held out."""

    holdout: float = 0.2
    """The share of the classes that is held out for validation when no validation data is given."""

    holdout_by: Literal["auto", "class", "row"] = "auto"
    """Hold out whole classes, or rows of every class; auto takes rows where there are fewer than five classes."""


@dataclass(frozen=True)
class LossOptions:
    """The triplet loss."""

    margin: float | None = None
    """How much farther a negative must be than the positive (0.2 when left open); for pairs marked similar or not, \
how far a dissimilar pair must be (0.5)."""

    mining: Literal["all", "hard", "semihard"] = "all"
    """Which triplets of a batch count: every one, the hardest of each anchor, or the semi-hard."""

    distance: Literal["euclidean", "squared-euclidean", "cosine", "manhattan", "minkowski"] = "euclidean"
    """The distance between embeddings, in training, evaluation and search."""

    p: float | None = None
    """The power of the minkowski distance."""

    penalty: Literal["hinge", "squared-hinge", "softplus", "logsumexp"] = "hinge"
    """What a triplet costs that violates the margin; logsumexp takes a pair's negatives together, nearest first."""

    temperature: float | None = None
    """How sharply logsumexp prefers the nearest negatives; 0.1 when left open."""

    reduction: Literal["mean-active", "mean", "sum"] | None = None
    """Mean over the triplets that violate the margin, over all mined, or the sum; mean-active for mining=all."""

    fallback: Literal["skip", "farthest"] = "skip"
    """For mining=semihard: what to do with a pair that has no negative beyond its positive."""


@dataclass(frozen=True)
class BatchOptions:
    """What goes into a batch."""

    classes_per_batch: int = 32
    """P: how many classes a batch holds (labelled data)."""

    samples_per_class: int = 4
    """K: how many samples of each class a batch holds (labelled data)."""

    rows_per_batch: int = 64
    """How many triplets or pairs a batch holds (tables of triplets or pairs)."""

    singletons: Literal["negatives", "drop"] = "negatives"
    """A class with one sample serves as negatives only, or is dropped."""


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how fast, and what is kept."""

    steps: int | None = None
    """How many batches to train on; 500 when neither steps nor epochs is given."""

    epochs: int | None = None
    """How many times to go through the data, instead of steps."""

    learning_rate: float | None = None
    """Peak learning rate of AdamW; 1e-3 when left open, 5e-5 for a pretrained encoder that is fine-tuned."""

    weight_decay: float = 0.01
    """Weight decay of AdamW."""

    warmup: float = 0.05
    """The share of the steps in which the learning rate rises to its peak; a cosine takes it to zero after."""

    clip_norm: float = 1.0
    """The gradient's norm is scaled down to this where it is larger; 0 leaves it alone."""

    evaluate_every: int | None = None
    """Evaluate and save a checkpoint every so many steps; a tenth of the run when left open."""

    patience: int = 0
    """Stop after so many evaluations without a better one; 0 never stops early."""

    selection: Literal["map_at_r", "recall_at_1", "auc", "eer", "triplet_accuracy", "loss"] | None = None
    """The validation metric that chooses the best checkpoint: map_at_r for classes and pairs, triplet_accuracy for \
triplets, auc for pairs marked similar or not. loss is the loss of all validation items taken as one batch, which \
still tells checkpoints apart where few classes are easily told apart."""

    threshold_target: Literal["eer"] | float = "eer"
    """The threshold for same or different is where both errors are equal, or where the false accept rate is this."""

    seed: int = 0
    """Equal seeds give equal runs, to the byte, on the same machine with the same number of threads."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""


@dataclass(frozen=True)
class Config:
    """Everything that a run is made from."""

    source: str
    data: DataOptions
    encoder: EncoderOptions
    loss: LossOptions
    batch: BatchOptions
    augmentation: Augmentation
    training: TrainingOptions
    custom_loss: str | None = None
    """The class of the user's own loss, for the record; the loss options then give the distance alone."""
    tercet: str = field(default_factory=lambda: tercet.__version__)
    format: int = FORMAT

    def __post_init__(self) -> None:
        faults = list(_faults(self))
        if faults:
            raise ConfigError("; ".join(faults) + ".")

    def to_toml(self) -> str:
        """The whole configuration, defaults included, so that a later Tercet with other defaults reads the same."""
        mapping = to_mapping(self)
        mapping["encoder"] = {"kind": self.encoder.kind, **mapping["encoder"]}
        return tomli_w.dumps(mapping)


def read_config(path: Path) -> Config:
    """Read a config.toml that a run wrote: every key must be there and known.

    Raises:
        RunError: no such file, or the run was written by a newer Tercet.
        ConfigError: a key is unknown (the likely one is suggested), missing, or of the wrong type.
    """
    mapping = read_toml(path)
    written = mapping.get("format", FORMAT)
    if isinstance(written, int) and written > FORMAT:
        raise RunError(
            f"{path} was written by Tercet {mapping.get('tercet', '(unknown)')} in format {written}; this is Tercet "
            f"{tercet.__version__}, which reads formats up to {FORMAT}. Upgrade with: pip install --upgrade tercet"
        )
    return config_from_mapping(mapping, str(path), partial=False)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, with errors that name it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise ConfigError(f"{path} is not valid TOML: {cause}.") from None


def read_partial_config(path: Path) -> Config:
    """Read a config.toml that may hold only some of the settings; the others take their defaults."""
    mapping = read_toml(path)
    encoder = mapping.get("encoder", {})
    if isinstance(encoder, dict) and "kind" not in encoder:
        data = mapping.get("data", {})
        encoder = {"kind": data.get("kind", "image") if isinstance(data, dict) else "image", **encoder}
    return config_from_mapping({"source": "", **mapping, "encoder": encoder}, str(path), partial=True)


def config_from_mapping(mapping: dict[str, Any], where: str, partial: bool) -> Config:
    """Make a Config of nested dictionaries; with `partial`, what is absent takes its default."""
    encoder = mapping.get("encoder", {})
    kind = encoder.get("kind") if isinstance(encoder, dict) else None
    if kind not in ENCODERS:
        allowed = ", ".join(map(repr, ENCODERS))
        raise ConfigError(f"{where}: encoder.kind is {kind!r}; allowed are {allowed}.{suggest(kind, ENCODERS)}")
    mapping = {**mapping, "encoder": {name: value for name, value in encoder.items() if name != "kind"}}
    return from_mapping(Config, mapping, where, partial=partial, unions={"encoder": ENCODERS[kind]})


def _faults(config: Config) -> list[str]:
    """Every value out of range, in words; found together so that the user mends them together."""
    data, loss, batch, training = config.data, config.loss, config.batch, config.training
    rules: list[tuple[str, Any, bool, str]] = [
        ("holdout", data.holdout, 0 < data.holdout < 1, "between 0 and 1"),
        (
            "margin",
            loss.margin,
            loss.margin is None or 0 <= loss.margin < math.inf,
            "a finite number, 0 or more",
        ),
        ("p", loss.p, loss.p is None or loss.p >= 1, "1 or more"),
        ("temperature", loss.temperature, loss.temperature is None or loss.temperature > 0, "above 0"),
        ("classes_per_batch", batch.classes_per_batch, batch.classes_per_batch >= 2, "2 or more"),
        ("samples_per_class", batch.samples_per_class, batch.samples_per_class >= 2, "2 or more"),
        ("rows_per_batch", batch.rows_per_batch, batch.rows_per_batch >= 2, "2 or more"),
        ("steps", training.steps, training.steps is None or training.steps >= 1, "1 or more"),
        ("epochs", training.epochs, training.epochs is None or training.epochs >= 1, "1 or more"),
        ("weight_decay", training.weight_decay, 0 <= training.weight_decay < math.inf, "a finite number, 0 or more"),
        ("warmup", training.warmup, 0 <= training.warmup < 1, "0 or more and below 1"),
        ("clip_norm", training.clip_norm, training.clip_norm >= 0, "0 or more"),
        ("patience", training.patience, training.patience >= 0, "0 or more"),
        ("seed", training.seed, 0 <= training.seed < 2**63, "0 or more and below 2**63"),
    ]
    for name in ("learning_rate", "evaluate_every"):
        value = getattr(training, name)
        rules.append((name, value, value is None or 0 < value < math.inf, "a finite number above 0"))
    target = training.threshold_target
    rules.append(
        ("threshold_target", target, target == "eer" or (isinstance(target, float) and 0 < target < 1),
         "'eer' or a false accept rate between 0 and 1")
    )  # fmt: skip
    faults = [f"{name} is {given!r}, it must be {allowed}" for name, given, good, allowed in rules if not good]
    if loss.p is not None and loss.distance != "minkowski":
        faults.append(f"p is {loss.p}, but it belongs to distance='minkowski' and the distance is {loss.distance!r}")
    if loss.temperature is not None and loss.penalty != "logsumexp":
        faults.append(f"temperature is {loss.temperature}, but it belongs to penalty='logsumexp', not {loss.penalty!r}")
    if training.steps is not None and training.epochs is not None:
        faults.append(f"steps is {training.steps} and epochs is {training.epochs}; give one of them")
    return faults


def option_groups() -> dict[str, type]:
    """The groups whose fields can be given by name alone: `tercet.train(..., steps=300)`."""
    return {"data": DataOptions, "loss": LossOptions, "batch": BatchOptions, "training": TrainingOptions}


def field_names(options: type) -> list[str]:
    """The names of the fields of an options class."""
    return [entry.name for entry in dataclasses.fields(options)]
