"""The configuration of a run: typed, frozen, written to config.toml in full and read back strictly.

The command line is made from these classes: a field's name is its flag, and the line under it is its help. They import
nothing heavy, so that help appears at once.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

import tercet
from tercet.data.options import Augmentation, preset
from tercet.data.wishes import LABELLED, LayoutName
from tercet.encoders.options import (
    CustomOptions,
    EncoderOptions,
    ImageOptions,
    TabularOptions,
    TextOptions,
    TowersOptions,
)
from tercet.errors import ConfigError, RunError, suggest
from tercet.mining.options import MiningOptions
from tercet.training.assessment.targets import ALLOWED, is_target
from tercet.training.batches.pacing import CurriculumOptions
from tercet.training.folder.toml import from_mapping, to_mapping
from tercet.training.step.mining_schedule import parse_schedule

FORMAT = 1
"""Version of the run folder's layout; a run with a higher one was written by a newer Tercet."""

_OF_ALL = ("distance", "p", "statistics", "implementation")
SETTINGS: dict[str, tuple[str, ...]] = {
    "triplet": (
        "margin", "mining", "penalty", "temperature", "learn_temperature", "reduction", "fallback", "draw_seed",
        "normalize", *_OF_ALL,
    ),
    "contrastive": ("margin", "positive_margin", "reduction", "normalize", *_OF_ALL),
    "infonce": ("temperature", "learn_temperature", *_OF_ALL),
    "supcon": ("temperature", "learn_temperature", *_OF_ALL),
}  # fmt: skip
"""The options that each loss takes; any other would do nothing, and is refused."""

FREE = ("workers", "tensorboard")
"""The training options that change nothing of what is learned: a run may be resumed with others."""

LARGEST_RATE = 1e37  # beyond, the optimiser's own numbers leave the range of float32

OWN_SETTINGS = ("distance", "p")
"""The options that count beside a loss of the user's own."""

_SEMIHARD = ("semihard", "easy-positive-semihard")
_TEMPERED = ("logsumexp", "lifted")
_BELONGS = (
    ("p", "distance", ("minkowski",)),
    ("temperature", "penalty", _TEMPERED),
    ("learn_temperature", "penalty", _TEMPERED),
    ("fallback", "mining", _SEMIHARD),
    ("draw_seed", "mining", ("distance-weighted",)),
)  # an option, and the values of another option that it belongs to
RECIPE: dict[str, Any] = {"penalty": "logsumexp", "temperature": 0.05, "margin": 0.1}
"""The triplet loss where none of these, no mining and no schedule of it is given; docs/claims.md says why."""

NO_MAP = (
    "distance is 'mahalanobis', whose map a word cannot give; from Python give the loss as an object: "
    "tercet.train(..., loss=tercet.TripletLoss(distance=tercet.Mahalanobis(learned=True, dim=128)))"
)
_COMPLETE = {
    "triplet": ("margin", "mining", "distance", "penalty", "reduction"),
    "contrastive": ("margin", "positive_margin", "distance", "reduction"),
    "infonce": ("distance", "temperature"),
    "supcon": ("distance", "temperature"),
}  # what is never left open in the configuration of a run

ENCODERS: dict[str, type] = {
    "image": ImageOptions,
    "text": TextOptions,
    "tabular": TabularOptions,
    "custom": CustomOptions,
    "towers": TowersOptions,
}


@dataclass(frozen=True)
class DataOptions:
    """What is trained on, and how it is read."""

    kind: Literal["image", "text", "tabular"] | None = None
    """What the items are; found out when left open."""

    form: Literal["labels", "triplets", "pairs", "marked-pairs", "items"] | None = None
    """What says which items are alike; found out when left open. items: nothing does, whatever labels there are; only \
an item's views are alike (views)."""

    label: str | None = None
    """The column of a table that holds the labels; found out when left open."""

    label_level: int | None = None
    """Of labels such as animal/dog/poodle, or of folders within folders, how many parts count; all parts of a label, \
and the first folder, when left open."""

    label_separator: str | None = None
    """What stands between the labels of an item in a table's cell, such as ; or |. Without it a cell is one label; \
lists, as in JSONL and Parquet, need none."""

    columns: tuple[str, ...] | None = None
    """The columns of a table that hold the items: one of paths or texts, or several of features."""

    missing: Literal["impute", "error"] = "impute"
    """What to do with values that a table of features lacks: fill in the training rows' median and tell the encoder, \
or name the first one."""

    categories: tuple[str, ...] | None = None
    """Feature columns that hold categories, such as numbers of districts; found out when left open."""

    dates: tuple[str, ...] | None = None
    """Feature columns that hold dates, as 2026-05-31 or 2026-05-31 14:30; found out when left open."""

    texts: tuple[str, ...] | None = None
    """Feature columns that hold texts, beside others; found out when left open."""

    towers: Literal["shared", "separate"] | None = None
    """Positive pairs: one encoder for both columns, or one for each, whose embeddings share a space; separate when \
left open where one column holds images and the other texts, otherwise shared."""

    root: str | None = None
    """The folder that paths in a table start from; the table's own folder when left open."""

    layout: LayoutName | None = None
    """The data set that SOURCE is the folder of; found out when left open."""

    part: str | None = None
    """With the folder of a data set: the part of it, such as train or query; train when left open."""

    validation: str | None = None
    """Validation data, in the form of the training data; when left open, a part of SOURCE is held out."""

    holdout: float = 0.2
    """The share of the classes that is held out for validation when no validation data is given."""

    holdout_by: Literal["auto", "class", "row"] = "auto"
    """Hold out whole classes, or rows of every class; auto takes rows where there are fewer than five classes."""


@dataclass(frozen=True)
class LossOptions:
    """The loss, and the distance between embeddings everywhere."""

    loss: Literal["triplet", "contrastive", "infonce", "supcon"] | None = None
    """Triplets; or pairs against margins; or each positive against the negatives; or each positive against all other \
items. triplet when left open, contrastive for pairs marked similar or not."""

    margin: float | None = None
    """triplet: how much farther a negative must be than the positive (0.1 when left open, 0.2 where penalty or mining \
is given); contrastive: the distance beyond which a negative costs nothing (0.5)."""

    positive_margin: float | None = None
    """contrastive: the distance within which a positive costs nothing; 0 when left open."""

    mining: (
        Literal["all", "hard", "semihard", "easy-positive", "easy-positive-semihard", "distance-weighted"] | None
    ) = None
    """triplet: which triplets of a batch count: all (when left open), the hardest of each anchor, the semi-hard, \
those of each anchor's nearest positive, or one drawn for each positive pair, with far and near negatives alike."""

    distance: (
        Literal[
            "euclidean", "squared-euclidean", "cosine", "manhattan", "minkowski", "chebyshev", "jaccard", "mahalanobis"
        ]
        | None
    ) = None
    """The distance between embeddings, in training, evaluation and search; euclidean when left open, cosine for \
infonce and supcon. jaccard needs an encoder whose features are never negative, mahalanobis a map, which only Python \
can give."""

    p: float | None = None
    """The power of the minkowski distance."""

    penalty: Literal["hinge", "squared-hinge", "softplus", "logsumexp", "lifted"] | None = None
    """triplet: what a triplet costs that violates the margin; logsumexp takes a pair's negatives together, nearest \
first, and lifted an anchor's positives and negatives. When left open logsumexp, but hinge for ready-made triplets and \
where margin or mining is given."""

    temperature: float | None = None
    """How sharply logsumexp, lifted, infonce and supcon prefer the nearest; when left open 0.05 where the penalty is \
too, otherwise 0.1, and 1 for lifted."""

    learn_temperature: bool = False
    """Train the temperature too, from there on."""

    reduction: Literal["mean-active", "mean", "sum"] | None = None
    """triplet and contrastive: the mean over what costs something, over all, or the sum; when left open, mean-active \
for mining=all and mean otherwise."""

    fallback: Literal["skip", "farthest"] | None = None
    """The semihard minings: what to do with a pair that has no negative beyond its positive; skip when left open."""

    draw_seed: int | None = None
    """mining=distance-weighted: the seed of its draws; the run's seed when left open."""

    normalize: bool = False
    """triplet and contrastive: compare rows of length 1. The encoder does that already, unless it is told not to, and \
then evaluation and search would compare other rows: so this is refused there."""

    statistics: Literal["free", "full"] = "free"
    """full: the history also counts hard, semi-hard and easy triplets, which takes another look at all distances."""

    implementation: str = "auto"
    """What computes the loss: auto, or an implementation by its name, such as torch."""


@dataclass(frozen=True)
class BatchOptions:
    """What goes into a batch."""

    classes_per_batch: int = 32
    """P: how many classes a batch holds (labelled data)."""

    samples_per_class: int = 4
    """K: how many samples of each class a batch holds (labelled data)."""

    rows_per_batch: int = 64
    """How many triplets or pairs a batch holds (tables of triplets or pairs), or how many items without labels."""

    singletons: Literal["negatives", "drop"] = "negatives"
    """A class with one sample serves as negatives only, or is dropped."""

    class_sampling: Literal["size", "root", "class"] = "size"
    """How often classes are sampled (labelled data): by their size, so that all samples come equally often; by the \
root of it; or all classes equally often."""

    mine_every: int = 0
    """Every so many epochs, mine triplets over the whole training set by the rules of --mine, and make batches of \
their items (labelled data); never if 0."""

    memory: int = 0
    """How many embeddings of earlier batches are kept as further positives and negatives (cross-batch memory); none \
if 0."""

    memory_warmup: int | None = None
    """How many batches the memory only takes in, before the loss looks at it: at first an encoder changes fast. A \
tenth of the run when left open."""

    momentum: float = 0.0
    """With a memory: what it keeps comes from a copy of the encoder that follows it by a moving average with this \
momentum, such as 0.999; from the encoder itself if 0."""

    batch_size: int | None = None
    """How many items a batch holds, instead of classes_per_batch, which follows from it; or how many rows of a table \
of triplets or pairs. With views, each item is there so many times."""

    views: int = 1
    """How many times each item is in its batch, changed anew each time: 2 or more learn from items without labels, \
where an item's views are what is alike. Images differ by augmentation, texts by the encoder's dropout, rows of \
numbers by corruption."""

    corruption: float | None = None
    """With views of a table of numbers: the share of the features that take the value of another row, in all views of \
an item but its first; 0.6 when left open."""

    chunk: int | None = None
    """How many items the encoder takes at a time, at most; a larger batch goes through it in parts, and twice. When \
left open: found from the free memory if batch_size is given, otherwise the whole batch."""


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
    """The validation metric that chooses the best checkpoint: by default map_at_r where that data holds classes or \
pairs, triplet_accuracy for triplets, auc for pairs marked similar or not. loss is the loss of all validation items \
taken as one batch, which still tells checkpoints apart where few classes are easily told apart."""

    mining_schedule: str | None = None
    """triplet: minings that follow each other, each with the share of the steps that it begins at, such as \
easy-positive:0,semihard:0.3,hard:0.7; instead of mining."""

    matryoshka: tuple[int, ...] = ()
    """Lengths of prefixes of an embedding, such as 384 192 96 48, over which the loss is summed, so that each serves \
by itself; the longest is the whole."""

    matryoshka_weights: tuple[float, ...] = ()
    """With matryoshka: what the loss of each length counts; all alike when left open."""

    on_collapse: Literal["warn", "stop", "remedy"] = "warn"
    """What to do when the training is seen to fail: warn once; stop, where going on is in vain; or, of a collapse to \
a point, go on from the weights of the start with a lower learning rate and milder mining."""

    threshold_target: float | str = "eer"
    """The threshold for same or different, on validation data: eer, where both errors are equal; f1, where F1 is \
greatest; or far=0.001, where the false accept rate is at most this."""

    seed: int = 0
    """Equal seeds give equal runs, to the byte, on the same machine with the same number of threads."""

    record_learned: bool = False
    """Record at each evaluation which training items are learned, for a later curriculum (labelled data); each time \
the training set is embedded and searched."""

    init: str | None = None
    """A run to start from: its encoder and weights, instead of new ones."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""

    workers: int = 0
    """Processes that load a torch Dataset, or images that do not fit into memory, ahead of the step; with 0 a thread \
does for images, and a dataset is loaded in turn."""

    tensorboard: bool = False
    """Write the figures for TensorBoard too, to the run's folder tensorboard/."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """What the encoder computes in while it trains: with bfloat16 its products. Weights, loss and evaluation are \
float32."""


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
    mine: MiningOptions = field(default_factory=MiningOptions)
    curriculum: CurriculumOptions = field(default_factory=CurriculumOptions)
    custom_loss: str | None = None
    """A loss that the options cannot make again, for the record: the class of the user's own, or one of Tercet's with \
margins per class or a map. Of the user's own, the loss options give the distance alone."""
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
    config = config_from_mapping(mapping, str(path), partial=False)
    missing = _left_open(config)
    if missing:
        raise ConfigError(f"{path}: loss: the key {missing[0]!r} is missing.")
    return config


def named_run(option: str, path: str) -> Path:
    """The folder of the run that an option names.

    Raises:
        RunError: there is none.
    """
    if not path or not (Path(path) / "config.toml").exists():
        raise RunError(f"{option} names {path or 'an empty path'}, and there is no run: it holds no config.toml.")
    return Path(path)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, with errors that name it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.") from None
    except OSError as cause:
        raise ConfigError(f"{path} cannot be read: {cause.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise ConfigError(f"{path} is not valid TOML: {cause}.") from None


def read_partial_config(path: Path) -> Config:
    """Read a config.toml that may hold only some of the settings; the others take their defaults."""
    mapping = read_toml(path)
    encoder = mapping.get("encoder", {})
    if isinstance(encoder, dict) and "kind" not in encoder:
        data = mapping.get("data", {})
        encoder = {"kind": data.get("kind", "image") if isinstance(data, dict) else "image", **encoder}
    changes = mapping.get("augmentation")
    if isinstance(changes, dict) and "preset" in changes:
        named = {name: value for name, value in changes.items() if name != "preset"}
        mapping = {**mapping, "augmentation": to_mapping(preset(changes["preset"])) | named}
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


def _out_of_range(data: DataOptions, loss: LossOptions, batch: BatchOptions, training: TrainingOptions) -> list[str]:
    """Every value out of range, in words; found together so that the user mends them together."""
    rules: list[tuple[str, Any, bool, str]] = [
        ("holdout", data.holdout, 0 < data.holdout < 1, "between 0 and 1"),
        ("label_level", data.label_level, data.label_level is None or data.label_level >= 1, "1 or more"),
        ("p", loss.p, loss.p is None or 1 <= loss.p < math.inf, "a finite number, 1 or more"),
        ("classes_per_batch", batch.classes_per_batch, batch.classes_per_batch >= 2, "2 or more"),
        ("samples_per_class", batch.samples_per_class, batch.samples_per_class >= 2, "2 or more"),
        ("rows_per_batch", batch.rows_per_batch, batch.rows_per_batch >= 2, "2 or more"),
        ("batch_size", batch.batch_size, batch.batch_size is None or batch.batch_size >= 2, _size_allowed(batch)),
        ("chunk", batch.chunk, batch.chunk is None or batch.chunk >= 1, "1 or more"),
        ("mine_every", batch.mine_every, batch.mine_every >= 0, "0 or more"),
        ("memory", batch.memory, batch.memory >= 0, "0 or more"),
        ("memory_warmup", batch.memory_warmup, batch.memory_warmup is None or batch.memory_warmup >= 0, "0 or more"),
        ("views", batch.views, batch.views >= 1, "1 or more"),
        (
            "corruption",
            batch.corruption,
            batch.corruption is None or 0 <= batch.corruption < 1,
            "0 or more and below 1",
        ),
        ("momentum", batch.momentum, 0 <= batch.momentum < 1, "0 or more and below 1"),
        ("steps", training.steps, training.steps is None or training.steps >= 1, "1 or more"),
        ("epochs", training.epochs, training.epochs is None or training.epochs >= 1, "1 or more"),
        ("weight_decay", training.weight_decay, 0 <= training.weight_decay < math.inf, "a finite number, 0 or more"),
        ("warmup", training.warmup, 0 <= training.warmup < 1, "0 or more and below 1"),
        ("clip_norm", training.clip_norm, training.clip_norm >= 0, "0 or more"),
        ("patience", training.patience, training.patience >= 0, "0 or more"),
        ("workers", training.workers, training.workers >= 0, "0 or more"),
    ]
    rate = training.learning_rate
    rules.append(
        ("learning_rate", rate, rate is None or 0 < rate < LARGEST_RATE, f"above 0 and below {LARGEST_RATE:g}")
    )
    for options, name in ((training, "evaluate_every"), (loss, "temperature")):
        value = getattr(options, name)
        rules.append((name, value, value is None or 0 < value < math.inf, "a finite number above 0"))
    for name in ("margin", "positive_margin"):
        value = getattr(loss, name)
        rules.append((name, value, value is None or 0 <= value < math.inf, "a finite number, 0 or more"))
    for name, value in (("seed", training.seed), ("draw_seed", loss.draw_seed)):
        rules.append((name, value, value is None or 0 <= value < 2**63, "0 or more and below 2**63"))
    target = training.threshold_target
    rules.append(("threshold_target", target, is_target(target), ALLOWED))
    return [f"{name} is {given!r}, it must be {allowed}" for name, given, good, allowed in rules if not good]


def _size_allowed(batch: BatchOptions) -> str:
    least = 2 * max(batch.samples_per_class, 2)
    return f"2 or more, and of labelled data {least} or more: 2 classes of samples_per_class each"


def _faults(config: Config) -> list[str]:
    """Everything that is wrong with the settings by themselves, in words."""
    data, loss, batch, training = config.data, config.loss, config.batch, config.training
    faults = _out_of_range(data, loss, batch, training)
    faults += _unlike_batch_size(batch) + _idle_without_memory(batch)
    if config.mine != MiningOptions() and not batch.mine_every:
        faults.append("rules of mine are given, and nothing is mined without mine_every; give mine_every too")
    faults += misplaced(loss) + _unscheduled(config) + config.curriculum.faults() + _unpaced(config)
    if data.validation is not None:
        usual = DataOptions()
        faults += [
            f"{name} is {getattr(data, name)!r} and validation is given, so nothing is held out; give one of them"
            for name in ("holdout", "holdout_by")
            if getattr(data, name) != getattr(usual, name)
        ]
    if batch.corruption is not None and batch.views == 1:
        faults.append("corruption does nothing without views; give views too, such as 2")
    if loss.distance == "mahalanobis" and config.custom_loss is None:
        faults.append(NO_MAP)
    faults += _unlike_prefixes(config)
    if training.steps is not None and training.epochs is not None:
        faults.append(f"steps is {training.steps} and epochs is {training.epochs}; give one of them")
    return faults


def _unlike_prefixes(config: Config) -> list[str]:
    """What is wrong with the prefixes that the loss is summed over, in words."""
    lengths, weights = config.training.matryoshka, config.training.matryoshka_weights
    if not lengths:
        return ["matryoshka_weights does nothing without matryoshka; give matryoshka too"] if weights else []
    faults = []
    if min(lengths) < 1 or len(set(lengths)) < len(lengths):
        faults.append(f"matryoshka is {lengths}, it must be lengths of 1 or more, each once")
    if weights and (len(weights) != len(lengths) or not all(0 < weight < math.inf for weight in weights)):
        faults.append(f"matryoshka_weights is {weights}, it must be a finite number above 0 for each of {lengths}")
    if config.batch.memory:
        faults.append("matryoshka compares prefixes of a batch, and memory keeps whole embeddings; give one of them")
    return faults


def _unpaced(config: Config) -> list[str]:
    """Settings that say something else than a curriculum which steps are of what, in words."""
    if config.curriculum.pacing is None:
        return []
    faults = []
    if config.training.epochs is not None:
        faults.append("curriculum.pacing is by steps, and epochs is given; give steps instead")
    if config.batch.mine_every:
        faults.append("curriculum.pacing and mine_every both say which items make a batch; give one of them")
    return faults


def _unscheduled(config: Config) -> list[str]:
    """Why the mining cannot follow the schedule, if there is one, in words."""
    loss, text = config.loss, config.training.mining_schedule
    if text is None:
        return []
    try:
        first = parse_schedule(text).stages[0][0]
    except ConfigError as fault:
        return [str(fault).rstrip(".")]
    faults = []
    if loss.loss not in (None, "triplet") or (loss.loss is None and config.custom_loss is not None):
        named = repr(loss.loss) if loss.loss else config.custom_loss
        faults.append(f"mining_schedule belongs to loss='triplet' and the loss is {named}")
    elif loss.mining not in (None, first):
        faults.append(
            f"mining is {loss.mining!r} and mining_schedule begins with {first!r}; leave mining out, or give it to a "
            "loss object as the schedule begins"
        )
    if config.training.selection == "loss":
        faults.append("selection is 'loss', which mining_schedule makes another from stage to stage; choose a metric")
    return faults


def sized(batch: BatchOptions, form: str) -> BatchOptions:
    """The options with what follows from the batch size for data of this form.

    Raises:
        ConfigError: another option says otherwise, or a batch of that size would hold a single class.
    """
    if batch.batch_size is None:
        return batch
    faults = _unlike_batch_size(batch)
    if faults:
        raise ConfigError("; ".join(faults) + ".")
    if form not in LABELLED:
        return dataclasses.replace(batch, rows_per_batch=batch.batch_size)
    classes = batch.batch_size // max(batch.samples_per_class, 1)
    if classes < 2:
        raise ConfigError(
            f"batch_size is {batch.batch_size}, which is fewer than 2 classes of {batch.samples_per_class} samples "
            f"(samples_per_class); it must be {2 * batch.samples_per_class} or more."
        )
    return dataclasses.replace(batch, classes_per_batch=classes)


def _idle_without_memory(batch: BatchOptions) -> list[str]:
    """Options of the memory that do nothing where there is none, in words."""
    given = {"memory_warmup": batch.memory_warmup is not None, "momentum": batch.momentum > 0}
    idle = [] if batch.memory else [name for name, is_so in given.items() if is_so]
    return [f"{name} does nothing without memory; give memory too" for name in idle]


def _unlike_batch_size(batch: BatchOptions) -> list[str]:
    """Options that say something else than the batch size, in words."""
    size, defaults = batch.batch_size, BatchOptions()
    if size is None:
        return []
    follows = {"classes_per_batch": size // max(batch.samples_per_class, 1), "rows_per_batch": size}
    return [
        f"batch_size is {size} and {name} is {given}, where {value} follows from it; give one of them"
        for name, value in follows.items()
        if (given := getattr(batch, name)) not in (value, getattr(defaults, name))
    ]


def misplaced(loss: LossOptions) -> list[str]:
    """Options that would do nothing beside the others, in words; those of another loss only once the loss is known."""
    defaults = LossOptions()
    given = [name for name in field_names(LossOptions) if getattr(loss, name) != getattr(defaults, name)]
    faults = []
    if loss.loss is not None:
        for name in given:
            if name not in ("loss", *SETTINGS[loss.loss]):
                owners = [owner for owner, names in SETTINGS.items() if name in names]
                faults.append(_belongs(loss, name, "loss", owners, loss.loss))
    for name, word, values in _BELONGS:
        decided = getattr(loss, word) or _when_open(loss, word)
        if name in given and decided is not None and decided not in values:
            faults.append(_belongs(loss, name, word, values, decided))
    return faults


def _when_open(loss: LossOptions, word: str) -> str | None:
    """What an option is that is left open; None where it depends on what the data holds."""
    if word == "distance":
        return "cosine" if loss.loss in ("infonce", "supcon") else "euclidean"
    if loss.loss != "triplet" or (word == "penalty" and loss.margin is None and loss.mining is None):
        return None
    return {"penalty": "hinge", "mining": "all"}[word]


def _belongs(loss: LossOptions, name: str, word: str, owners: Iterable[str], chosen: str) -> str:
    listed = " or ".join(repr(owner) for owner in owners)
    return f"{name} is {getattr(loss, name)!r}, but it belongs to {word}={listed} and the {word} is {chosen!r}"


def _left_open(config: Config) -> list[str]:
    """Loss options that the configuration of a run must hold, and this one does not."""
    loss = config.loss
    if loss.loss is None:
        needed: tuple[str, ...] = ("loss",) if config.custom_loss is None else ("distance",)
    else:
        needed = _COMPLETE[loss.loss]
    optional = ("margin",) if config.custom_loss is not None else ()  # margins per class are the object's
    return [name for name in needed if getattr(loss, name) is None and name not in optional]


def option_groups() -> dict[str, type]:
    """The groups whose fields can be given by name alone: `tercet.train(..., steps=300)`."""
    return {"data": DataOptions, "loss": LossOptions, "batch": BatchOptions, "training": TrainingOptions}


def field_names(options: type) -> list[str]:
    """The names of the fields of an options class."""
    return [entry.name for entry in dataclasses.fields(options)]
