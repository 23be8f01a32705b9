"""Any of Tercet's encoders trained with any loss, as a transformer of scikit-learn's.

Shapes: N items, F features, D the length of an embedding.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import nn

from tercet.data.readers import read
from tercet.data.records import Records
from tercet.data.wishes import KINDS
from tercet.encoders.custom import CustomEncoder
from tercet.errors import DataError, InputError
from tercet.estimators.folders import packed, save_run, unpacked
from tercet.estimators.items import classes_of, few, listed, numbers
from tercet.evaluation import evaluate_embeddings
from tercet.training.config import ENCODERS, Config, LossOptions, config_from_mapping, field_names, read_config
from tercet.training.model import Model
from tercet.training.objective.loss import LOSS_FILE, make_distance, make_loss
from tercet.training.objective.loss_state import read_state, restore_state
from tercet.training.reporter import ConsoleReporter, Reporter
from tercet.training.request import base_request, make_request
from tercet.training.session import run_session

NAMED = (
    "margin", "mining", "distance", "penalty", "temperature", "steps", "epochs", "learning_rate", "classes_per_batch",
    "samples_per_class", "patience", "device",
)  # fmt: skip
"""Parameters that are options of `tercet.train` by the same name."""
TAKEN = {"seed": "random_state", "holdout": "validation_fraction", "validation": "validation_fraction"}
"""Options that have a parameter of another name here."""
OF_VALIDATION = ("patience", "evaluate_every", "selection", "holdout_by")
NEVER = 10**9  # steps between evaluations where nothing is held out: then only the last step is looked at
FLATTERS = "figures on them flatter the model"  # of validation rows that were trained on: here they only stand in
TRAINED = "the loss has been trained before"  # so it has, where partial_fit goes on


class TripletEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Embeddings under which items of a class are near one another, learned by an encoder with triplets.

    X is a table of numbers (an array, a data frame), a list or a column of texts, of paths of images, or of images.
    What is learned is what `tercet.train` learns with the same settings; None leaves a setting to its default there.

    The fitted object holds the weights as bytes, not as code: it can be copied, pickled and kept by skops, and needs no
    folder. Time and memory of a fit are those of the training; of `transform` a pass through the encoder.

    Args:
        encoder: `tabular`, `text` or `image`, or options such as `ImageOptions(dim=64)`; by X when None. Or an encoder
            of your own: a module, of which each fit trains a copy, or "package.module:factory".
        encoder_arguments: what the factory, or the class of the module, is called with.
        dim: D, with one of Tercet's encoders by its name.
        normalize: whether embeddings have length 1, with one of Tercet's encoders by its name.
        loss: `triplet`, `contrastive`, `infonce` or `supcon`, one of Tercet's losses as an object, or any
            loss(embeddings, labels); each fit trains a copy of an object.
        margin: this and all to temperature are the loss's, where it is given by its name.
        mining: which triplets of a batch count.
        distance: between embeddings, also in `score`.
        penalty: what a triplet costs that violates the margin.
        temperature: how sharply the nearest is preferred.
        steps: batches to train on.
        epochs: times to go through the data, instead of steps.
        learning_rate: its peak.
        classes_per_batch: P.
        samples_per_class: K.
        validation_fraction: the share of each class to hold out, by which the best weights of the fit are chosen. None
            trains on all rows and takes the last weights.
        patience: stop after so many evaluations without a better one, with validation_fraction.
        augmentation: random changes of training images.
        options: any other option of `tercet.train` by its name, such as {"weight_decay": 0.1, "batch_size": 256}.
        out: a folder for the run, with checkpoints, for as long as it trains and after; by default a temporary one.
        device: `auto`, `cpu`, `cuda`, ...
        tracker: called as tracker(step, figures) with what each step measures.
        random_state: decides the first weights, the batches and what is held out.
        verbose: 1 shows progress on stderr.

    Attributes:
        classes_: labels seen, sorted.
        n_steps_: steps trained, all calls of partial_fit together.
        files_: the run's files by their names: config.toml, model.safetensors, ...
        metrics_: figures of the rows held out, such as "validation.map_at_r"; empty without validation_fraction.
        n_features_in_: F, of a table.
        feature_names_in_: of shape (F,), of a data frame with names.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> import tercet
        >>> X, y = load_wine(return_X_y=True)
        >>> tercet.TripletEmbedder(dim=2, steps=5, random_state=0).fit(X, y).transform(X).shape
        (178, 2)
    """

    n_steps_: int

    def __init__(
        self,
        encoder: Any = None,
        *,
        encoder_arguments: Mapping[str, Any] | None = None,
        dim: int | None = None,
        normalize: bool | None = None,
        loss: Any = None,
        margin: float | None = None,
        mining: str | None = None,
        distance: str | None = None,
        penalty: str | None = None,
        temperature: float | None = None,
        steps: int | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        classes_per_batch: int | None = None,
        samples_per_class: int | None = None,
        validation_fraction: float | None = None,
        patience: int | None = None,
        augmentation: Any = None,
        options: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        device: str = "auto",
        tracker: Any = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.encoder = encoder
        self.encoder_arguments = encoder_arguments
        self.dim = dim
        self.normalize = normalize
        self.loss = loss
        self.margin = margin
        self.mining = mining
        self.distance = distance
        self.penalty = penalty
        self.temperature = temperature
        self.steps = steps
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.classes_per_batch = classes_per_batch
        self.samples_per_class = samples_per_class
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.augmentation = augmentation
        self.options = options
        self.out = out
        self.device = device
        self.tracker = tracker
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> TripletEmbedder:
        """Train a new encoder on items X with labels y of shape (N,); returns self.

        Raises:
            InputError: a setting that is not allowed or would do nothing. It is a ValueError, as is DataError.
            DataError: items that cannot be used, a single class, no class with two items.
            RunError: `out` exists already.
            KeyboardInterrupt: the training was interrupted.
        """
        records, labels = self._records(X, y, reset=True)
        folder = None if self.out is None else Path(self.out)
        with _work() as work:
            self._train(records, folder or work / "run", before=None, rounds=0)
        self.classes_ = np.unique(labels)
        return self

    def partial_fit(self, X: Any, y: Any) -> TripletEmbedder:
        """Train on with items X and labels y, from the weights so far, or as `fit` where there are none; returns self.

        Each call is a training of its own, of as many steps and with a learning rate that rises and falls; the batches
        differ from call to call. Labels may be new. Arguments and errors are those of `fit`.
        """
        if not hasattr(self, "files_"):
            return self.fit(X, y)
        if self.out is not None:
            raise InputError("out is given, and partial_fit has no folder of its own; use save(out) at the end.")
        records, labels = self._records(X, y, reset=False)
        with _work() as work:
            unpacked(self.files_, work / "before")
            self._train(records, work / "run", before=work / "before", rounds=self._rounds)
        self.classes_ = np.union1d(self.classes_, labels)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embeddings of items X, float32 of shape (N, D).

        Raises:
            DataError: an item that cannot be read.
        """
        check_is_fitted(self, "files_")
        embedded = self._fitted().embed(self._known_items(X))
        if embedded.unreadable:
            place, reason = embedded.unreadable[0]
            raise DataError(f"item {place} of X cannot be read: {reason}.")
        return embedded.vectors

    def score(self, X: Any, y: Any) -> float:
        """MAP@R of items X among themselves, from 0 to 1: how much of each item's nearest are of its label y.

        It is the figure by which a training chooses its checkpoint; docs/metrics.md has the definition. With rows of
        classes that the fit did not see, it tells how well embeddings of new classes part.

        Raises:
            InputError: no class has two items.
        """
        vectors = self.transform(X)
        codes = np.unique(classes_of(y, len(vectors)), return_inverse=True)[1]
        found = evaluate_embeddings(vectors, codes, distance=self._distance(), intervals=False, max_pairs=1000)
        value = found.metrics["map_at_r"]
        if value is None:
            raise InputError("y holds no class with two items, so no item has another to find; give more items.")
        return float(value)

    def save(self, out: str | Path, *, validation: Any = None) -> Path:
        """Write a run folder, which `tercet.load` and every command takes; returns its path.

        Args:
            out: the folder, which must not exist yet.
            validation: (X, y), or whatever training takes, that the fit has not seen: it calibrates the threshold for
                same or different. Without it the threshold is that of the rows held out, if any were.

        Raises:
            RunError: the folder is in the way.
        """
        check_is_fitted(self, "files_")
        if isinstance(validation, tuple) and len(validation) == 2:
            items = self._known_items(validation[0])
            labels = classes_of(validation[1], len(items))
            validation = self._as_records(items, labels, self._config().data.kind)
        return save_run(self.files_, out, validation, self.device, self._module())

    @property
    def _n_features_out(self) -> int:
        return self._width

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_model"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        kind = getattr(self.encoder, "kind", self.encoder)
        if kind in ("text", "image"):
            tags.input_tags.string, tags.input_tags.two_d_array = True, False
            tags.input_tags.three_d_array = kind == "image"
        return tags

    def _train(self, records: Records, folder: Path, before: Path | None, rounds: int) -> None:
        """Train in a folder and keep what it holds."""
        source: Any = records
        request = make_request(
            base_request(source, None, folder, False), self._encoder(records.kind, before), self.encoder_arguments,
            self._loss(before), None if self.validation_fraction is not None else few(records), self.augmentation,
            options=self._options(before, rounds),
        )  # fmt: skip
        if before is not None and isinstance(encoder := self._fitted().encoder, CustomEncoder):
            own = {"custom": self._fitted().options}
            request = dataclasses.replace(request, encoders=own, module=copy.deepcopy(encoder.network))
        request = dataclasses.replace(request, tracker=self.tracker)
        outcome = run_session(request, folder, False, self._reporter(before is not None))
        if outcome.reason == "interrupted":
            raise KeyboardInterrupt
        self.files_ = packed(folder, measured=self.validation_fraction is not None)
        self.metrics_ = self._measured()
        self.n_steps_ = outcome.steps + (self.n_steps_ if before is not None else 0)
        self._rounds = rounds + 1
        self._model = self._opened(folder)
        self._width = int(self._model.embed(records.items[:1]).vectors.shape[1])

    def _reporter(self, goes_on: bool) -> Reporter:
        reporter = _ToldAloud() if self.verbose else _Told()
        reporter.meant = (*((FLATTERS,) if self.validation_fraction is None else ()), *((TRAINED,) if goes_on else ()))
        return reporter

    def _options(self, before: Path | None, rounds: int) -> dict[str, Any]:
        """The options of `tercet.train`.

        Raises:
            InputError: one that has a parameter, or that would do nothing.
        """
        others = dict(self.options or {})
        for name in others:
            if name in (*NAMED, *TAKEN, "loss", "init"):
                where = f"a parameter of its own, {TAKEN.get(name, name)}" if name != "init" else "partial_fit for it"
                raise InputError(f"options holds {name!r}, and {type(self).__name__} has {where}.")
        given = {name: getattr(self, name) for name in NAMED} | others
        found = {name: value for name, value in given.items() if value is not None}
        idle = [name for name in OF_VALIDATION if name in found]
        if self.validation_fraction is None:
            if idle:
                raise InputError(f"{', '.join(idle)} would do nothing without validation_fraction; give it too.")
            found["evaluate_every"] = NEVER
        else:
            found["holdout"] = float(self.validation_fraction)
            found.setdefault("holdout_by", "row")
        if isinstance(self.loss, str):
            found["loss"] = self.loss
        if before is not None and self._config().encoder.kind != "custom":
            found["init"] = str(before)
        if before is not None and (before / LOSS_FILE).exists():  # then the loss is given as an object
            found = {name: value for name, value in found.items() if name not in field_names(LossOptions)}
        seed = int(check_random_state(self.random_state).randint(2**31 - 1)) + rounds
        return found | {"seed": seed}

    def _encoder(self, kind: str, before: Path | None) -> Any:
        """What `tercet.train` takes as encoder; one of a user's own is copied, so that the parameter stays as it is."""
        own = {name: value for name in ("dim", "normalize") if (value := getattr(self, name)) is not None}
        if self.encoder is None or self.encoder in KINDS:
            if before is None:
                return ENCODERS[kind](**own)
            trained = read_config(before / "config.toml").encoder
            if dataclasses.replace(trained, **own) != trained:
                raise InputError(f"{own} are not those of the encoder so far, {trained}; leave them, or fit anew.")
            return trained
        if own:
            raise InputError(
                f"{' and '.join(own)} belong to an encoder of Tercet's by its name; give them to the encoder itself."
            )
        return copy.deepcopy(self.encoder)

    def _loss(self, before: Path | None) -> Any:
        """A copy of the loss that is given as an object, or None; going on, it holds what it had learned."""
        given = None if isinstance(self.loss, str) else copy.deepcopy(self.loss)
        if before is None or not (before / LOSS_FILE).exists():
            return given
        found = make_loss(self._config().loss) if given is None else given
        restore_state(found, before / LOSS_FILE)
        return found

    def _records(self, X: Any, y: Any, reset: bool) -> tuple[Records, np.ndarray]:
        """The items with their labels, and these."""
        kind = self._kind_asked() if reset else self._config().data.kind
        items: Any = listed(X)
        if items is None:
            wanted = {} if y is None else {"y": y}
            items = numbers(self, X, reset=reset, ensure_min_samples=2, **wanted)
        elif reset:
            for name in ("n_features_in_", "feature_names_in_"):  # of an earlier fit, of a table
                self.__dict__.pop(name, None)
        labels = classes_of(y, len(items))
        return self._as_records(items, labels, kind), labels

    def _as_records(self, items: Any, labels: np.ndarray, kind: str | None) -> Records:
        records = read((items, [str(label) for label in labels]), kind=kind)
        if records.kind == "tabular" and hasattr(self, "feature_names_in_"):
            return dataclasses.replace(records, columns=tuple(map(str, self.feature_names_in_)))
        return records

    def _kind_asked(self) -> str | None:
        """The kind of items that the encoder says, if it says one."""
        kind = self.encoder if isinstance(self.encoder, str) else getattr(self.encoder, "input", None)
        return kind if kind in KINDS else None

    def _known_items(self, X: Any) -> Any:
        """X as the fitted encoder takes it."""
        kind, items = self._config().data.kind, listed(X)
        if kind == "tabular":
            return numbers(self, X, reset=False)
        if items is None:
            raise InputError(f"X holds no {kind}s, and the fit was of {kind}s; give a list of them.")
        return items

    def _config(self) -> Config:
        return config_from_mapping(tomllib.loads(self.files_["config.toml"].decode()), "config.toml", partial=False)

    def _distance(self) -> Any:
        with _work() as work:
            unpacked(self.files_, work)
            return make_distance(self._config().loss, read_state(work / LOSS_FILE))

    def _measured(self) -> dict[str, Any]:
        return json.loads(self.files_.get("metrics.json", b"{}"))

    def _module(self) -> nn.Module | None:
        return copy.deepcopy(self.encoder) if isinstance(self.encoder, nn.Module) else None

    def _fitted(self) -> Model:
        """The model; an object that was copied or unpickled builds it again."""
        if not hasattr(self, "_model"):
            with _work() as work:
                unpacked(self.files_, work)
                self._model = self._opened(work)
        return self._model

    def _opened(self, folder: Path) -> Model:
        return Model.load(read_config(folder / "config.toml").encoder, folder, self.device, self._module())


class _Told(Reporter):
    """Leaves out the warnings of a session that hold words of what is meant to be so here."""

    meant: tuple[str, ...] = ()

    def warn(self, sentence: str) -> None:
        """Pass the sentence on."""
        if not any(words in sentence for words in self.meant):
            super().warn(sentence)


class _ToldAloud(_Told, ConsoleReporter):
    """The same on stderr."""


@contextlib.contextmanager
def _work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tercet-") as name:
        yield Path(name)
